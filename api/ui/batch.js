// A batch: how far it is, what failed of it, and its one file of results.

import { ask, fetchFile, notice, sentence, sleep } from "./client.js";
import { byId, count, fillFacts, make } from "./dom.js";

const SHOWN = 20;

/** The card of the batch that the page's address names. */
export class BatchCard {
  #uuid = null;

  constructor() {
    byId("batch-cancel").onclick = () => this.#cancel();
    byId("batch-coco").onclick = () => this.#download();
  }

  /** Shows a batch and follows it to its end; nothing without a uuid. */
  async show(uuid) {
    this.#uuid = uuid;
    byId("batch").hidden = !uuid;
    while (uuid && this.#uuid === uuid) {
      try {
        const batch = await ask(`batches/${uuid}`);
        if (this.#uuid !== uuid) return;
        this.#draw(batch);
        await this.#drawFailed(batch);
        if (batch.status !== "processing") return;
      } catch (error) {
        if (this.#uuid !== uuid) return;
        notice(sentence(error.message));
        if (error.code) return;
      }
      await sleep(document.hidden ? 5000 : 1000);
    }
  }

  #draw({ uuid, status, total, counts, per_second, eta_seconds, rejected }) {
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

  async #drawFailed({ uuid, counts }) {
    const { jobs } = counts.failed ? await ask(`batches/${uuid}/jobs?status=failed&limit=${SHOWN}`) : { jobs: [] };
    if (this.#uuid !== uuid) return;
    byId("batch-failed").replaceChildren(...jobs.map((job) =>
      make("li", {}, make("a", { href: `#${job.uuid}` }, job.name), make("span", { className: "muted" }, ` ${job.error?.message ?? ""}`))));
  }

  async #cancel() {
    if (!confirm("Cancel what has not ended of this batch?")) return;
    await ask(`batches/${this.#uuid}`, { method: "DELETE" }).catch((error) => notice(sentence(error.message)));
  }

  async #download() {
    try {
      const { blob, name } = await fetchFile(`batches/${this.#uuid}/export?format=coco`);
      const link = make("a", { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    } catch (error) {
      notice(sentence(error.message));
    }
  }
}
