// Requests to the service: its errors in its own sentences, its key, its pauses, and its absence.

import { announce, byId } from "./dom.js";

export const BASE = new URL(".", location.href.split("#")[0]);
const KEY = "seg-pipeline-key";
const LONGEST_PAUSE = 5000;

/** A refusal by the service: its sentence, code and status. */
export class Refusal extends Error {
  constructor(status, body, retryAfter) {
    super(body.error ?? `the service answered ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.retryAfter = retryAfter;
  }
}

/** The service did not answer. */
export class Away extends Error {}

export const address = (path) => new URL(path, BASE).href;
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { "x-api-key": key, ...more } : more;
}

/** One request; its JSON. Throws Refusal, Away or AbortError. */
export async function ask(path, { method = "GET", json, signal } = {}) {
  const answer = await get(path, {
    method,
    signal,
    headers: headers(json ? { "content-type": "application/json" } : {}),
    body: json && JSON.stringify(json),
  });
  return read(answer.status, await whole(answer.text()), answer.headers.get("retry-after"));
}

/** A file of the service, fetched with the key: its bytes and the name that the service gives it. */
export async function fetchFile(path) {
  const answer = await get(path, { headers: headers() });
  if (!answer.ok) read(answer.status, await whole(answer.text()), answer.headers.get("retry-after"));
  const named = answer.headers.get("content-disposition")?.match(/filename="([^"]+)"/);
  return { blob: await whole(answer.blob()), name: named?.[1] };
}

/**
 * Follows server-sent events to the end of the stream. `EventSource` could not send the key. Ends at
 * once where the service refuses; the caller then asks, and learns why.
 */
export async function listenTo(path, onState, signal) {
  const answer = await get(path, { headers: headers(), signal });
  if (!answer.ok || !answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const line = event.split("\n").find((each) => each.startsWith("data: "));
      if (line) onState(JSON.parse(line.slice(6)));
    }
  }
}

const get = (path, options) => whole(fetch(address(path), { cache: "no-store", ...options }));

/** An answer, or its body; Away where the line broke off. */
async function whole(reading) {
  try {
    return await reading;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("the service does not answer.");
  }
}

/** Sends a form, and tells how much of it has gone. */
export function send(path, form, { signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Away("the service does not answer, or broke off the upload."));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onload = () => {
      try {
        resolve(read(request.status, request.responseText, request.getResponseHeader("retry-after")));
      } catch (error) {
        reject(error);
      }
    };
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

function read(status, text, retryAfter) {
  let body = null;
  try {
    body = text ? JSON.parse(text) : {};
  } catch {
    if ([502, 503, 504].includes(status)) throw new Away("the service is behind a proxy that does not reach it.");
    throw new Refusal(status, {}, null);
  }
  if (status >= 200 && status < 300) return body;
  throw new Refusal(status, body, Number(retryAfter) || null);
}

/**
 * Tries a request until the service has answered it: asks for the key where one is needed, waits as
 * long as the service asks for, and waits for a service that is away. Other refusals are thrown.
 */
export async function persist(request, { signal, patience = Infinity } = {}) {
  for (let tries = 1; ; tries += 1) {
    signal?.throwIfAborted();
    try {
      return await request();
    } catch (error) {
      if (signal?.aborted || error.name === "AbortError") throw error;
      if (tries >= patience) throw error;
      if (error instanceof Away) await untilBack(error, signal);
      else if (error.status === 401) await askKey(error);
      else if (error.retryAfter && [429, 503].includes(error.status)) await pause(error, signal);
      else throw error;
    }
  }
}

async function pause(error, signal) {
  for (let left = error.retryAfter; left > 0 && !signal?.aborted; left -= 1) {
    notice(`${sentence(error.message)} Trying again in ${left} s.`);
    await sleep(1000);
  }
  notice("");
}

let coming = null;

async function untilBack(error, signal) {
  coming ??= waitForService(error).finally(() => (coming = null));
  await Promise.race([coming, new Promise((done) => signal?.addEventListener("abort", done, { once: true }))]);
}

async function waitForService(error) {
  for (let wait = 500, isAway = true; isAway; wait = Math.min(wait * 1.5, LONGEST_PAUSE)) {
    notice(`${sentence(error.message)} Trying again until it answers.`);
    await sleep(wait);
    isAway = await ask("livez").then(() => false, (reason) => reason instanceof Away);
  }
  notice("");
  announce("The service is back.");
}

/** Shows a sentence above everything; none hides it. */
export function notice(text) {
  const place = byId("notice");
  place.hidden = !text;
  if (place.textContent !== text) place.textContent = text;
}

/** A sentence of the service with a capital, for display. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

let asking = null;

/** Asks the person for the key; all requests that wait for it share one dialog. */
export function askKey(error) {
  asking ??= openDialog(error).finally(() => (asking = null));
  return asking;
}

function openDialog(error) {
  const [dialog, input] = [byId("ask-key"), byId("key")];
  byId("key-reason").textContent = hasKey() ? "That key is not one of this service's." : "";
  return new Promise((resolve, reject) => {
    const submit = () => {
      sessionStorage.setItem(KEY, input.value.trim());
      resolve();
    };
    byId("key-form").onsubmit = submit;
    byId("no-key").onclick = () => dialog.close();
    dialog.onclose = () => reject(error);
    input.value = "";
    dialog.showModal();
  });
}
