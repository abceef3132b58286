// Masks as small rasters: read from COCO's run lengths, or from mask files where there are none.

/** The run lengths of COCO's compressed text, beginning with zeros (as pycocotools' rleFrString). */
export function runLengths(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let [value, shift, code] = [0, 0, 0];
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** The size of the raster for a picture: at most `longest` pixels along a side. */
export function rasterSize(width, height, longest = 1400) {
  const scale = Math.min(1, longest / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Calls `put(x, top, bottom)` for each piece of a column of the raster that the mask covers. */
export function paintRuns({ size: [height, width], counts }, [columns, rows], put) {
  const columnOf = new Int32Array(width).fill(-1);
  for (let x = 0; x < columns; x += 1) columnOf[Math.min(width - 1, Math.floor(((x + 0.5) * width) / columns))] = x;
  const row = (y) => Math.max(0, Math.ceil((y * rows) / height - 0.5));
  let position = 0;
  runLengths(counts).forEach((run, index) => {
    const end = position + run;
    while (index % 2 && position < end) {
      const x = Math.floor(position / height);
      const top = position - x * height;
      const bottom = Math.min(height, top + end - position);
      if (columnOf[x] >= 0) put(columnOf[x], row(top), row(bottom));
      position = x * height + bottom;
    }
    position = end;
  });
}

/** The part of the raster in which a segment lies. */
function windowOf({ bbox }, [width, height], [columns, rows]) {
  const left = Math.max(0, Math.floor((bbox.x * columns) / width) - 1);
  const top = Math.max(0, Math.floor((bbox.y * rows) / height) - 1);
  const right = Math.min(columns, Math.ceil(((bbox.x + bbox.width) * columns) / width) + 1);
  const bottom = Math.min(rows, Math.ceil(((bbox.y + bbox.height) * rows) / height) + 1);
  return { left, top, wide: Math.max(1, right - left), high: Math.max(1, bottom - top) };
}

/**
 * Which pixels of its part of the raster a segment covers. `picture` and `size` are the widths and
 * heights of picture and raster; `covered` has a byte for each pixel of the part, in rows.
 */
export async function rasterOf(segment, picture, size) {
  const part = windowOf(segment, picture, size);
  const { left, top, wide, high } = part;
  const covered = new Uint8Array(wide * high);
  if (segment.rle) {
    paintRuns(segment.rle, size, (x, first, end) => {
      for (let y = first; y < end; y += 1) covered[(y - top) * wide + x - left] = 1;
    });
    return { ...part, covered };
  }
  try {
    const alpha = pixels(await load(segment.mask_url), part, size);
    for (let i = 0; i < covered.length; i += 1) covered[i] = alpha[i * 4 + 3] > 127 ? 1 : 0;
  } catch {
    covered.fill(1); // another host's file, which a page may show but not read: its box is left
  }
  return { ...part, covered };
}

function load(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    if (new URL(url, location.href).origin !== location.origin) image.crossOrigin = "anonymous";
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error(url));
    image.src = url;
  });
}

function pixels(image, { left, top, wide, high }, [columns, rows]) {
  const context = new OffscreenCanvas(wide, high).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, -left, -top, columns, rows);
  return context.getImageData(0, 0, wide, high).data;
}

/** The colour of a segment, as the service's overlay has it: the golden ratio around the wheel. */
export function colourOf(index) {
  const [hue, saturation] = [((index * 0.618034) % 1) * 6, 0.85];
  return [5, 3, 1].map((offset) => {
    const k = (offset + hue) % 6;
    return Math.round(255 * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}
