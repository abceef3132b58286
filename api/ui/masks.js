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

/** Which pixels of the raster a segment covers, `Uint8Array` of rows. */
export async function rasterOf(segment, size) {
  const [columns, rows] = size;
  const covered = new Uint8Array(columns * rows);
  if (segment.rle) {
    paintRuns(segment.rle, size, (x, top, bottom) => {
      for (let y = top; y < bottom; y += 1) covered[y * columns + x] = 1;
    });
    return covered;
  }
  try {
    const image = await load(segment.mask_url);
    const alpha = pixels(image, size);
    for (let i = 0; i < covered.length; i += 1) covered[i] = alpha[i * 4 + 3] > 127 ? 1 : 0;
  } catch {
    return null; // another host's file, which a page may show but not read
  }
  return covered;
}

/** The box of a segment as a raster: what is left where its mask cannot be read. */
export function boxRaster({ bbox }, [width, height], [columns, rows]) {
  const covered = new Uint8Array(columns * rows);
  const [left, right] = [bbox.x, bbox.x + bbox.width].map((x) => Math.round((x * columns) / width));
  const [top, bottom] = [bbox.y, bbox.y + bbox.height].map((y) => Math.round((y * rows) / height));
  for (let y = top; y < bottom; y += 1) covered.fill(1, y * columns + left, y * columns + right);
  return covered;
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

function pixels(image, [columns, rows]) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, columns, rows);
  return context.getImageData(0, 0, columns, rows).data;
}

/** The colour of a segment, as the service's overlay has it: the golden ratio around the wheel. */
export function colourOf(index) {
  const [hue, saturation] = [((index * 0.618034) % 1) * 6, 0.85];
  return [5, 3, 1].map((offset) => {
    const k = (offset + hue) % 6;
    return Math.round(255 * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}
