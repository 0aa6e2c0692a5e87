// The last look, and the tree of its rows.

import { around, isInside, known } from "./prefixes.js";
import { box } from "./curve.js";

class Row {
  constructor(text) {
    Object.assign(this, known(text), { count: 0, change: null, refused: 0 });
    this.box = this.six ? null : box(this);
    this.parent = null;
    this.children = [];
    this.depth = 0;
    this.rest = 0; // what lies in none of the rows inside
    this.restRefused = 0;
    this.restChange = 0;
  }

  set(count, change, refused) {
    this.count = count;
    this.change = change;
    this.refused = refused;
  }
}

export class Model {
  constructor() {
    this.look = null;
    this.rows = [];
    this.named = new Map();
  }

  // A whole look, or what differs from the last one. Returns the names of the members that differ; null: a change of a
  // look that is not the last one.
  take(news, whole) {
    if (!whole && (!this.look || news.from !== this.look.id)) return null;
    if (whole) {
      const wanted = new Set(news.rows.map((row) => row[0]));
      for (const text of this.named.keys()) if (!wanted.has(text)) this.named.delete(text);
    }
    const before = this.named.size;
    for (const text of news.removed ?? []) this.named.delete(text);
    let same = before === this.named.size && !whole;
    for (const [text, ...figures] of news.rows) {
      let row = this.named.get(text);
      if (!row) {
        row = new Row(text);
        if (!row.key) continue; // no prefix that this page can read
        this.named.set(text, row);
        same = false;
      }
      row.set(...figures);
    }
    if (!same) this.arrange();
    this.add();
    const { removed, rows, from, ...members } = news;
    this.look = { ...this.look, ...(whole ? {} : this.aged(news.time)), ...members };
    return Object.keys(members);
  }

  // Ages grow without an event. What is lost alone is silent: other nodes are heard all the time.
  aged(time) {
    const passed = time - this.look.time;
    const older = (row) => ({ ...row, age_s: row.age_s + passed });
    return {
      processes: this.look.processes.map(older),
      nodes: this.look.nodes.map((node) => (node.state === "lost" ? older(node) : node)),
    };
  }

  arrange() {
    this.rows = [...this.named.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    const open = [];
    for (const row of this.rows) {
      while (open.length && !isInside(row, open.at(-1))) open.pop();
      row.parent = open.at(-1) ?? null;
      row.depth = open.length;
      row.children = [];
      row.parent?.children.push(row);
      open.push(row);
    }
  }

  add() {
    for (const row of this.rows) {
      row.rest = row.count;
      row.restRefused = row.refused;
      row.restChange = row.change ?? 0;
      if (row.parent) {
        row.parent.rest -= row.count;
        row.parent.restRefused -= row.refused;
        row.parent.restChange -= row.change ?? 0;
      }
    }
  }

  get total() {
    return this.look?.total ?? 0;
  }

  // The row that is this prefix, or what the rows say of it: `least` if there may be more.
  about(prefix) {
    const at = this.position(prefix.key);
    const row = this.rows[at];
    if (row?.key === prefix.key) return row;
    const sum = { ...prefix, count: 0, change: null, refused: 0, parent: null, least: false };
    for (let i = at; i < this.rows.length && isInside(this.rows[i], prefix); i++) {
      if (this.rows[i].parent && isInside(this.rows[i].parent, prefix)) continue;
      sum.count += this.rows[i].count;
      sum.refused += this.rows[i].refused;
      if (this.rows[i].change !== null) sum.change = (sum.change ?? 0) + this.rows[i].change;
    }
    sum.parent = this.enclosing(prefix, at);
    sum.least = sum.parent !== null && sum.parent.rest > 0;
    return sum;
  }

  // The longest row that a prefix lies in.
  enclosing(prefix, at = this.position(prefix.key)) {
    let row = this.rows[at]?.key === prefix.key ? this.rows[at] : this.rows[at - 1];
    while (row && !isInside(prefix, row)) row = row.parent;
    return row ?? null;
  }

  position(key) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].key < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // The prefixes of a length with the greatest counts, as far as the rows tell them, and shorter rows that have none
  // inside.
  busiest(six, length, n) {
    const sums = new Map();
    for (const row of this.rows) {
      if (row.six !== six || (row.length < length && row.children.length) || row.parent?.length >= length) continue;
      const key = row.length < length ? row.key : row.hex.slice(0, length >> 2);
      const sum = sums.get(key);
      if (sum) {
        sum.count += row.count;
        sum.refused += row.refused;
      } else sums.set(key, { row, count: row.count, refused: row.refused });
    }
    return [...sums.values()].sort((a, b) => b.count - a.count).slice(0, n)
      .map(({ row, ...sums }) => ({ ...sums, prefix: row.length <= length ? row.text : around(row, length).text }));
  }
}
