// Links to files: signed ones end, then the job has new ones; the service's own may need its key.

import { fetchFile, notice, persist, sentence } from "./client.js";
import { make } from "./dom.js";

const MARGIN_MS = 30_000;
const KEPT_MS = 60_000; // a saved file, for the browser to read

/** Whether a signed link has ended, or is about to; an open one never does. */
export function hasEnded(url) {
  const end = endOf(new URL(url, location.href).searchParams);
  return end !== null && Date.now() > end - MARGIN_MS;
}

/** When a link ends, in milliseconds since 1970; null of an open one. Ours, or S3's. */
function endOf(query) {
  if (query.has("expires")) return Number(query.get("expires")) * 1000;
  const signed = query.get("X-Amz-Date")?.match(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/);
  if (!signed) return null;
  const [year, month, day, ...time] = signed.slice(1).map(Number);
  return Date.UTC(year, month - 1, day, ...time) + Number(query.get("X-Amz-Expires")) * 1000;
}

/** Fetches a file with the key and saves it, by its own name where none is given. */
export async function save(url, name = "") {
  try {
    const fetched = await persist(() => fetchFile(url));
    const file = URL.createObjectURL(fetched.blob);
    make("a", { href: file, download: name || fetched.name }).click();
    setTimeout(() => URL.revokeObjectURL(file), KEPT_MS);
  } catch (error) {
    notice(sentence(error.message));
  }
}
