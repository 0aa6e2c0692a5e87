// The tree of the IPv6 rows: each row as wide as its count, and the rows inside it below it. What is seen is a row.

import { colourOf, colours, scaleEnd } from "./colours.js";
import { everything } from "./prefixes.js";
import { number } from "./dom.js";
import { Surface } from "./surface.js";

const LINE = 24;
const NARROWEST = 0.7; // pixels: what is narrower is not drawn

export class Icicle {
  // on.point(row, null), on.choose(row), on.view(prefix)
  constructor(canvas, model, on) {
    Object.assign(this, { model, on, view: everything(true), measure: "count", parts: [] });
    this.selected = this.pointed = null;
    this.surface = new Surface(canvas, this);
  }

  get root() {
    const found = this.model.about(this.view);
    return found.children ? found : this.model.rows.find((row) => row.six && !row.parent) ?? null;
  }

  draw() {
    const { context, width, height } = this.surface;
    if (!width) return;
    context.fillStyle = colours().ground;
    context.fillRect(0, 0, width, height);
    this.parts.length = 0;
    const root = this.root;
    if (!root) return;
    this.most = scaleEnd(Math.max(1, this.measure === "count" ? root.count : this.largest(root)));
    context.font = "11px system-ui, sans-serif";
    this.place(root, 0, 0, width);
    for (const row of [this.selected, this.pointed]) this.outline(context, row);
  }

  largest(root) {
    let most = 0;
    const visit = (row) => {
      most = Math.max(most, Math.abs(row[this.measure] ?? 0));
      row.children.forEach(visit);
    };
    visit(root);
    return most;
  }

  place(row, x, depth, width) {
    const y = depth * LINE;
    if (y + LINE > this.surface.height || width < NARROWEST) return;
    this.parts.push({ row, x, y, width });
    this.paint(row, x, y, width);
    const scale = width / row.count;
    let at = x;
    for (const child of [...row.children].sort((a, b) => b.count - a.count || (a.key < b.key ? -1 : 1))) {
      this.place(child, at, depth + 1, child.count * scale);
      at += child.count * scale;
    }
  }

  paint(row, x, y, width) {
    const { context } = this.surface;
    const found = colourOf(this.measure, row[this.measure] ?? 0, this.most);
    context.fillStyle = found?.css ?? colours().panel;
    const gap = width > 3 ? 1 : 0;
    context.fillRect(x, y, width - gap, LINE - 1);
    if (width < 40) return;
    context.fillStyle = found ? (found.dark ? "#fff" : "#000") : colours().text;
    context.save();
    context.beginPath();
    context.rect(x, y, width - 4, LINE);
    context.clip();
    context.fillText(width > 150 ? `${row.text}  ${number(row.count)}` : row.text, x + 4, y + 16);
    context.restore();
  }

  outline(context, row) {
    const part = row && this.parts.find((part) => part.row.key === row.key);
    if (!part) return;
    context.lineWidth = 2;
    context.strokeStyle = row === this.pointed ? colours().text : colours().accent;
    context.strokeRect(part.x + 1, part.y + 1, Math.max(2, part.width - 3), LINE - 3);
  }

  at(px, py) {
    return this.parts.find(({ x, y, width }) => px >= x && px < x + width && py >= y && py < y + LINE)?.row ?? null;
  }

  // ---- what Surface asks for

  point(px, py) {
    this.pointRow(this.at(px, py));
  }

  pointRow(row) {
    if (row === this.pointed) return;
    this.pointed = row;
    this.on.point(row, null);
    this.draw();
  }

  leave() {
    this.pointRow(null);
  }

  choose() {
    if (this.pointed) this.on.choose(this.pointed);
  }

  enter(px, py) {
    const row = this.at(px, py);
    if (row && row !== this.root) this.on.view(row);
  }

  back() {
    const root = this.root;
    if (root) this.on.view(root.parent ?? everything(true));
  }

  mayEnter() {
    return this.pointed !== null && this.pointed !== this.root;
  }

  mayGoBack() {
    return Boolean(this.root?.parent);
  }

  zoomIn() {
    const row = this.pointed ?? this.root;
    if (row) this.on.view(row);
  }

  showAll() {
    this.on.view(everything(true));
  }

  move(name) {
    const root = this.root;
    const row = this.pointed ?? root;
    if (!row || !name.startsWith("Arrow")) return false;
    const parts = this.parts;
    const at = parts.findIndex((part) => part.row === row);
    const level = parts.filter((part) => part.y === parts[at]?.y);
    const beside = level.findIndex((part) => part.row === row);
    const next = {
      ArrowLeft: level[beside - 1]?.row,
      ArrowRight: level[beside + 1]?.row,
      ArrowUp: row === root ? null : row.parent,
      ArrowDown: parts.find((part) => part.row.parent === row)?.row,
    }[name];
    this.pointRow(next ?? row);
    return true;
  }
}
