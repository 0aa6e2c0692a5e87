// The map of IPv4. What is seen is a prefix of an even length, a square; a step in is a quarter of it.
//
// The square is cut into cells. A row that is not larger than a cell adds what lies in none of the rows inside it to its
// cell; a larger one is a tint below them. So every count is drawn once.

import { address, box, SIDE } from "./curve.js";
import { around, address4, everything, isInside, parse } from "./prefixes.js";
import { colourOf, colours, scaleEnd } from "./colours.js";
import { Surface } from "./surface.js";

const CELLS = 64; // a side
const NAMED = 3; // cells whose heaviest row is named
const BLOCKS = 4; // named squares a side
const DEEPEST = 28;
const LABELLED = 0.03; // of all
const MOST = 0.75;
const TINT = 0.35;
const RESERVED = [
  "0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3",
].map(parse);

export class IPv4Map {
  // on.point(prefix, cell), on.choose(prefix), on.view(prefix)
  constructor(canvas, model, on) {
    Object.assign(this, { model, on, measure: "count", most: 1 });
    this.view = everything(false);
    this.selected = this.cursor = this.pointed = null;
    this.surface = new Surface(canvas, this);
    this.sums = new Float64Array(CELLS * CELLS);
    this.heaviest = new Array(CELLS * CELLS).fill(null);
  }

  // What is seen, and the part of the curve that it is.
  set view(prefix) {
    this.prefix = prefix;
    this.seen = box(prefix);
  }

  get view() {
    return this.prefix;
  }

  // Part of the canvas for a box of the curve.
  rect({ x, y, w, h }) {
    const { seen } = this;
    const scale = this.surface.width / seen.w;
    return [(x - seen.x) * scale, (y - seen.y) * scale, w * scale, h * scale];
  }

  draw() {
    const { context, width } = this.surface;
    if (!width) return;
    const { seen } = this;
    const side = Math.min(CELLS, seen.w);
    const cell = seen.w / side;
    const tints = this.gather(seen, side, cell);
    const tone = colours();
    this.drawBelow(context, width);
    this.tint(context, tints);
    this.paint(context, width, side);
    this.nameHeaviest(context, width, side);
    if (this.selected && !this.selected.six) this.outline(context, box(this.selected), tone.accent, 2.5);
    if (this.cursor) this.outline(context, this.cursor, tone.text, 1);
  }

  // What is below the counts: drawn anew only if another square is seen, or in other colours.
  drawBelow(context, width) {
    const of = [this.view.key, this.surface.canvas.width, colours().ground].join();
    if (of !== this.backOf) {
      this.backOf = of;
      this.drawn = new OffscreenCanvas(this.surface.canvas.width, this.surface.canvas.width);
      const below = this.drawn.getContext("2d");
      below.setTransform(context.getTransform());
      below.fillStyle = colours().ground;
      below.fillRect(0, 0, width, width);
      this.hatch(below);
      this.name(below, width);
    }
    context.drawImage(this.drawn, 0, 0, width, width);
  }

  // Sums of the cells; returns the rows that are larger than a cell.
  gather(seen, side, cell) {
    const { sums, heaviest, measure } = this;
    const tints = [];
    const figure = { count: "rest", refused: "restRefused", change: "restChange" }[measure];
    sums.fill(0);
    heaviest.fill(null);
    for (const row of this.model.rows) {
      if (row.six) break;
      const { x, y, w, h } = row.box;
      if (x + w <= seen.x || y + h <= seen.y || x >= seen.x + seen.w || y >= seen.y + seen.h) continue;
      if (w > cell || h > cell) {
        tints.push(row);
        continue;
      }
      const at = Math.floor((y - seen.y) / cell) * side + Math.floor((x - seen.x) / cell);
      sums[at] += row[figure];
      if (!heaviest[at] || row.count > heaviest[at].count) heaviest[at] = row;
    }
    let most = 1;
    for (let at = 0; at < side * side; at++) most = Math.max(most, Math.abs(sums[at]));
    for (const row of tints) if (!row.children.length) most = Math.max(most, Math.abs(row[figure]));
    this.most = scaleEnd(most);
    this.figure = figure;
    return tints;
  }

  // Colours first and lines afterwards: to change what is drawn with costs more than to draw.
  tint(context, rows) {
    const boxes = rows.map((row) => this.rect(row.box));
    context.globalAlpha = TINT;
    rows.forEach((row, at) => {
      const found = colourOf(this.measure, row[this.figure], this.most);
      if (!found) return;
      context.fillStyle = found.css;
      context.fillRect(...boxes[at]);
    });
    context.globalAlpha = 1;
    context.strokeStyle = colours().grid;
    context.lineWidth = 1;
    rows.forEach((row, at) => {
      const [x, y, w, h] = boxes[at];
      if (row.length > this.view.length && w >= 10) context.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
    });
  }

  paint(context, width, side) {
    const step = width / side;
    const cells = new Map(); // by colour: to set one costs more than to fill a cell
    for (let at = 0; at < side * side; at++) {
      if (this.sums[at] === 0) continue;
      const { css } = colourOf(this.measure, this.sums[at], this.most);
      if (cells.has(css)) cells.get(css).push(at);
      else cells.set(css, [at]);
    }
    for (const [css, those] of cells) {
      context.fillStyle = css;
      for (const at of those) context.fillRect((at % side) * step, Math.floor(at / side) * step, step, step);
    }
  }

  hatch(context) {
    context.strokeStyle = colours().hatch;
    context.lineWidth = 1;
    for (const prefix of RESERVED) {
      if (!isInside(prefix, this.view) && !isInside(this.view, prefix)) continue;
      const [x, y, w, h] = this.rect(isInside(this.view, prefix) ? this.seen : box(prefix));
      if (w < 6) continue;
      context.save();
      context.beginPath();
      context.rect(x, y, w, h);
      context.clip();
      context.beginPath();
      for (let line = -h; line < w; line += 7) {
        context.moveTo(x + line, y + h);
        context.lineTo(x + line + h, y);
      }
      context.stroke();
      context.restore();
    }
  }

  // The grid, and the name of each of its squares.
  name(context, width) {
    const step = width / BLOCKS;
    context.strokeStyle = colours().grid;
    context.lineWidth = 1;
    context.beginPath();
    for (let line = 1; line < BLOCKS; line++) {
      const at = Math.round(line * step) + 0.5;
      context.moveTo(at, 0);
      context.lineTo(at, width);
      context.moveTo(0, at);
      context.lineTo(width, at);
    }
    context.stroke();
    context.font = "11px system-ui, sans-serif";
    const { seen } = this;
    const block = seen.w / BLOCKS;
    for (let at = 0; at < BLOCKS * BLOCKS; at++) {
      const [column, line] = [at % BLOCKS, Math.floor(at / BLOCKS)];
      const first = address(seen.x + column * block, seen.y + line * block);
      const name = around(address4(first), this.view.length + 4).text;
      this.write(context, name, column * step + 4, line * step + 13, colours().muted, step - 6);
    }
  }

  // The heaviest cells have names, too: what is busiest is seen without a pointer.
  nameHeaviest(context, width, side) {
    const step = width / side;
    context.font = "bold 12px system-ui, sans-serif";
    const least = LABELLED * this.model.total;
    const named = this.heaviest.map((row, at) => ({ row, at, sum: Math.abs(this.sums[at]) }))
      .filter(({ row, sum }) => row && sum && row.count > least)
      .sort((a, b) => b.sum - a.sum).slice(0, NAMED);
    const taken = [];
    for (const { row: outer, at } of named) {
      const row = mostOf(outer);
      const [x, y] = [(at % side) * step, Math.floor(at / side) * step];
      const wide = context.measureText(row.text).width;
      const left = x + step + wide + 6 > width ? x - wide - 4 : x + step + 3;
      const isNear = (one, top) => Math.abs(one.top - top) < 14 && Math.abs(one.left - left) < wide;
      const free = (top) => !taken.some((one) => isNear(one, top));
      const top = [4, -10, 18].map((shift) => Math.max(24, Math.min(width - 4, y + step / 2 + shift))).find(free);
      if (left < 0 || top === undefined) continue;
      taken.push({ left, top });
      this.write(context, row.text, left, top, colours().text);
    }
  }

  write(context, words, x, y, colour, room) {
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = colours().ground;
    context.strokeText(words, x, y, room);
    context.fillStyle = colour;
    context.fillText(words, x, y, room);
  }

  outline(context, part, colour, thickness) {
    let [x, y, w, h] = this.rect(part);
    const room = Math.max(0, 9 - Math.min(w, h)) / 2; // what is tiny is outlined at a distance
    [x, y, w, h] = [x - room, y - room, w + 2 * room, h + 2 * room];
    context.lineWidth = thickness + 2;
    context.strokeStyle = colours().ground;
    context.strokeRect(x, y, w, h);
    context.lineWidth = thickness;
    context.strokeStyle = colour;
    context.strokeRect(x, y, w, h);
  }

  // ---- what Surface asks for

  point(px, py) {
    const { seen } = this;
    const side = Math.min(CELLS, seen.w);
    const cell = seen.w / side;
    const column = Math.max(0, Math.min(side - 1, Math.floor((px / this.surface.width) * side)));
    const line = Math.max(0, Math.min(side - 1, Math.floor((py / this.surface.width) * side)));
    const part = { x: seen.x + column * cell, y: seen.y + line * cell, w: cell, h: cell };
    this.pointAt(part, this.heaviest[line * side + column]);
  }

  pointAt(part, row) {
    const host = address4(address(part.x, part.y));
    this.cell = around(host, 32 - 2 * Math.log2(part.w));
    this.cursor = part;
    this.pointed = row ? mostOf(row) : this.model.enclosing(host);
    this.on.point(this.pointed, this.cell);
    this.draw();
  }

  leave() {
    this.cursor = this.pointed = null;
    this.on.point(null, null);
    this.draw();
  }

  choose() {
    if (this.pointed) this.on.choose(this.pointed);
  }

  enter(px, py) {
    if (!this.mayEnter()) return;
    const { seen } = this;
    const inside = (pixels) => Math.max(0, Math.min(0.999, pixels / this.surface.width)) * seen.w;
    const host = address(Math.floor(seen.x + inside(px)), Math.floor(seen.y + inside(py)));
    this.on.view(around(address4(host), this.view.length + 2));
  }

  back() {
    if (this.mayGoBack()) this.on.view(around(this.view, this.view.length - 2));
  }

  mayEnter() {
    return this.view.length < DEEPEST;
  }

  mayGoBack() {
    return this.view.length > 0;
  }

  zoomIn() {
    const [px, py] = this.rect(this.at());
    this.enter(px, py);
  }

  showAll() {
    this.on.view(everything(false));
  }

  // Where the cursor is, or the middle.
  at() {
    const { x, y, w } = this.seen;
    return this.cursor ?? { x: x + w / 2, y: y + w / 2, w: 1, h: 1 };
  }

  // Arrows move the cursor by a sixteenth of the square, and on to the next square.
  move(name) {
    const { seen } = this;
    const at = this.at();
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[name];
    if (!way) return false;
    const step = Math.max(1, seen.w / 16);
    const snapped = [at.x, at.y].map((value, axis) => {
      const moved = Math.floor(value / step) * step + way[axis] * step;
      return Math.max(0, Math.min(SIDE - step, moved));
    });
    const part = { x: snapped[0], y: snapped[1], w: step, h: step };
    const cell = around(address4(address(part.x, part.y)), 32 - 2 * Math.log2(step));
    if (!isInside(cell, this.view)) this.on.view(around(cell, this.view.length));
    this.pointAt(part, this.heaviestIn(cell));
    return true;
  }

  heaviestIn(cell) {
    let best = null;
    const { rows } = this.model;
    for (let i = this.model.position(cell.key); i < rows.length && isInside(rows[i], cell); i++) {
      if (!best || rows[i].count > best.count) best = rows[i];
    }
    return best;
  }
}

// The longest row that has most of what a row has.
function mostOf(row) {
  for (;;) {
    const child = row.children.find((one) => one.count > MOST * row.count);
    if (!child) return row;
    row = child;
  }
}
