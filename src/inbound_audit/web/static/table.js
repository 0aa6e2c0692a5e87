// The tree as a table. Only the lines in sight exist, so it costs the same however many rows there are.

import { isInside, parse } from "./prefixes.js";
import { make, number, put, share, show, signed } from "./dom.js";

const LINE = 26; // pixels; style.css has it, too
const SPARE = 3;
const DEEPEST = 18; // levels that are indented
const LARGE = 0.1;
const KEPT = 5000; // rows of which it is known whether they are open

export const ORDERS = {
  prefix: (a, b) => (a.key < b.key ? -1 : 1),
  count: (a, b) => b.count - a.count,
  share: (a, b) => b.count - a.count,
  change: (a, b) => (b.change ?? -Infinity) - (a.change ?? -Infinity),
  refused: (a, b) => b.refused - a.refused,
};

export class Table {
  // on.choose(row), on.order(name, reversed)
  constructor(grid, body, model, on) {
    Object.assign(this, { grid, body, model, on, order: "count", reversed: false, filter: "", selected: null });
    this.open = new Set();
    this.closed = new Set();
    this.active = null; // key of the row that the keyboard is at
    this.lines = [];
    this.shown = [];
    this.headers = [...grid.querySelectorAll("[role=columnheader]")];
    grid.addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.paint()).observe(grid);
    grid.addEventListener("keydown", (event) => this.key(event));
    grid.addEventListener("focus", () => this.paint());
    body.addEventListener("click", (event) => this.clicked(event));
    for (const header of this.headers) {
      header.firstElementChild.addEventListener("click", () => {
        const name = header.dataset.order;
        this.on.order(name, this.order === name && !this.reversed);
      });
    }
  }

  // A row is open if it was opened. One that was once a large part of all opens by itself, until it is closed.
  isOpen(row) {
    if (this.filter !== "" || this.open.has(row.key)) return true;
    if (this.closed.has(row.key) || row.count < LARGE * this.model.total) return false;
    this.open.add(row.key);
    return true;
  }

  toggle(row, open) {
    this.open.delete(row.key);
    this.closed.delete(row.key);
    (open ? this.open : this.closed).add(row.key);
    this.draw();
  }

  // Opens what lies around a row, and goes to it.
  reveal(row) {
    for (let above = row.parent; above; above = above.parent) {
      this.closed.delete(above.key);
      this.open.add(above.key);
    }
    this.active = row.key;
    this.draw();
    this.scrollTo(row.key);
  }

  matches() {
    const words = this.filter.trim().toLowerCase();
    if (!words) return null;
    const prefix = parse(words);
    const named = words.includes("/") || prefix?.length === 32 || prefix?.length === 128;
    if (!prefix || !named) return (row) => row.text.includes(words);
    return (row) => isInside(row, prefix) || (row.length > 0 && isInside(prefix, row));
  }

  draw() {
    const compare = ORDERS[this.order];
    const way = this.reversed ? -1 : 1;
    const sorted = (rows) => [...rows].sort((a, b) => way * compare(a, b) || (a.key < b.key ? -1 : 1));
    const { tops, inside } = this.family(this.matches());
    this.forget();
    this.lines.length = 0;
    const visit = (rows, level) => {
      const beside = sorted(rows);
      beside.forEach((row, at) => {
        const below = inside(row);
        const open = below.length > 0 && this.isOpen(row);
        this.lines.push({ row, level, open, leaf: below.length === 0, at: at + 1, of: beside.length });
        if (open) visit(below, level + 1);
      });
    };
    visit(tops, 1);
    for (const header of this.headers) {
      const ascending = (header.dataset.order === "prefix") !== this.reversed;
      const sort = header.dataset.order === this.order ? (ascending ? "ascending" : "descending") : "none";
      if (header.getAttribute("aria-sort") !== sort) header.setAttribute("aria-sort", sort);
    }
    this.grid.setAttribute("aria-rowcount", String(this.lines.length + 1));
    this.body.style.height = `${this.lines.length * LINE}px`;
    this.paint();
  }

  forget() {
    const { rows } = this.model;
    for (const kept of [this.open, this.closed]) {
      if (kept.size <= KEPT) continue;
      for (const key of kept) if (rows[this.model.position(key)]?.key !== key) kept.delete(key);
    }
  }

  // All rows that match, in the order of addresses, whether they are open or not.
  seen() {
    return this.model.rows.filter(this.matches() ?? (() => true));
  }

  // The outermost rows, and which are inside which: of all rows, or of those that match.
  family(matches) {
    const { rows } = this.model;
    if (!matches) return { tops: rows.filter((row) => !row.parent), inside: (row) => row.children };
    const below = new Map();
    const tops = [];
    for (const row of rows) {
      if (!matches(row)) continue;
      let above = row.parent;
      while (above && !below.has(above)) above = above.parent;
      below.set(row, []);
      (above ? below.get(above) : tops).push(row);
    }
    return { tops, inside: (row) => below.get(row) };
  }

  paint() {
    const first = Math.max(0, Math.floor(this.grid.scrollTop / LINE) - SPARE);
    const n = Math.min(this.lines.length - first, Math.ceil(this.grid.clientHeight / LINE) + 2 * SPARE);
    while (this.shown.length < n) this.shown.push(this.line(this.shown.length));
    let active = null;
    this.shown.forEach((line, at) => {
      show(line.node, at < n);
      if (at >= n) return;
      this.write(line, this.lines[first + at], first + at);
      if (line.row.key === this.active) active = line.node.id;
    });
    if (active !== this.grid.getAttribute("aria-activedescendant")) {
      if (active) this.grid.setAttribute("aria-activedescendant", active);
      else this.grid.removeAttribute("aria-activedescendant");
    }
  }

  line(at) {
    const node = make("div", { className: "row", id: `line-${at}`, role: "row" });
    const name = make("span", { className: "name" });
    const mark = make("span", { className: "mark", ariaHidden: "true" });
    const cells = Array.from({ length: 5 }, () => make("div", { role: "gridcell" }));
    cells[0].append(mark, name);
    node.append(...cells);
    this.body.append(node);
    return { node, mark, name, cells, row: null, bits: "" };
  }

  write(line, { row, level, open, leaf, at, of }, index) {
    line.row = row;
    put(line.name, row.text);
    put(line.mark, leaf ? "" : open ? "▾" : "▸");
    put(line.cells[1], number(row.count));
    put(line.cells[2], share(row.count, this.model.total));
    put(line.cells[3], signed(row.change));
    put(line.cells[4], row.refused ? number(row.refused) : "");
    const chosen = row.key === this.selected?.key;
    const active = row.key === this.active;
    const bits = [index, level, leaf ? "" : open, at, of, chosen, active].join();
    if (bits === line.bits) return;
    line.bits = bits;
    line.node.style.transform = `translateY(${index * LINE}px)`;
    line.cells[0].style.paddingInlineStart = `${2 + 7 * Math.min(level - 1, DEEPEST)}px`;
    line.node.classList.toggle("active", active);
    const members = {
      "aria-rowindex": index + 2, "aria-level": level, "aria-posinset": at, "aria-setsize": of, "aria-selected": chosen,
    };
    for (const [name, value] of Object.entries(members)) line.node.setAttribute(name, String(value));
    if (leaf) line.node.removeAttribute("aria-expanded");
    else line.node.setAttribute("aria-expanded", String(open));
  }

  clicked(event) {
    const node = event.target.closest(".row");
    const line = this.shown.find((one) => one.node === node);
    if (!line) return;
    this.active = line.row.key;
    if (event.target === line.mark) this.toggle(line.row, line.node.getAttribute("aria-expanded") !== "true");
    else this.on.choose(line.row);
  }

  scrollTo(key) {
    const at = this.lines.findIndex((line) => line.row.key === key);
    if (at < 0) return;
    const top = at * LINE;
    const room = this.grid.clientHeight - 2 * LINE; // below the header
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top > this.grid.scrollTop + room) this.grid.scrollTop = top - room;
    this.paint();
  }

  key(event) {
    if (event.target !== this.grid || event.ctrlKey || event.metaKey || event.altKey || !this.lines.length) return;
    const at = Math.max(0, this.lines.findIndex((line) => line.row.key === this.active));
    const line = this.lines[at];
    const page = Math.max(1, Math.floor(this.grid.clientHeight / LINE) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.go(this.active === null ? 0 : at + steps[event.key]);
    else if (event.key === "ArrowRight" && !line.leaf) line.open ? this.go(at + 1) : this.toggle(line.row, true);
    else if (event.key === "ArrowLeft") this.leave(line);
    else if (event.key === "Enter" || event.key === " ") this.on.choose(line.row);
    else return;
    event.preventDefault();
  }

  leave(line) {
    if (line.open && !this.filter) this.toggle(line.row, false);
    else if (line.row.parent) this.go(this.lines.findIndex((one) => one.row === line.row.parent));
  }

  go(to) {
    const line = this.lines[Math.max(0, Math.min(this.lines.length - 1, to))];
    this.active = line.row.key;
    this.scrollTo(line.row.key);
  }
}
