// The page: from a picture to its segments.

import { Refusal, ask, fetchFile, hasKey, listenTo, notice, persist, send, sentence, sleep } from "./client.js";
import { BatchCard } from "./batch.js";
import { Clock } from "./clock.js";
import { announce, byId, count, make, percent, press, seconds } from "./dom.js";
import { Options } from "./options.js";
import { forget, jobs, remember, thumbnail } from "./recent.js";
import { Prompts } from "./prompts.js";
import { ResultCard } from "./result.js";
import { curl, httpx } from "./snippets.js";
import { breakOff, upload, uploadOf } from "./uploads.js";
import { Zoom } from "./zoom.js";

const DAGSTER = document.querySelector("meta[name=dagster-url]").content;

/** What is on the page: a source with `file` or `url`, the job that it became, and the one that keeps the picture. */
const state = { source: null, uuid: null, keeper: null, abort: null, preview: null, language: "curl" };
/** Sources that were chosen while the models were not known. */
const waiting = new Set();
const options = new Options(() => {
  showSnippet();
  byId("rerun").hidden = !state.source || document.body.dataset.view !== "done";
}, showAsking);
const prompts = new Prompts({ onAsk: askPrompt, onClear: clearAnswer });
const zoom = new Zoom();
const batch = new BatchCard();
const result = new ResultCard();

// From a picture to a job

async function start(source) {
  if (!options.model && !(await untilModelsKnown(source))) return null;
  state.source = source;
  if (options.isAsking) return beginAsking(source);
  showPreview(source);
  return launch(newUuid(), source, options.request());
}

/** Shows a picture until it is known which model is chosen; whether it is still to be sent then. */
async function untilModelsKnown(source) {
  state.abort?.abort();
  Object.assign(state, { source, uuid: null });
  result.clear();
  showPreview(source);
  setView("running");
  byId("headline").textContent = byId("pill").textContent = "Waiting for the service";
  byId("subline").textContent = "";
  byId("steps").replaceChildren();
  waiting.add(source);
  await modelsKnown;
  return waiting.delete(source);
}

/** Sends a picture as a job, and shows the job. */
function launch(uuid, source, asked) {
  history.pushState(null, "", `#${uuid}`);
  remember(uuid, { name: nameOf(source), at: Date.now() });
  upload(uuid, (signal) => submit(uuid, source, signal, asked)).catch((error) => {
    if (state.uuid === uuid || error.name === "AbortError") return;
    forget(uuid);
    showRecent();
    notice(`${nameOf(source)}: ${error.message}`);
  });
  return follow(uuid);
}

const nameOf = (source) => source.name ?? source.url;

/** Has a failed job run again whose picture this page does not have. */
function retry(uuid) {
  const again = (signal) => persist(() => ask(`jobs/${uuid}/retry`, { method: "POST", signal }), { signal, patience: 8 });
  upload(uuid, again).catch(() => {}); // whoever looks at the job is told
  return follow(uuid);
}

/** Shows a job while it is sent and worked on, and its end. */
async function follow(uuid) {
  state.abort?.abort();
  const abort = (state.abort = new AbortController());
  state.uuid = uuid;
  result.clear();
  setView("running");
  const sent = uploadOf(uuid);
  const clock = new Clock(sent ? "sending" : "queued", sent && options.model?.name);
  abort.signal.addEventListener("abort", () => clock.stop(), { once: true });
  try {
    const job = await untilFinished(uuid, await sent, clock, abort.signal);
    if (abort.signal.aborted) return;
    if (job.status === "completed") await showResult(job);
    else showFailure(job.error.message, job.error.code);
  } catch (error) {
    if (!abort.signal.aborted) showError(error);
  } finally {
    clock.stop();
  }
}

function submit(uuid, source, signal, asked) {
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
  const onProgress = (share) => {
    if (state.uuid === uuid) byId("subline").textContent = share < 1 ? `${percent(share)} sent` : "";
  };
  return persist(() => send("jobs", form(), { signal, onProgress }), { signal, patience: 8 });
}

/** Listens to the job's events; where that is not possible, or ends too early, asks again and again. */
async function untilFinished(uuid, sent, clock, signal) {
  const asked = () => persist(() => ask(`jobs/${uuid}`, { signal }), { signal });
  let job = sent ?? (await asked());
  if (!hasEnded(job)) {
    clock.enter(job.status, job.model);
    await listenTo(`jobs/${uuid}/events`, (event) => clock.follow(event), signal).catch(() => {});
    job = await asked();
  }
  for (let pause = 100; !hasEnded(job) && !signal.aborted; pause = Math.min(pause * 1.3, 1000)) {
    clock.enter(job.status, job.model);
    await sleep(document.hidden ? 3000 : pause);
    job = await asked();
  }
  return job;
}

const hasEnded = ({ status }) => ["completed", "failed"].includes(status);

// Points and boxes, and the answers to them

/** Shows a picture, and waits for somebody to point at something in it. `keeper` is the job that the service has it by. */
function beginAsking(source, keeper = null) {
  state.abort?.abort();
  Object.assign(state, { source, keeper, uuid: null });
  result.clear();
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
  await launch(uuid, source, options.prompted({ points_per_side: 1 }));
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
  remember(uuid, { name: nameOf(state.source), at: Date.now() });
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
  result.clear();
  setView("asking");
}

/** Goes over to points and boxes on the picture that is shown, or back. */
function showAsking() {
  const view = document.body.dataset.view;
  if (options.isAsking && view === "done") beginAsking(state.source, state.uuid);
  else if (!options.isAsking && view === "asking") setView(result.job ? "done" : "asking");
  else if (options.isAsking && view === "running" && state.source) {
    if (uploadOf(state.uuid)) breakOff(state.uuid), forget(state.uuid);
    beginAsking(state.source);
  }
  showSnippet();
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
  byId("result").hidden = view !== "done" && !(isAsking && result.job);
  byId("tools").hidden = view !== "done" && !isAsking;
  byId("asked").hidden = byId("marks").hidden = byId("asking-tools").hidden = !isAsking;
  byId("shade").hidden = isAsking && !result.job;
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
  Object.assign(state, { source: null, uuid: null, keeper: null });
  result.clear();
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
    if (!result.job) prompts.of(picture.naturalWidth, picture.naturalHeight);
  };
  if (url) picture.src = url;
  else picture.removeAttribute("src");
}

const setRatio = (width, height) => document.documentElement.style.setProperty("--ratio", width / height);

async function showResult(job) {
  const shown = result.show(job);
  setView(options.isAsking ? "asking" : "done");
  setRatio(job.width, job.height);
  prompts.of(job.width, job.height);
  if (options.isAsking && !state.keeper) prompts.take(job.parameters ?? {});
  if (options.isAsking) state.keeper = job.uuid;
  showOriginal(job);
  await shown;
  document.body.dataset.masks = job.uuid;
}

/** The picture as the service has it, over the preview once it is there. */
function showOriginal(job) {
  const original = job.urls[0];
  const image = new Image();
  image.onload = () => {
    if (result.job !== job && state.keeper !== job.uuid) return;
    setPicture(original, "");
    byId("picture").alt = `The picture, with ${count(job.segments.length, "segment")}`;
    if (state.preview) return;
    keepThumbnail(job, image);
  };
  image.onerror = () => result.job === job && !state.preview && setPicture(null, "The picture has expired.");
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
  return follow(uuid);
}

async function showEverybody() {
  const { jobs: lines } = await ask("jobs?limit=50").catch(() => ({ jobs: [] }));
  byId("everybody-list").replaceChildren(...lines.map(({ uuid, status }) =>
    make("li", {}, make("button", { type: "button", onclick: () => open(uuid) }, make("code", {}, uuid), make("span", { className: "muted" }, status)))));
  byId("everybody").hidden = document.body.dataset.view !== "empty" || !lines.length;
}

// What people do

function takeFiles(files) {
  const [file, ...others] = files ?? [];
  if (!file) return;
  if (others.length) notice(`Only ${file.name} was taken, of ${others.length + 1} files. Many go as a batch: POST /batches, or seg-pipeline batch create FOLDER.`);
  start({ file, name: file.name || "picture.png" });
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

async function takeSample() {
  try {
    const { blob } = await persist(() => fetchFile("ui/sample.jpg"));
    takeFiles([new File([blob], "sample.jpg", { type: "image/jpeg" })]);
  } catch (error) {
    notice(sentence(error.message));
  }
}

async function cancel() {
  const { uuid, source } = state;
  if (waiting.delete(source)) return showEmpty();
  state.abort.abort();
  breakOff(uuid);
  try {
    await persist(() => ask(`jobs/${uuid}`, { method: "DELETE" }));
  } catch (error) {
    if (error.status !== 404) {
      notice(sentence(error.message));
      return state.uuid === uuid ? follow(uuid) : null;
    }
  }
  return leave(uuid);
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
  byId("sample").onclick = takeSample;
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
  listenToCode();
  listenEverywhere();
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
if (!waiting.size) route();
showEverybody();
