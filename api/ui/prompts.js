// Points and a box on the picture: by mouse, by finger, by keyboard.

import { announce, byId, make } from "./dom.js";

const DRAG = 6; // pixels of the screen from which on a press is a box
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Prompts {
  /** `onAsk()` is told of every change that leaves something to ask, `onClear()` when nothing is left. */
  constructor({ onAsk, onClear }) {
    this.place = byId("marks");
    Object.assign(this, { onAsk, onClear, size: [1, 1] });
    this.reset();
    this.place.addEventListener("pointerdown", (event) => this.press(event));
    this.place.addEventListener("pointermove", (event) => this.drag(event));
    this.place.addEventListener("pointerup", (event) => this.release(event));
    this.place.addEventListener("pointercancel", () => ((this.pressed = null), this.draw()));
    this.place.addEventListener("keydown", (event) => this.key(event));
    this.place.addEventListener("focus", () => this.draw());
    this.place.addEventListener("blur", () => this.draw());
    this.place.addEventListener("contextmenu", (event) => event.preventDefault());
    byId("beside").onclick = (event) => {
      const isOn = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(isOn));
    };
    byId("undo").onclick = () => this.undo();
  }

  /** Forgets everything; nobody is told. */
  reset() {
    Object.assign(this, { points: [], box: null, past: [], pressed: null, band: null, corner: null });
    this.cursor = [0.5, 0.5];
    byId("beside").setAttribute("aria-pressed", "false");
    this.draw();
  }

  /** The picture's own size in pixels. */
  of(width, height) {
    this.size = [Math.max(1, width), Math.max(1, height)];
    this.draw();
  }

  /** Shows the prompt that a job was asked for. */
  take({ points, box }) {
    Object.assign(this, { points: points ?? [], box: box ?? null });
    this.draw();
  }

  get isEmpty() {
    return !this.box && !this.points.some(([, , label]) => label);
  }

  /** The parameters that ask for it. */
  parameters() {
    return { ...(this.points.length ? { points: this.points } : {}), ...(this.box ? { box: this.box } : {}) };
  }

  /** A place of the screen in the picture's pixels, within it. */
  at({ clientX, clientY }) {
    const box = this.place.getBoundingClientRect();
    return this.pixel((clientX - box.left) / box.width, (clientY - box.top) / box.height);
  }

  pixel(x, y) {
    const [width, height] = this.size;
    const within = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
    return [within(x * width, width), within(y * height, height)];
  }

  press(event) {
    if (event.button > 0 && event.button !== 2) return;
    this.place.setPointerCapture(event.pointerId);
    this.pressed = { x: event.clientX, y: event.clientY, from: this.at(event) };
  }

  drag(event) {
    const pressed = this.pressed;
    if (!pressed || Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < DRAG) return;
    this.band = boxOf(pressed.from, this.at(event));
    this.draw();
  }

  release(event) {
    const [pressed, band] = [this.pressed, this.band];
    Object.assign(this, { pressed: null, band: null });
    if (!pressed) return;
    if (band) return this.change({ box: band });
    const isBeside = event.shiftKey || event.altKey || event.button === 2 || byId("beside").getAttribute("aria-pressed") === "true";
    this.add(pressed.from, !isBeside);
  }

  key(event) {
    if (event.key in STEPS) this.move(event);
    else if (event.key === "Enter" || event.key === " ") this.add(this.pixel(...this.cursor), !(event.shiftKey || event.altKey || byId("beside").getAttribute("aria-pressed") === "true"));
    else if (event.key === "b") this.mark();
    else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) this.undo();
    else return;
    event.preventDefault();
  }

  move({ key, shiftKey }) {
    const step = shiftKey ? 0.002 : 0.02;
    this.cursor = this.cursor.map((value, axis) => Math.min(0.9999, Math.max(0, value + STEPS[key][axis] * step)));
    announce(this.pixel(...this.cursor).join(", "));
    this.draw();
  }

  /** A corner of a box by keyboard; the second one completes it. */
  mark() {
    const here = this.pixel(...this.cursor);
    const corner = this.corner;
    this.corner = corner ? null : here;
    if (corner) return this.change({ box: boxOf(corner, here) });
    announce("A corner; go to the other one and press b again.");
    return this.draw();
  }

  add([x, y], isOn) {
    announce(isOn ? `A point on it, ${x}, ${y}.` : `A point beside it, ${x}, ${y}.`);
    this.change({ points: [...this.points, [x, y, isOn ? 1 : 0]] });
  }

  change(changes) {
    this.past.push({ points: this.points, box: this.box });
    Object.assign(this, changes);
    this.tell();
  }

  undo() {
    if (!this.past.length) return;
    Object.assign(this, this.past.pop());
    announce("Undone.");
    this.tell();
  }

  tell() {
    this.draw();
    if (this.isEmpty) this.onClear();
    else this.onAsk();
  }

  draw() {
    const [width, height] = this.size;
    const share = (value, of) => `${(100 * value) / of}%`;
    const marks = this.points.map(([x, y, label]) => {
      const mark = make("i", { className: label ? "on" : "beside" });
      Object.assign(mark.style, { left: share(x + 0.5, width), top: share(y + 0.5, height) });
      return mark;
    });
    const box = this.band ?? this.box;
    if (box) {
      const frame = make("b");
      Object.assign(frame.style, { left: share(box[0], width), top: share(box[1], height), width: share(box[2] - box[0], width), height: share(box[3] - box[1], height) });
      marks.unshift(frame);
    }
    if (this.place.matches(":focus-visible")) {
      const cursor = make("u");
      Object.assign(cursor.style, { left: `${this.cursor[0] * 100}%`, top: `${this.cursor[1] * 100}%` });
      marks.push(cursor);
    }
    this.place.replaceChildren(...marks);
    byId("undo").disabled = !this.past.length;
  }
}

/** The box between two pixels, both of them inside. */
function boxOf([x, y], [u, v]) {
  return [Math.min(x, u), Math.min(y, v), Math.max(x, u) + 1, Math.max(y, v) + 1];
}
