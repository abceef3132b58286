// A batch: how far it is, what failed of it, and its one file of results.

import { ask, notice, persist, sentence, sleep } from "./client.js";
import { byId, count, fillFacts, make } from "./dom.js";
import { save } from "./links.js";

const SHOWN = 20;

/** The card of the batch that the page's address names. */
export class BatchCard {
  #uuid = null;
  #abort = null;

  constructor() {
    byId("batch-cancel").onclick = () => this.#cancel();
    byId("batch-coco").onclick = () => save(`batches/${this.#uuid}/export?format=coco`);
  }

  /** Shows a batch and follows it to its end; nothing without a uuid. */
  async show(uuid) {
    this.#abort?.abort();
    this.#abort = new AbortController();
    this.#uuid = uuid;
    byId("batch").hidden = !uuid;
    if (!uuid) return;
    const { signal } = this.#abort;
    try {
      await this.#follow(uuid, signal);
    } catch (error) {
      if (!signal.aborted) notice(sentence(error.message));
    }
  }

  async #follow(uuid, signal) {
    const fetched = (path) => persist(() => ask(path, { signal }), { signal });
    for (;;) {
      const batch = await fetched(`batches/${uuid}`);
      draw(batch);
      const { jobs } = batch.counts.failed ? await fetched(`batches/${uuid}/jobs?status=failed&limit=${SHOWN}`) : { jobs: [] };
      drawFailed(jobs);
      if (batch.status !== "processing") return;
      await sleep(document.hidden ? 5000 : 1000);
    }
  }

  async #cancel() {
    if (!confirm("Cancel what has not ended of this batch?")) return;
    const uuid = this.#uuid;
    await persist(() => ask(`batches/${uuid}`, { method: "DELETE" })).catch((error) => notice(sentence(error.message)));
  }
}

function draw({ uuid, status, total, counts, per_second, eta_seconds, rejected }) {
  const ended = counts.completed + counts.failed + counts.cancelled;
  byId("batch-title").textContent = `Batch ${uuid}`;
  Object.assign(byId("batch-bar"), { max: total, value: ended });
  byId("batch-line").textContent = `${status}: ${ended.toLocaleString("en")} of ${count(total, "picture")}`;
  const known = Object.entries(counts).filter(([, value]) => value);
  fillFacts(byId("batch-facts"), [
    ...known.map(([name, value]) => [name, value.toLocaleString("en")]),
    ["rejected", rejected || null],
    ["a second", per_second ? per_second.toFixed(1) : null],
    ["left", eta_seconds === null ? null : `${Math.round(eta_seconds)} s`],
  ]);
  byId("batch-cancel").hidden = status !== "processing";
  byId("batch-coco").hidden = status === "processing" || !counts.completed;
}

function drawFailed(jobs) {
  byId("batch-failed").replaceChildren(...jobs.map((job) =>
    make("li", {}, make("a", { href: `#${job.uuid}` }, job.name), make("span", { className: "muted" }, ` ${job.error?.message ?? ""}`))));
}
