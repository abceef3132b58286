// Links to files: signed ones end. Then the job has new ones.

const MARGIN_MS = 30_000;

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
