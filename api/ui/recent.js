// The jobs of this browser.

const NAME = "seg-pipeline-jobs";
const MOST = 24;
const SIDE = 112;

export function jobs() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? [];
  } catch {
    return [];
  }
}

function store(list) {
  try {
    localStorage.setItem(NAME, JSON.stringify(list.slice(0, MOST)));
  } catch {
    // full, or not allowed: then there is no list
  }
}

/** Puts a job first, with what is known of it beside what was. */
export function remember(uuid, facts) {
  const former = jobs().find((job) => job.uuid === uuid);
  const rest = jobs().filter((job) => job.uuid !== uuid);
  const place = former ? jobs().findIndex((job) => job.uuid === uuid) : 0;
  rest.splice(place, 0, { ...former, ...facts, uuid });
  store(rest);
}

export const forget = (uuid) => store(uuid ? jobs().filter((job) => job.uuid !== uuid) : []);

/** A small square of a picture that the page shows, as a data URL; null where it may not be read. */
export function thumbnail(image) {
  try {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const side = Math.min(width, height);
    canvas.getContext("2d").drawImage(image, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
    return canvas.toDataURL("image/webp", 0.7);
  } catch {
    return null;
  }
}
