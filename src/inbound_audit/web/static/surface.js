// A canvas that can be looked into: its size, and what a pointer, a wheel, two fingers and keys do to it.

const WHEEL_STEP = 60;
const PINCH = 1.4;

export class Surface {
  // `of` has draw(), point(x, y), leave(), choose(), enter(x, y), zoomIn(), back(), showAll(), mayEnter(), mayGoBack(), and
  // move(name), which returns whether the key was for it. x and y are in CSS pixels.
  constructor(canvas, of) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.of = of;
    this.width = 0;
    this.height = 0;
    this.touches = new Map();
    this.wheeled = 0;
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerdown", (event) => this.pressed(event));
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      canvas.addEventListener(name, (event) => this.lifted(event, name));
    }
    canvas.addEventListener("click", (event) => {
      of.point(event.offsetX, event.offsetY);
      of.choose();
    });
    canvas.addEventListener("dblclick", (event) => of.enter(event.offsetX, event.offsetY));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.key(event.key)) event.preventDefault();
    });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const dense = Math.min(2, devicePixelRatio || 1);
    if (!width || (width === this.width && height === this.height)) return;
    Object.assign(this, { width, height });
    this.canvas.width = Math.round(width * dense);
    this.canvas.height = Math.round(height * dense);
    this.context.setTransform(dense, 0, 0, dense, 0, 0);
    this.of.draw();
  }

  pressed(event) {
    if (event.pointerType === "touch") this.touches.set(event.pointerId, event);
    this.spread = this.distance();
  }

  moved(event) {
    if (event.pointerType !== "touch") return this.of.point(event.offsetX, event.offsetY);
    if (!this.touches.has(event.pointerId)) return;
    this.touches.set(event.pointerId, event);
    const spread = this.distance();
    if (!spread || !this.spread) return;
    if (spread > this.spread * PINCH) {
      const [a, b] = this.touches.values();
      this.of.enter((a.offsetX + b.offsetX) / 2, (a.offsetY + b.offsetY) / 2);
    } else if (spread < this.spread / PINCH) this.of.back();
    else return;
    this.spread = spread;
  }

  lifted(event, name) {
    this.touches.delete(event.pointerId);
    if (name === "pointerleave" && event.pointerType !== "touch") this.of.leave();
  }

  distance() {
    if (this.touches.size !== 2) return 0;
    const [a, b] = this.touches.values();
    return Math.hypot(a.offsetX - b.offsetX, a.offsetY - b.offsetY);
  }

  // Whether the key was for it.
  key(name) {
    const { of } = this;
    if (name === "+" || name === "=") of.zoomIn();
    else if (name === "-" || name === "Backspace") of.back();
    else if (name === "Enter" || name === " ") of.choose();
    else if (name === "Escape") of.showAll();
    else return of.move(name);
    return true;
  }

  // Up is in. Where there is no way further, the page scrolls.
  wheel(event) {
    const before = this.wheeled;
    this.wheeled = Math.sign(before) === Math.sign(event.deltaY) ? before + event.deltaY : event.deltaY;
    const may = this.wheeled < 0 ? this.of.mayEnter() : this.of.mayGoBack();
    if (!may) return;
    event.preventDefault();
    if (Math.abs(this.wheeled) < WHEEL_STEP) return;
    if (this.wheeled < 0) this.of.enter(event.offsetX, event.offsetY);
    else this.of.back();
    this.wheeled = 0;
  }
}
