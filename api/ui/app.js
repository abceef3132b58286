// The page: from a picture to its segments.

import { Refusal, address, ask, fetchFile, hasKey, listenTo, notice, persist, send, sentence, sleep } from "./client.js";
import { BatchCard } from "./batch.js";
import { announce, byId, count, fillFacts, make, percent, press, seconds } from "./dom.js";
import { colourOf } from "./masks.js";
import { hasEnded } from "./links.js";
import { Options } from "./options.js";
import { forget, jobs, remember, thumbnail } from "./recent.js";
import { Prompts } from "./prompts.js";
import { curl, httpx } from "./snippets.js";
import { Viewer } from "./viewer.js";
import { Zoom } from "./zoom.js";

const RENEWED_FOR = 10_000;
const DAGSTER = document.querySelector("meta[name=dagster-url]").content;
const STEPS = { sending: "Send", queued: "Wait for a worker", processing: "Segment", completed: "Done" };
const STAGES = { source_image: "Read the picture", segments: "Model", masks: "Masks", cutouts: "Cut-outs", result: "Publish" };
const TITLES = { coco: "COCO", yolo: "YOLO", labelme: "LabelMe", "label-map": "Label map", zip: "ZIP of all" };
const FORMATS = document.querySelector("meta[name=export-formats]").content.split(" ").filter(Boolean);

/** What is on the page: a source with `file` or `url`, and the job that it became. */
const state = { source: null, job: null, uuid: null, lit: -1, picked: -1, language: "curl", abort: null, preview: null, keeper: null, renewedAt: -Infinity };
const options = new Options(() => {
  showSnippet();
  byId("rerun").hidden = !state.source || document.body.dataset.view !== "done";
}, showAsking);
const prompts = new Prompts({ onAsk: askPrompt, onClear: clearAnswer });
const zoom = new Zoom();
const batch = new BatchCard();
const viewer = new Viewer({ onHover: hover, onPick: pick, labelOf: titleOf });

// From a picture to a job

async function start(source) {
  await modelsKnown; // which of them is chosen, and whether a person points at something
  state.source = source;
  if (options.isAsking) return beginAsking(source);
  const uuid = newUuid();
  history.pushState(null, "", `#${uuid}`);
  showPreview(source);
  follow(uuid, (signal) => submit(uuid, source, signal));
  remember(uuid, { name: source.name ?? source.url, at: Date.now() });
}

/** Has a failed job run again whose picture this page does not have. */
function retry(uuid) {
  follow(uuid, (signal) => persist(() => ask(`jobs/${uuid}/retry`, { method: "POST", signal }), { signal, patience: 8 }));
}

/** Shows a job while it is worked on, and its end. `begin` sends it first, if it is new. */
async function follow(uuid, begin) {
  state.abort?.abort();
  const abort = (state.abort = new AbortController());
  Object.assign(state, { uuid, job: null, lit: -1, picked: -1 });
  viewer.clear();
  setView("running");
  const clock = new Clock(begin ? "sending" : "queued");
  try {
    let job = begin ? await begin(abort.signal) : null;
    job = await untilFinished(uuid, job, clock, abort.signal);
    if (abort.signal.aborted) return;
    if (job.status === "completed") await showResult(job);
    else showFailure(job.error.message, job.error.code);
  } catch (error) {
    if (!abort.signal.aborted) showError(error);
  } finally {
    clock.stop();
  }
}

function submit(uuid, source, signal, asked = options.request()) {
  const request = { uuid, ...asked };
  if (source.url) {
    return persist(() => ask("jobs", { method: "POST", json: { image_url: source.url, ...request }, signal }), { signal });
  }
  const form = () => {
    const fields = new FormData();
    for (const [name, value] of Object.entries(request)) {
      fields.append(name, typeof value === "object" ? JSON.stringify(value) : value);
    }
    fields.append("image", source.file, source.name);
    return fields;
  };
  const onProgress = (share) => (byId("subline").textContent = share < 1 ? `${percent(share)} sent` : "");
  return persist(() => send("jobs", form(), { signal, onProgress }), { signal, patience: 8 });
}

/** Listens to the job's events; where that is not possible, or ends too early, asks again and again. */
async function untilFinished(uuid, first, clock, signal) {
  let job = first;
  if (!["completed", "failed"].includes(job?.status)) {
    await listenTo(`jobs/${uuid}/events`, (state) => clock.follow(state), signal).catch(() => {});
    job = null;
  }
  for (let pause = 100; ; pause = Math.min(pause * 1.3, 1000)) {
    job ??= await persist(() => ask(`jobs/${uuid}`, { signal }), { signal });
    if (signal.aborted || ["completed", "failed"].includes(job.status)) return job;
    clock.enter(job.status);
    await sleep(document.hidden ? 3000 : pause);
    job = null;
  }
}

// Points and boxes, and the answers to them

/** Shows a picture, and waits for somebody to point at something in it. `keeper` is the job that the service has it by. */
function beginAsking(source, keeper = null) {
  state.abort?.abort();
  Object.assign(state, { source, keeper, job: null, uuid: null, lit: -1, picked: -1 });
  viewer.clear();
  prompts.reset();
  byId("asked-list").replaceChildren();
  if (source?.file && !keeper) {
    showPreview(source);
    byId("picture").addEventListener("error", () => state.source === source && !state.keeper && fetchFirst(source), { once: true });
  } else if (source?.url && !keeper) {
    showPreview(source);
    return fetchFirst(source);
  }
  return setView("asking");
}

/** A picture that the browser cannot show before the service has it: by the least work that a SAM-2 can be given. */
async function fetchFirst(source) {
  const uuid = newUuid();
  history.pushState(null, "", `#${uuid}`);
  remember(uuid, { name: source.name ?? source.url, at: Date.now() });
  await follow(uuid, (signal) => submit(uuid, source, signal, options.prompted({ points_per_side: 1 })));
  if (state.keeper === uuid) clearAnswer();
}

/** Asks for what the prompts show; an answer that a later click has overtaken is dropped. */
async function askPrompt() {
  state.abort?.abort();
  const abort = (state.abort = new AbortController());
  const [uuid, asked, began] = [newUuid(), options.prompted(prompts.parameters()), performance.now()];
  const line = make("li", { className: "now" }, "…");
  byId("asked-list").append(line);
  line.scrollIntoView({ block: "nearest" });
  showSnippet();
  try {
    let job = await submitPrompt(uuid, asked, abort.signal);
    job = await untilFinished(uuid, job, { enter() {} }, abort.signal);
    if (abort.signal.aborted) return line.remove();
    if (job.status === "failed") throw new Error(job.error.message);
    line.className = "";
    line.textContent = answered(job, (performance.now() - began) / 1000);
    await showAnswer(uuid, job);
  } catch (error) {
    if (abort.signal.aborted) return line.remove();
    line.className = "bad";
    line.textContent = sentence(error.message);
    announce(line.textContent);
  }
  return null;
}

async function submitPrompt(uuid, asked, signal) {
  if (state.keeper) {
    const json = { uuid, image_of: state.keeper, ...asked };
    try {
      return await persist(() => ask("jobs", { method: "POST", json, signal }), { signal });
    } catch (error) {
      if (error.code !== "picture_not_kept" || !state.source) throw error;
    }
  }
  remember(uuid, { name: state.source.name ?? state.source.url, at: Date.now() });
  return submit(uuid, state.source, signal, asked);
}

const answered = (job, took) =>
  `${job.segments.length ? `${percent(job.segments[0].area_percent / 100, 1)} of the picture` : "nothing"} · model ${seconds(job.seconds.segments ?? 0)} · in all ${seconds(took)}`;

async function showAnswer(uuid, job) {
  state.keeper = state.uuid = uuid;
  history.replaceState(null, "", `#${uuid}`);
  await showResult(job);
}

/** Nothing is asked any more: the last mask goes. */
function clearAnswer() {
  state.abort?.abort();
  viewer.clear();
  state.job = null;
  setView("asking");
}

/** Goes over to points and boxes on the picture that is shown, or back. */
function showAsking() {
  const view = document.body.dataset.view;
  if (options.isAsking && view === "done") beginAsking(state.source, state.uuid);
  else if (!options.isAsking && view === "asking") setView(state.job ? "done" : "asking");
  else if (options.isAsking && view === "running" && state.source) beginAsking(state.source);
  showSnippet();
}

/** Counts the seconds of each step while a job runs. */
class Clock {
  constructor(step) {
    this.began = { [step]: performance.now() };
    this.enter(step);
    this.timer = setInterval(() => this.show(), 100);
  }

  enter(step) {
    if (this.step !== step) {
      this.step = step;
      this.began[step] ??= performance.now();
      const words = { sending: "Sending", queued: "Waiting for a worker", processing: "Segmenting" };
      byId("headline").textContent = words[step];
      byId("subline").textContent = options.model?.name ?? "";
      announce(words[step]);
    }
    this.show();
  }

  /** Enters the step of an event, and shows a SAM-2's points. */
  follow(event) {
    if (!["queued", "processing"].includes(event.status)) return;
    this.enter(event.status);
    const points = event.total ? `${event.done} of ${event.total} points` : "";
    byId("subline").textContent = [options.model?.name, points].filter(Boolean).join(" · ");
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

// What is shown

function setView(view) {
  document.body.dataset.view = view;
  byId("drop").hidden = view !== "empty";
  byId("view").hidden = view === "empty";
  byId("new").hidden = view === "empty";
  byId("progress").hidden = byId("pill").hidden = view !== "running";
  byId("failure").hidden = view !== "failed";
  const isAsking = view === "asking";
  byId("result").hidden = view !== "done" && !(isAsking && state.job);
  byId("tools").hidden = view !== "done" && !isAsking;
  byId("asked").hidden = byId("marks").hidden = byId("asking-tools").hidden = !isAsking;
  byId("shade").hidden = isAsking && !state.job;
  byId("rerun").hidden = !state.source || view !== "done";
  byId("again").hidden = !state.uuid;
  byId("everybody").hidden = view !== "empty" || !byId("everybody-list").children.length;
  for (const link of document.querySelectorAll("[data-lineage]")) {
    link.hidden = !DAGSTER;
    link.href = lineage(state.uuid);
  }
  showRecent();
  showSnippet();
  keepFocus();
}

/** Whoever was at something that is hidden now goes on at the picture, not at the top of the page. */
function keepFocus() {
  const focused = document.activeElement;
  if (focused && focused !== document.body && !focused.checkVisibility()) byId("stage").focus({ preventScroll: true });
}

const lineage = (uuid) => `${DAGSTER}/assets/result?view=partitions&partition=${encodeURIComponent(uuid)}`;

function showEmpty() {
  state.abort?.abort();
  zoom.reset();
  Object.assign(state, { source: null, job: null, uuid: null, keeper: null });
  viewer.clear();
  document.title = "seg-pipeline";
  setView("empty");
}

function showPreview(source) {
  zoom.reset();
  if (state.preview) URL.revokeObjectURL(state.preview);
  state.preview = source.file ? URL.createObjectURL(source.file) : null;
  setPicture(state.preview, source.url ?? `This browser cannot show ${source.name}. It appears here once the service has read it.`);
  byId("picture").addEventListener("error", () => (state.preview = null), { once: true });
}

/** Shows a picture, or a sentence where there is none. */
function setPicture(url, otherwise) {
  const [picture, none] = [byId("picture"), byId("no-preview")];
  none.textContent = otherwise;
  none.hidden = Boolean(url);
  picture.hidden = !url;
  picture.onerror = () => ([none.hidden, picture.hidden] = [false, true]);
  picture.onload = () => {
    setRatio(picture.naturalWidth, picture.naturalHeight);
    if (!state.job) prompts.of(picture.naturalWidth, picture.naturalHeight);
  };
  if (url) picture.src = url;
  else picture.removeAttribute("src");
}

const setRatio = (width, height) => document.documentElement.style.setProperty("--ratio", width / height);

async function showResult(job) {
  state.job = job;
  setView(options.isAsking ? "asking" : "done");
  setRatio(job.width, job.height);
  prompts.of(job.width, job.height);
  if (options.isAsking && !state.keeper) prompts.take(job.parameters ?? {});
  if (options.isAsking) state.keeper = job.uuid;
  const shown = count(job.segments.length, "segment");
  const took = (Date.parse(job.completed_at) - Date.parse(job.accepted_at)) / 1000;
  byId("found").textContent = job.segments.length ? shown : "Nothing found";
  byId("facts").textContent = `${job.model} · ${job.width} × ${job.height} · ${seconds(took)}`;
  byId("nothing").hidden = job.segments.length > 0;
  byId("segments").hidden = !job.segments.length;
  document.title = `${shown} · seg-pipeline`;
  showList(job);
  showKinds(job);
  showTimes(job);
  showDownloads(job);
  unpick();
  announce(`Done: ${shown} in ${seconds(took)}.`);
  showOriginal(job);
  await viewer.show(job);
  document.body.dataset.masks = state.uuid;
}

/** The picture as the service has it, over the preview once it is there. */
function showOriginal(job) {
  const original = job.urls[0];
  const image = new Image();
  image.onload = () => {
    if (state.job !== job && state.keeper !== job.uuid) return;
    setPicture(original, "");
    byId("picture").alt = `The picture, with ${count(job.segments.length, "segment")}`;
    if (state.preview) return;
    keepThumbnail(job, image);
  };
  image.onerror = () => state.job === job && !state.preview && setPicture(null, "The picture has expired.");
  image.src = original;
  if (state.preview && byId("picture").complete && byId("picture").naturalWidth) keepThumbnail(job, byId("picture"));
  else keepThumbnail(job, null);
}

function keepThumbnail(job, image) {
  const thumb = image && new URL(image.src, location.href).origin === location.origin ? thumbnail(image) : null;
  const known = jobs().find(({ uuid }) => uuid === job.uuid);
  remember(job.uuid, { model: job.model, found: job.segments.length, at: known?.at ?? Date.parse(job.accepted_at), ...(thumb ? { thumb } : {}) });
  showRecent();
}

function showFailure(reason, code) {
  setView("failed");
  byId("reason").textContent = sentence(reason);
  byId("code").textContent = code;
  document.title = "Failed · seg-pipeline";
  byId("no-preview").textContent = "This picture cannot be shown.";
  announce(`It failed: ${reason}`);
  remember(state.uuid, { failed: true });
  showRecent();
}

function showError(error) {
  if (error instanceof Refusal && error.status === 404) {
    forget(state.uuid);
    history.replaceState(null, "", location.pathname + location.search);
    showEmpty();
    notice("That job has expired, or was deleted.");
    return;
  }
  showFailure(error.message, error.code ?? "");
  if (error instanceof Refusal) forget(state.uuid), showRecent();
}

// Segments

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

/** Buttons that leave out all segments of a label, where there is more than one label. */
function showKinds(job) {
  const counts = new Map();
  for (const { label } of job.segments) if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
  byId("kinds").hidden = counts.size < 2;
  byId("kinds").replaceChildren(...[...counts].sort().map(([label, number]) => {
    const button = make("button", { type: "button", className: "kind", onclick: toggleKind }, number > 1 ? `${label} ${number}` : label);
    button.dataset.label = label;
    button.setAttribute("aria-pressed", "true");
    return button;
  }));
}

function toggleKind({ currentTarget: button }) {
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  const off = new Set([...byId("kinds").querySelectorAll('[aria-pressed="false"]')].map(({ dataset }) => dataset.label));
  const hidden = [...state.job.segments.keys()].filter((index) => off.has(state.job.segments[index].label));
  for (const option of byId("list").children) option.hidden = off.has(state.job.segments[indexOf({ target: option })].label);
  if (hidden.includes(state.picked)) unpick();
  viewer.hide(hidden);
}

function indexOf(event) {
  const option = event.target.closest?.(".option");
  return option ? Number(option.id.replace("segment-", "")) : -1;
}

function hover(index) {
  if (index === state.lit) return;
  state.lit = index;
  byId("list").querySelector(".lit")?.classList.remove("lit");
  if (index >= 0) byId(`segment-${index}`).classList.add("lit");
  viewer.light(index >= 0 ? index : state.picked);
}

function unpick() {
  byId("list").querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  byId("list").removeAttribute("aria-activedescendant");
  byId("selected").hidden = true;
  state.picked = -1;
  viewer.light(state.lit);
}

/** Closes the segment; whoever was in it is back at the list. */
function leaveSegment() {
  const wasInside = byId("selected").contains(document.activeElement);
  unpick();
  if (wasInside) byId("list").focus();
}

function pick(index) {
  if (index < 0) return unpick();
  unpick();
  state.picked = index;
  const [option, segment] = [byId(`segment-${index}`), state.job.segments[index]];
  option.setAttribute("aria-selected", "true");
  byId("list").setAttribute("aria-activedescendant", option.id);
  byId("selected").hidden = false;
  byId("selected-name").textContent = nameOf(segment, index);
  showFiles(index);
  if (isToBeRenewed(segment.crop_url)) renewLinks();
  setDownload(byId("get-grey"), address(`jobs/${state.uuid}/export?format=mask&segment=${segment.segment_id}`), "");
  fillFacts(byId("selected-facts"), factsOf(segment));
  option.scrollIntoView({ block: "nearest" });
  viewer.light(index);
}

/** The picked segment's picture, and the links to its files. */
function showFiles(index) {
  const segment = state.job.segments[index];
  showSegment(segment, byId("as-mask").getAttribute("aria-pressed") === "true");
  setDownload(byId("get-crop"), segment.crop_url, `${state.uuid}-${index}.webp`);
  setDownload(byId("get-mask"), segment.mask_url, `${state.uuid}-${index}-mask.png`);
}

function factsOf({ bbox, area, area_percent, confidence, predicted_iou, stability_score, parent }) {
  const share = (value) => (value === null ? null : percent(value, 1));
  return [
    ["Confidence", share(confidence)], ["Predicted IoU", share(predicted_iou)], ["Stability", share(stability_score)],
    ["Area", `${area.toLocaleString("en")} px · ${area_percent.toFixed(2)} %`],
    ["Lies in", parent === undefined ? null : nameOf(state.job.segments[parent], parent)],
    ["Box", `${bbox.x}, ${bbox.y} · ${bbox.width} × ${bbox.height}`],
  ];
}

function showSegment(segment, asMask) {
  const image = byId("selected-image");
  image.src = asMask ? segment.mask_url : segment.crop_url;
  image.alt = `${asMask ? "Mask" : "Cut-out"} of ${byId("selected-name").textContent}`;
  image.parentElement.classList.toggle("paper", asMask);
}

function walk(event) {
  const last = state.job.segments.length - 1;
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  if (event.key === "Enter" && state.picked >= 0) return byId("get-crop").focus();
  if (!(event.key in steps)) return;
  event.preventDefault();
  if (state.picked < 0) pick(event.key === "End" ? last : 0);
  else pick(Math.max(0, Math.min(last, state.picked + steps[event.key])));
}

// Files, times, code

/** A link to a file; one of the service's own is fetched with the key where there is one. */
function setDownload(link, url, name) {
  const isOwn = new URL(url, location.href).origin === location.origin;
  Object.assign(link, { href: url, download: name, target: isOwn ? "" : "_blank", rel: "noreferrer" });
  link.onclick = (event) => {
    if (isToBeRenewed(url)) {
      event.preventDefault();
      renewLinks().then((isNew) => isNew && document.querySelector(`a[download="${CSS.escape(name)}"]`).click());
    } else if (isOwn && hasKey()) {
      event.preventDefault();
      save(url, name);
    }
  };
}

/** Whether a link has ended; just renewed ones have not, whatever the clock here says. */
const isToBeRenewed = (url) => hasEnded(url) && !isJustRenewed();
const isJustRenewed = () => performance.now() - state.renewedAt < RENEWED_FOR;

/** Has the job's links made anew, since signed ones end while the page is open; whether they are. */
async function renewLinks() {
  const { uuid } = state.job;
  try {
    const job = await persist(() => ask(`jobs/${uuid}`));
    if (state.job?.uuid !== uuid || job.status !== "completed") return false;
    Object.assign(state, { job, renewedAt: performance.now() });
    showDownloads(job);
    if (state.picked >= 0) showFiles(state.picked);
    return true;
  } catch (error) {
    notice(sentence(error.status === 404 ? "that job has expired, or was deleted." : error.message));
    return false;
  }
}

async function save(url, name) {
  try {
    const fetched = await persist(() => fetchFile(url));
    const file = URL.createObjectURL(fetched.blob);
    make("a", { href: file, download: name || fetched.name }).click();
    setTimeout(() => URL.revokeObjectURL(file), 60000);
  } catch (error) {
    notice(sentence(error.message));
  }
}

function showDownloads(job) {
  const files = [
    ["JSON", address(`jobs/${job.uuid}`), `${job.uuid}.json`],
    ...FORMATS.map((name) => [TITLES[name] ?? sentence(name), address(`jobs/${job.uuid}/export?format=${name}`), ""]),
    ["Overlay", job.overlay_url, `${job.uuid}-overlay.webp`],
    ["Picture", job.urls[0], `${job.uuid}.webp`],
  ];
  byId("downloads").replaceChildren(...files.filter(([, url]) => url).map(([title, url, name]) => {
    const link = make("a", { className: "button small" }, title);
    setDownload(link, url, name);
    return link;
  }));
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

function showSnippet() {
  const source = state.source ?? { name: "picture.jpg" };
  const write = state.language === "curl" ? curl : httpx;
  const request = options.isAsking && !prompts.isEmpty ? options.prompted(prompts.parameters()) : options.request();
  byId("snippet").textContent = write(source, request, hasKey());
}

// Jobs of before

function showRecent() {
  const list = jobs();
  byId("recent").hidden = !list.length;
  byId("recent-list").replaceChildren(...list.map((job) => {
    const found = job.failed ? "failed" : job.found === undefined ? "" : count(job.found, "segment");
    const face = job.thumb ? make("img", { src: job.thumb, alt: "" }) : make("span", {}, (job.name ?? job.uuid).slice(-18));
    const button = make("button", { type: "button", title: [job.name, found].filter(Boolean).join(", "), onclick: () => open(job.uuid) }, face);
    button.setAttribute("aria-label", [job.name ?? job.uuid, job.model, found].filter(Boolean).join(", "));
    if (job.uuid === state.uuid) button.setAttribute("aria-current", "true");
    return make("li", {}, button);
  }));
}

function open(uuid) {
  if (location.hash !== `#${uuid}`) history.pushState(null, "", `#${uuid}`);
  if (uuid !== state.uuid) route();
}

/** Shows what the address names: a job, or the way to a new one. */
function route() {
  notice("");
  batch.show(location.hash.match(/^#batch=([A-Za-z0-9][A-Za-z0-9_-]{0,50})$/)?.[1] ?? null);
  const uuid = decodeURIComponent(location.hash.slice(1));
  if (!/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/.test(uuid) || byId(uuid)) return showEmpty();
  Object.assign(state, { source: null, keeper: null });
  prompts.reset();
  byId("asked-list").replaceChildren();
  zoom.reset();
  if (state.preview) URL.revokeObjectURL(state.preview);
  state.preview = null;
  setPicture(null, "");
  return follow(uuid, null);
}

async function showEverybody() {
  const { jobs: lines } = await ask("jobs?limit=50").catch(() => ({ jobs: [] }));
  byId("everybody-list").replaceChildren(...lines.map(({ uuid, status }) =>
    make("li", {}, make("button", { type: "button", onclick: () => open(uuid) }, make("code", {}, uuid), make("span", { className: "muted" }, status)))));
  byId("everybody").hidden = document.body.dataset.view !== "empty" || !lines.length;
}

// What people do

function takeFiles(files) {
  const file = [...(files ?? [])][0];
  if (file) start({ file, name: file.name || "picture.png" });
}

function takeText(text) {
  const url = text.trim();
  if (/^(https?|s3):\/\/\S+$/.test(url)) start({ url });
}

async function pasteByButton() {
  const items = await navigator.clipboard.read().catch(() => []);
  for (const item of items) {
    const type = item.types.find((each) => each.startsWith("image/"));
    if (type) return takeFiles([new File([await item.getType(type)], `pasted.${type.slice(6)}`, { type })]);
    if (item.types.includes("text/plain")) return takeText(await (await item.getType("text/plain")).text());
  }
  return notice("There is neither a picture nor an address to paste.");
}

async function cancel() {
  const uuid = state.uuid;
  state.abort.abort();
  await ask(`jobs/${uuid}`, { method: "DELETE" }).catch(() => {});
  leave(uuid);
}

async function remove() {
  if (!confirm("Delete this job with its files?")) return;
  const { uuid } = state;
  try {
    await persist(() => ask(`jobs/${uuid}`, { method: "DELETE" }));
    leave(uuid);
    announce("Deleted.");
  } catch (error) {
    notice(sentence(error.message));
  }
}

/** Forgets a job, and shows the way to a new one unless the page shows another by now. */
function leave(uuid) {
  forget(uuid);
  if (state.uuid !== uuid) return showRecent();
  history.pushState(null, "", location.pathname + location.search);
  return showEmpty();
}

function newUuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function listen() {
  for (const id of ["file", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      takeFiles(event.target.files);
      event.target.value = "";
    });
  }
  byId("photograph").hidden = !navigator.maxTouchPoints;
  if (matchMedia("(hover: none)").matches) byId("invitation").textContent = "Take or choose a picture";
  byId("paste").hidden = !navigator.clipboard?.read;
  byId("paste").onclick = pasteByButton;
  byId("sample").onclick = async () => takeFiles([new File([(await fetchFile("ui/sample.jpg")).blob], "sample.jpg", { type: "image/jpeg" })]);
  byId("address").onsubmit = (event) => {
    event.preventDefault();
    start({ url: byId("url").value.trim() });
  };
  byId("new").onclick = byId("home").onclick = (event) => {
    event.preventDefault();
    history.pushState(null, "", location.pathname + location.search);
    showEmpty();
    byId("stage").focus();
  };
  byId("rerun").onclick = () => start(state.source);
  byId("again").onclick = () => (state.source ? start(state.source) : retry(state.uuid));
  byId("cancel").onclick = cancel;
  byId("delete").onclick = remove;
  byId("forget").onclick = () => (forget(), showRecent());
  listenToSegments();
  listenToCode();
  listenEverywhere();
}

function listenToSegments() {
  const list = byId("list");
  list.addEventListener("pointermove", (event) => hover(indexOf(event)));
  list.addEventListener("pointerleave", () => hover(-1));
  list.addEventListener("click", (event) => indexOf(event) >= 0 && pick(indexOf(event)));
  list.addEventListener("keydown", walk);
  byId("unselect").onclick = leaveSegment;
  const [crop, mask] = [byId("as-crop"), byId("as-mask")];
  crop.onclick = () => (press(crop, mask), showSegment(state.job.segments[state.picked], false));
  mask.onclick = () => (press(mask, crop), showSegment(state.job.segments[state.picked], true));
  byId("selected-image").onerror = () => state.job && !isJustRenewed() && renewLinks();
  byId("shade").onclick = (event) => {
    const isShaded = event.currentTarget.getAttribute("aria-pressed") !== "true";
    event.currentTarget.setAttribute("aria-pressed", String(isShaded));
    viewer.shade(isShaded);
  };
}

function listenToCode() {
  const [shell, python] = [byId("in-curl"), byId("in-python")];
  shell.onclick = () => (press(shell, python), (state.language = "curl"), showSnippet());
  python.onclick = () => (press(python, shell), (state.language = "python"), showSnippet());
  byId("copy").hidden = !navigator.clipboard?.writeText;
  byId("copy").onclick = async () => {
    await navigator.clipboard.writeText(byId("snippet").textContent);
    announce("Copied.");
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
  };
}

function listenEverywhere() {
  const isPicture = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => ["Files", "text/uri-list"].includes(type));
  addEventListener("dragover", (event) => {
    if (!isPicture(event)) return;
    event.preventDefault();
    byId("veil").hidden = false;
  });
  addEventListener("dragleave", (event) => !event.relatedTarget && (byId("veil").hidden = true));
  addEventListener("drop", (event) => {
    byId("veil").hidden = true;
    if (!isPicture(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files.length) takeFiles(event.dataTransfer.files);
    else takeText(event.dataTransfer.getData("text/uri-list"));
  });
  addEventListener("paste", (event) => {
    if (event.target.matches?.("input")) return;
    if (event.clipboardData.files.length) takeFiles(event.clipboardData.files);
    else takeText(event.clipboardData.getData("text/plain"));
  });
  addEventListener("keydown", (event) => event.key === "Escape" && state.picked >= 0 && leaveSegment());
  addEventListener("popstate", route);
}

async function takeModels() {
  try {
    const { models } = await persist(() => ask("models"));
    options.take(models);
    byId("sample").hidden = !models.some(({ name, is_default }) => is_default && name.startsWith("demo-"));
  } catch (error) {
    notice(sentence(error.message));
  }
}

listen();
byId("dagster").hidden = !DAGSTER;
byId("dagster").href = DAGSTER || "#";
setView("empty");
const modelsKnown = takeModels();
await modelsKnown;
route();
showEverybody();
