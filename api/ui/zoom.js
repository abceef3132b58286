// The picture larger than its place: by wheel, by buttons, by keys; moved by dragging.

import { announce, byId, percent } from "./dom.js";

const MOST = 16;
const STEP = 1.5;
const DRAG = 4; // pixels of the screen from which on a press moves the picture

export class Zoom {
  constructor() {
    [this.view, this.frame] = [byId("view"), byId("frame")];
    this.dragged = null;
    this.reset();
    this.view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.frame.addEventListener("pointerdown", (event) => this.press(event));
    this.frame.addEventListener("pointermove", (event) => this.drag(event));
    this.frame.addEventListener("pointerup", () => this.release());
    this.frame.addEventListener("pointercancel", () => this.release());
    this.frame.addEventListener("click", (event) => this.swallow(event), { capture: true });
    byId("closer").onclick = () => this.by(STEP);
    byId("farther").onclick = () => this.by(1 / STEP);
    byId("fit").onclick = () => this.reset();
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("resize", () => this.reset());
  }

  /** The whole picture again. */
  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.draw();
  }

  /** Enlarges by a factor; what is below that place of the screen stays there. */
  by(factor, place = middle(this.view)) {
    const before = this.scale;
    this.scale = Math.min(MOST, Math.max(1, before * factor));
    const box = this.frame.getBoundingClientRect();
    const share = this.scale / before - 1;
    this.x -= (place.x - box.left) * share;
    this.y -= (place.y - box.top) * share;
    this.draw();
    announce(`Enlarged to ${percent(this.scale)}.`);
  }

  /** Writes the state into the page, with the picture's edges never inside its place. */
  draw() {
    const within = (value, side) => Math.min(0, Math.max(side * (1 - this.scale), value));
    this.x = within(this.x, this.frame.offsetWidth);
    this.y = within(this.y, this.frame.offsetHeight);
    this.frame.style.transform = this.scale > 1 ? `translate(${this.x}px, ${this.y}px) scale(${this.scale})` : "";
    this.frame.style.setProperty("--zoom", this.scale);
    this.frame.classList.toggle("enlarged", this.scale > 1);
    byId("fit").disabled = byId("farther").disabled = this.scale === 1;
    byId("closer").disabled = this.scale === MOST;
  }

  wheel(event) {
    const scrolls = document.documentElement.scrollHeight > innerHeight;
    if (byId("tools").hidden || (scrolls && !event.ctrlKey)) return;
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), { x: event.clientX, y: event.clientY });
  }

  press(event) {
    if (this.scale === 1 || event.button || event.target !== byId("tint")) return;
    this.dragged = { x: event.clientX, y: event.clientY, from: [this.x, this.y], moved: false };
  }

  drag(event) {
    if (!this.dragged) return;
    const [right, down] = [event.clientX - this.dragged.x, event.clientY - this.dragged.y];
    if (!this.dragged.moved && Math.hypot(right, down) < DRAG) return;
    if (!this.dragged.moved) this.frame.setPointerCapture(event.pointerId);
    this.dragged.moved = true;
    [this.x, this.y] = [this.dragged.from[0] + right, this.dragged.from[1] + down];
    this.draw();
  }

  release() {
    this.swallows = Boolean(this.dragged?.moved);
    this.dragged = null;
  }

  /** The click that ends a drag is none. */
  swallow(event) {
    if (this.swallows) event.stopPropagation();
    this.swallows = false;
  }

  key(event) {
    const isTyping = event.target.matches?.("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey;
    if (isTyping || byId("tools").hidden) return;
    if (event.key === "+" || event.key === "=") this.by(STEP);
    else if (event.key === "-") this.by(1 / STEP);
    else if (event.key === "0") this.reset();
  }
}

function middle(element) {
  const box = element.getBoundingClientRect();
  return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
}
