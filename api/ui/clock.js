// The stages of a job while it is worked on, with their seconds.

import { announce, byId, make, seconds } from "./dom.js";

const STEPS = { sending: "Send", queued: "Wait for a worker", processing: "Segment", completed: "Done" };
const WORDS = { sending: "Sending", queued: "Waiting for a worker", processing: "Segmenting" };

/** Counts the seconds of each step while a job runs. */
export class Clock {
  /** `step` is the one that the job is at, `model` the name of what works on it, if that is known. */
  constructor(step, model) {
    this.began = { [step]: performance.now() };
    this.enter(step, model);
    this.timer = setInterval(() => this.show(), 100);
  }

  enter(step, model = this.model) {
    this.model = model;
    if (this.step !== step) {
      this.step = step;
      this.began[step] ??= performance.now();
      byId("headline").textContent = WORDS[step];
      byId("subline").textContent = this.model ?? "";
      announce(WORDS[step]);
    }
    this.show();
  }

  /** Enters the step of an event, and shows a SAM-2's points. */
  follow(event) {
    if (!["queued", "processing"].includes(event.status)) return;
    this.enter(event.status);
    const points = event.total ? `${event.done} of ${event.total} points` : "";
    byId("subline").textContent = [this.model, points].filter(Boolean).join(" · ");
  }

  show() {
    const names = Object.keys(STEPS).filter((name) => name !== "sending" || this.began.sending);
    const now = performance.now();
    const rows = names.map((name, place) => {
      const began = this.began[name];
      const end = names.slice(place + 1).map((next) => this.began[next]).find(Boolean) ?? now;
      const item = make("li", { className: name === this.step ? "now" : began ? "done" : "" }, STEPS[name]);
      if (names.indexOf(this.step) > place) item.className = "done";
      item.append(make("span", {}, began ? seconds((end - began) / 1000) : ""));
      if (name === this.step) item.setAttribute("aria-current", "step");
      return item;
    });
    byId("steps").replaceChildren(...rows);
    byId("pill").textContent = `${byId("headline").textContent} · ${seconds((now - Math.min(...Object.values(this.began))) / 1000)}`;
  }

  stop() {
    clearInterval(this.timer);
  }
}
