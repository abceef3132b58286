// Pictures on their way to the service. They go on whatever the page shows; only a person breaks one off.

const underWay = new Map();

/** Has `send(signal)` send a job, and returns its answer. */
export function upload(uuid, send) {
  const abort = new AbortController();
  const answer = send(abort.signal).finally(() => underWay.delete(uuid));
  underWay.set(uuid, { answer, abort });
  return answer;
}

/** The answer that a job's upload is to have; undefined if none is under way. */
export const uploadOf = (uuid) => underWay.get(uuid)?.answer;

export const breakOff = (uuid) => underWay.get(uuid)?.abort.abort();

addEventListener("beforeunload", (event) => underWay.size && event.preventDefault());
