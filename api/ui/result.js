// The card of a completed job: its segments, the picked one with its files, its downloads and times.

import { address, ask, hasKey, notice, persist, sentence } from "./client.js";
import { announce, byId, count, fillFacts, make, percent, press, seconds } from "./dom.js";
import { hasEnded, save } from "./links.js";
import { colourOf } from "./masks.js";
import { Viewer } from "./viewer.js";

const RENEWED_FOR = 10_000;
const STAGES = { source_image: "Read the picture", segments: "Model", masks: "Masks", cutouts: "Cut-outs", result: "Publish" };
const TITLES = { coco: "COCO", yolo: "YOLO", labelme: "LabelMe", "label-map": "Label map", zip: "ZIP of all" };
const FORMATS = document.querySelector("meta[name=export-formats]").content.split(" ").filter(Boolean);

/** One job, here and on the picture; `job` is null while none is shown. */
export class ResultCard {
  constructor() {
    this.viewer = new Viewer({ onHover: (index) => this.hover(index), onPick: (index) => this.pick(index), labelOf: titleOf });
    this.renewedAt = -Infinity;
    this.clear();
    this.listen();
  }

  clear() {
    Object.assign(this, { job: null, lit: -1, picked: -1 });
    this.viewer.clear();
  }

  /** Takes a completed job; it is done when all masks are on the picture. */
  async show(job) {
    this.job = job;
    const found = count(job.segments.length, "segment");
    const took = (Date.parse(job.completed_at) - Date.parse(job.accepted_at)) / 1000;
    byId("found").textContent = job.segments.length ? found : "Nothing found";
    byId("facts").textContent = `${job.model} · ${job.width} × ${job.height} · ${seconds(took)}`;
    byId("nothing").hidden = job.segments.length > 0;
    byId("segments").hidden = !job.segments.length;
    document.title = `${found} · seg-pipeline`;
    showList(job);
    this.showKinds();
    showTimes(job);
    this.showDownloads();
    this.unpick();
    announce(`Done: ${found} in ${seconds(took)}.`);
    await this.viewer.show(job);
  }

  // Segments

  /** Buttons that leave out all segments of a label, where there is more than one label. */
  showKinds() {
    const counts = new Map();
    for (const { label } of this.job.segments) if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
    byId("kinds").hidden = counts.size < 2;
    byId("kinds").replaceChildren(...[...counts].sort().map(([label, number]) => {
      const button = make("button", { type: "button", className: "kind", onclick: (event) => this.toggleKind(event) }, number > 1 ? `${label} ${number}` : label);
      button.dataset.label = label;
      button.setAttribute("aria-pressed", "true");
      return button;
    }));
  }

  toggleKind({ currentTarget: button }) {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    const off = new Set([...byId("kinds").querySelectorAll('[aria-pressed="false"]')].map(({ dataset }) => dataset.label));
    const isOff = ({ label }) => off.has(label);
    const hidden = [...this.job.segments.keys()].filter((index) => isOff(this.job.segments[index]));
    for (const option of byId("list").children) option.hidden = isOff(this.job.segments[indexOf({ target: option })]);
    if (hidden.includes(this.picked)) this.unpick();
    this.viewer.hide(hidden);
  }

  hover(index) {
    if (index === this.lit) return;
    this.lit = index;
    byId("list").querySelector(".lit")?.classList.remove("lit");
    if (index >= 0) byId(`segment-${index}`).classList.add("lit");
    this.viewer.light(index >= 0 ? index : this.picked);
  }

  unpick() {
    byId("list").querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
    byId("list").removeAttribute("aria-activedescendant");
    byId("selected").hidden = true;
    this.picked = -1;
    this.viewer.light(this.lit);
  }

  /** Closes the segment; whoever was in it is back at the list. */
  leaveSegment() {
    const wasInside = byId("selected").contains(document.activeElement);
    this.unpick();
    if (wasInside) byId("list").focus();
  }

  pick(index) {
    this.unpick();
    if (index < 0) return;
    this.picked = index;
    const [option, segment] = [byId(`segment-${index}`), this.job.segments[index]];
    option.setAttribute("aria-selected", "true");
    byId("list").setAttribute("aria-activedescendant", option.id);
    byId("selected").hidden = false;
    byId("selected-name").textContent = nameOf(segment, index);
    this.showFiles();
    if (this.isToBeRenewed(segment.crop_url)) this.renewLinks();
    this.link(byId("get-grey"), address(`jobs/${this.job.uuid}/export?format=mask&segment=${segment.segment_id}`), "");
    fillFacts(byId("selected-facts"), factsOf(segment, this.job));
    option.scrollIntoView({ block: "nearest" });
    this.viewer.light(index);
  }

  /** Goes along the list by keyboard, past labels that are left out. */
  walk(event) {
    if (event.key === "Enter" && this.picked >= 0) return byId("get-crop").focus();
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    const shown = [...byId("list").children].filter((option) => !option.hidden).map((option) => indexOf({ target: option }));
    if (!(event.key in steps) || !shown.length) return;
    event.preventDefault();
    const last = shown.length - 1;
    if (this.picked < 0) this.pick(shown[event.key === "End" ? last : 0]);
    else this.pick(shown[Math.max(0, Math.min(last, shown.indexOf(this.picked) + steps[event.key]))]);
  }

  // Files

  /** The picked segment's picture, and the links to its files. */
  showFiles() {
    const { uuid, segments } = this.job;
    const segment = segments[this.picked];
    showSegment(segment, byId("as-mask").getAttribute("aria-pressed") === "true");
    this.link(byId("get-crop"), segment.crop_url, `${uuid}-${this.picked}.webp`);
    this.link(byId("get-mask"), segment.mask_url, `${uuid}-${this.picked}-mask.png`);
  }

  showDownloads() {
    const { uuid, overlay_url: overlay, urls: [picture] } = this.job;
    const files = [
      ["JSON", address(`jobs/${uuid}`), `${uuid}.json`],
      ...FORMATS.map((name) => [TITLES[name] ?? sentence(name), address(`jobs/${uuid}/export?format=${name}`), ""]),
      ["Overlay", overlay, `${uuid}-overlay.webp`],
      ["Picture", picture, `${uuid}.webp`],
    ];
    byId("downloads").replaceChildren(...files.filter(([, url]) => url).map(([title, url, name]) => {
      const link = make("a", { className: "button small" }, title);
      this.link(link, url, name);
      return link;
    }));
  }

  /** Has a link lead to a file; one of the service's own is fetched with the key where there is one. */
  link(link, url, name) {
    const isOwn = new URL(url, location.href).origin === location.origin;
    Object.assign(link, { href: url, download: name, target: isOwn ? "" : "_blank", rel: "noreferrer" });
    link.onclick = (event) => {
      if (this.isToBeRenewed(url)) {
        event.preventDefault();
        this.renewLinks().then((isNew) => isNew && document.querySelector(`a[download="${CSS.escape(name)}"]`).click());
      } else if (isOwn && hasKey()) {
        event.preventDefault();
        save(url, name);
      }
    };
  }

  /** Whether a link has ended; just renewed ones have not, whatever the clock here says. */
  isToBeRenewed(url) {
    return hasEnded(url) && !this.isJustRenewed;
  }

  get isJustRenewed() {
    return performance.now() - this.renewedAt < RENEWED_FOR;
  }

  /** Has the job's links made anew, since signed ones end while the page is open; whether they are. */
  async renewLinks() {
    const { uuid } = this.job;
    try {
      const job = await persist(() => ask(`jobs/${uuid}`));
      if (this.job?.uuid !== uuid || job.status !== "completed") return false;
      Object.assign(this, { job, renewedAt: performance.now() });
      this.showDownloads();
      if (this.picked >= 0) this.showFiles();
      return true;
    } catch (error) {
      notice(sentence(error.status === 404 ? "that job has expired, or was deleted." : error.message));
      return false;
    }
  }

  listen() {
    const list = byId("list");
    list.addEventListener("pointermove", (event) => this.hover(indexOf(event)));
    list.addEventListener("pointerleave", () => this.hover(-1));
    list.addEventListener("click", (event) => indexOf(event) >= 0 && this.pick(indexOf(event)));
    list.addEventListener("keydown", (event) => this.walk(event));
    byId("unselect").onclick = () => this.leaveSegment();
    const [crop, mask] = [byId("as-crop"), byId("as-mask")];
    crop.onclick = () => (press(crop, mask), showSegment(this.job.segments[this.picked], false));
    mask.onclick = () => (press(mask, crop), showSegment(this.job.segments[this.picked], true));
    byId("selected-image").onerror = () => this.job && !this.isJustRenewed && this.renewLinks();
    byId("shade").onclick = ({ currentTarget: button }) => {
      const isShaded = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(isShaded));
      this.viewer.shade(isShaded);
    };
    addEventListener("keydown", (event) => event.key === "Escape" && this.picked >= 0 && this.leaveSegment());
  }
}

function titleOf(segment, index) {
  const name = nameOf(segment, index);
  const score = scoreOf(segment);
  return score === null ? name : `${name}  ${percent(score)}`;
}

const nameOf = (segment, index) => segment.name ?? segment.label ?? `Segment ${index + 1}`;
const scoreOf = (segment) => segment.confidence ?? (segment.predicted_iou === null ? null : Math.min(1, segment.predicted_iou));

function showList(job) {
  byId("list").replaceChildren(...job.segments.map((segment, index) => {
    const swatch = make("i");
    swatch.style.background = `rgb(${colourOf(index)})`;
    const score = scoreOf(segment);
    const scored = make("span", { title: segment.confidence === null ? "predicted IoU" : "confidence" }, score === null ? "" : percent(score));
    const area = make("span", { title: "of the picture" }, percent(segment.area_percent / 100, 1));
    const option = make("div", { className: "option", id: `segment-${index}` }, swatch, make("b", {}, nameOf(segment, index)), scored, area);
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    return option;
  }));
}

function indexOf(event) {
  const option = event.target.closest?.(".option");
  return option ? Number(option.id.replace("segment-", "")) : -1;
}

function factsOf({ bbox, area, area_percent, confidence, predicted_iou, stability_score, parent }, { segments }) {
  const share = (value) => (value === null ? null : percent(value, 1));
  return [
    ["Confidence", share(confidence)], ["Predicted IoU", share(predicted_iou)], ["Stability", share(stability_score)],
    ["Area", `${area.toLocaleString("en")} px · ${area_percent.toFixed(2)} %`],
    ["Lies in", parent === undefined ? null : nameOf(segments[parent], parent)],
    ["Box", `${bbox.x}, ${bbox.y} · ${bbox.width} × ${bbox.height}`],
  ];
}

function showSegment(segment, asMask) {
  const image = byId("selected-image");
  image.src = asMask ? segment.mask_url : segment.crop_url;
  image.alt = `${asMask ? "Mask" : "Cut-out"} of ${byId("selected-name").textContent}`;
  image.parentElement.classList.toggle("paper", asMask);
}

function showTimes(job) {
  const waited = (Date.parse(job.started_at) - Date.parse(job.accepted_at)) / 1000;
  const rows = [["Waited", waited], ...Object.entries(job.seconds).map(([stage, value]) => [STAGES[stage] ?? stage, value])];
  const total = rows.reduce((sum, [, value]) => sum + value, 0) || 1;
  byId("bar").replaceChildren(...rows.map(([, value], place) => {
    const part = make("i");
    part.style.width = percent(value / total, 1).replace(" ", "");
    part.style.background = `hsl(${215 + place * 42} 55% ${58 - place * 3}%)`;
    return part;
  }));
  fillFacts(byId("times"), rows.map(([name, value]) => [name, seconds(value)]));
}
