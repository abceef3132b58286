// The picture with its segments: tinted, and one lit while the others are dimmed.

import { byId } from "./dom.js";
import { colourOf, rasterOf, rasterSize } from "./masks.js";

const TINT = 0x66000000; // 40 % of alpha, the highest byte of a pixel's word
const LOADS_AT_ONCE = 6;

export class Viewer {
  /** `onHover(index)` and `onPick(index)` are told of segments by their place; -1 is none. */
  constructor({ onHover, onPick, labelOf }) {
    this.canvas = byId("tint");
    this.chip = byId("chip");
    this.labelOf = labelOf;
    this.isShaded = true;
    this.clear();
    this.canvas.addEventListener("pointermove", (event) => {
      const index = this.at(event);
      this.moveChip(event, index);
      onHover(index);
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.chip.hidden = true;
      onHover(-1);
    });
    this.canvas.addEventListener("click", (event) => onPick(this.at(event)));
  }

  clear() {
    this.segments = [];
    this.hidden = new Set();
    this.masks = new Map();
    this.ids = null;
    this.base = null;
    this.lit = -1;
    this.generation = (this.generation ?? 0) + 1;
    this.chip.hidden = true;
    this.canvas.width = this.canvas.height = 1;
  }

  /** Takes a finished job; masks that must be fetched appear one by one. */
  async show(job) {
    this.clear();
    const generation = this.generation;
    this.segments = job.segments;
    this.picture = [job.width, job.height];
    this.size = rasterSize(...this.picture);
    [this.canvas.width, this.canvas.height] = this.size;
    this.ids = new Uint16Array(this.size[0] * this.size[1]);
    const order = [...job.segments.keys()].sort((a, b) => job.segments[b].area - job.segments[a].area);
    this.rankOf = new Uint16Array(order.length);
    order.forEach((index, rank) => (this.rankOf[index] = rank));
    await this.readAll(order, generation);
  }

  async readAll(order, generation) {
    const queue = [...order];
    const work = async () => {
      for (let index = queue.shift(); index !== undefined; index = queue.shift()) {
        const segment = this.segments[index];
        const raster = await rasterOf(segment, this.picture, this.size);
        if (generation !== this.generation) return;
        this.mark(index, raster);
        if (!segment.rle && queue.length % 32 === 0) this.refresh();
      }
    };
    await Promise.all(Array.from({ length: LOADS_AT_ONCE }, work));
    if (generation === this.generation) this.refresh();
  }

  /** Writes a segment into the map of ids, over larger ones and below smaller ones. */
  mark(index, { left, top, wide, high, covered }) {
    const image = new ImageData(wide, high);
    const words = new Uint32Array(image.data.buffer);
    for (let from = 0; from < words.length; from += 1) if (covered[from]) words[from] = 0xffffffff;
    this.enter(index, covered, { left, top, wide, high });
    const canvas = new OffscreenCanvas(wide, high);
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.masks.set(index, { canvas, left, top });
  }

  enter(index, covered, { left, top, wide, high }) {
    if (this.hidden.has(index)) return;
    const rank = this.rankOf[index];
    for (let y = 0, from = 0; y < high; y += 1) {
      let at = (top + y) * this.size[0] + left;
      for (let x = 0; x < wide; x += 1, from += 1, at += 1) {
        if (covered[from] && (!this.ids[at] || this.rankOf[this.ids[at] - 1] <= rank)) this.ids[at] = index + 1;
      }
    }
  }

  /** Leaves segments out, by their places: what lies below them is shown. */
  hide(indices) {
    this.hidden = new Set(indices);
    this.ids.fill(0);
    for (const [index, { canvas, left, top }] of this.masks) {
      const { width: wide, height: high } = canvas;
      const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, wide, high).data.buffer);
      this.enter(index, words, { left, top, wide, high });
    }
    this.refresh();
  }

  /** Draws the tint of all segments anew. */
  refresh() {
    const [columns, rows] = this.size;
    const image = new ImageData(columns, rows);
    const words = new Uint32Array(image.data.buffer); // alpha, blue, green, red: browsers run on little-endian machines
    const colours = this.segments.map((_, index) => colourOf(index)).map(([red, green, blue]) => (blue << 16) | (green << 8) | red);
    for (let i = 0; i < this.ids.length; i += 1) {
      const id = this.ids[i];
      if (!id) continue;
      const isEdge = id !== this.ids[i + 1] || id !== this.ids[i - 1] || id !== this.ids[i + columns] || id !== this.ids[i - columns];
      words[i] = ((isEdge ? 0xff000000 : TINT) | colours[id - 1]) >>> 0;
    }
    this.base = new OffscreenCanvas(columns, rows);
    this.base.getContext("2d").putImageData(image, 0, 0);
    this.draw();
  }

  light(index) {
    if (index === this.lit) return;
    this.lit = index;
    this.draw();
  }

  shade(isShaded) {
    this.isShaded = isShaded;
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const mask = this.masks.get(this.lit);
    if (mask) this.drawLit(context, mask);
    else if (this.base && this.isShaded) context.drawImage(this.base, 0, 0);
  }

  drawLit(context, { canvas, left, top }) {
    const width = Math.max(1.5, Math.max(...this.size) / 450);
    context.fillStyle = "#000a";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(canvas, left, top);
    context.globalCompositeOperation = "source-over";
    context.drawImage(outline(canvas, width, `rgb(${colourOf(this.lit)})`), left - 2 * width, top - 2 * width);
  }

  /** The place of the segment under a pointer; -1 is none. */
  at(event) {
    if (!this.ids) return -1;
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * this.size[0]);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.size[1]);
    return (this.ids[y * this.size[0] + x] || 0) - 1;
  }

  moveChip(event, index) {
    this.chip.hidden = index < 0 || event.pointerType === "touch";
    if (this.chip.hidden) return;
    this.chip.textContent = this.labelOf(this.segments[index], index);
    const box = byId("view").getBoundingClientRect();
    const x = Math.min(event.clientX - box.left + 14, box.width - this.chip.offsetWidth - 6);
    const y = Math.min(event.clientY - box.top + 18, box.height - this.chip.offsetHeight - 6);
    this.chip.style.transform = `translate(${x}px, ${y}px)`;
  }
}

/** The outer edge of a mask, `width` thick, white with its colour around. */
function outline(mask, width, colour) {
  const pad = 2 * width;
  const ring = (thick, paint) => {
    const canvas = new OffscreenCanvas(Math.ceil(mask.width + 2 * pad), Math.ceil(mask.height + 2 * pad));
    const context = canvas.getContext("2d");
    for (let turn = 0; turn < 16; turn += 1) {
      const angle = (turn * Math.PI) / 8;
      context.drawImage(mask, pad + thick * Math.cos(angle), pad + thick * Math.sin(angle));
    }
    context.globalCompositeOperation = "source-in";
    context.fillStyle = paint;
    context.fillRect(0, 0, canvas.width, canvas.height);
    return canvas;
  };
  const both = ring(2 * width, colour);
  const context = both.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.drawImage(ring(width, "#fff"), 0, 0);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(mask, pad, pad);
  return both;
}
