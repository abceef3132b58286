// The model and its parameters, as `GET /models` describes them.

import { byId, make } from "./dom.js";

const CHOSEN = "seg-pipeline-model";
const ASKING = "seg-pipeline-asking";
const RESIZE = {
  name: "resize", type: "integer", minimum: 1, maximum: 8192, default: null,
  description: "The longer side of the cut-outs in pixels; their own size if empty.",
};

export class Options {
  /** `onChange()` is told of every change, `onAsking()` when prompts begin or end. */
  constructor(onChange, onAsking) {
    this.onAsking = onAsking;
    this.models = [];
    this.values = {};
    this.onChange = onChange;
    byId("model").addEventListener("change", (event) => {
      localStorage.setItem(CHOSEN, event.target.value);
      const wasAsking = this.isAsking;
      this.choose(event.target.value);
      if (wasAsking !== this.isAsking) this.onAsking();
    });
    byId("reset").addEventListener("click", () => this.choose(this.model.name));
    byId("asking").checked = localStorage.getItem(ASKING) === "yes";
    byId("asking").addEventListener("change", (event) => {
      localStorage.setItem(ASKING, event.target.checked ? "yes" : "no");
      this.onAsking();
    });
  }

  /** Takes the models, and chooses the one of last time or the default. */
  take(models) {
    this.models = models;
    byId("model").replaceChildren(...models.map((model) => make("option", { value: model.name }, titleOf(model))));
    const known = models.some(({ name }) => name === localStorage.getItem(CHOSEN));
    this.choose(known ? localStorage.getItem(CHOSEN) : models[0].name);
  }

  choose(name) {
    this.model = this.models.find((model) => model.name === name) ?? this.models[0];
    this.values = {};
    byId("model").value = this.model.name;
    byId("summary").textContent = this.model.summary;
    byId("asking-row").hidden = !this.model.takes_prompts;
    byId("parameters").replaceChildren(...[...this.model.parameters, RESIZE].map((each) => this.row(each)));
    this.changed();
  }

  /** Whether what a person points at is to be masked, instead of everything. */
  get isAsking() {
    return Boolean(this.model?.takes_prompts) && byId("asking").checked;
  }

  /** What a request for a prompt must say. */
  prompted(parameters) {
    return { rle: true, ...(this.model.is_default ? {} : { model: this.model.name }), parameters };
  }

  /** What a request must say: the model unless it is the default, and what was changed. */
  request() {
    const { resize, ...parameters } = this.values;
    const request = { rle: true };
    if (this.model && !this.model.is_default) request.model = this.model.name;
    if (Object.keys(parameters).length) request.parameters = parameters;
    if (resize) request.resize = resize;
    return request;
  }

  row(parameter) {
    const id = `parameter-${parameter.name}`;
    const row = make("div", { className: "parameter" }, make("label", { htmlFor: id }, titled(parameter.name)));
    const about = make("p", { id: `${id}-about` }, parameter.description);
    const inputs = parameter.type === "boolean" ? [this.choice(parameter)] : this.numbers(parameter);
    inputs[0].id = id;
    for (const input of inputs) {
      input.setAttribute("aria-describedby", about.id);
      input.addEventListener("input", () => {
        this.set(parameter, input.value, input.validity.valid);
        for (const other of inputs) if (other !== input) other.value = input.value || parameter.default;
        row.classList.toggle("changed", parameter.name in this.values);
      });
    }
    row.append(...inputs, about);
    return row;
  }

  choice({ default: value }) {
    const option = (each) => make("option", { value: String(each), selected: each === value }, each ? "yes" : "no");
    return make("select", {}, option(true), option(false));
  }

  numbers({ name, type, minimum, maximum, default: value }) {
    const step = type === "integer" ? 1 : "any";
    const limits = { min: minimum, max: maximum, step };
    const number = make("input", { type: "number", inputMode: "decimal", ...limits, value: value === null ? "" : round(value), placeholder: value === null ? "own size" : String(round(value)) });
    if (type !== "number" || maximum - minimum > 1) return [number];
    const slider = make("input", { type: "range", ...limits, step: 0.01, value: round(value) });
    slider.setAttribute("aria-label", titled(name));
    return [number, slider];
  }

  set({ name, type, default: value }, text, isValid) {
    const read = type === "boolean" ? text === "true" : Number(text);
    if (text === "" || !isValid || read === value || read === round(value)) delete this.values[name];
    else this.values[name] = read;
    this.changed();
  }

  changed() {
    const changes = Object.keys(this.values).length;
    byId("changed").hidden = byId("reset").hidden = !changes;
    byId("changed").textContent = changes ? `${changes} changed` : "";
    this.onChange();
  }
}

const round = (value) => Number(Number(value).toFixed(4));
const titled = (name) => {
  const words = name.replaceAll("_", " ").replace(/^pred /, "predicted ").replace(/thresh$/, "threshold")
    .replace("iou", "IoU").replace("nms", "NMS").replace("m2m", "mask to mask").replace(" n ", " ").replace(/^min /, "smallest ");
  return words.charAt(0).toUpperCase() + words.slice(1);
};

function titleOf(model) {
  const notes = [model.is_default && "default", model.is_loaded && "loaded"].filter(Boolean);
  return notes.length ? `${model.name} (${notes.join(", ")})` : model.name;
}
