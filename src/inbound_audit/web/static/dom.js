// What all parts of the page need to write text into it. All data is text: nothing here reads HTML.

const numbers = new Intl.NumberFormat("en");
const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

// Writes only what differs: a text that stays costs nothing.
export function put(node, text) {
  if (node.shown !== text) {
    node.shown = text;
    node.textContent = text;
  }
}

export function show(node, visible) {
  node.toggleAttribute("hidden", !visible);
}

export function make(name, members = {}, ...children) {
  const node = Object.assign(document.createElement(name), members);
  node.append(...children);
  return node;
}

export const number = (value) => numbers.format(value);
export const signed = (value) => (value === null ? "" : value > 0 ? `+${number(value)}` : number(value));

export function share(part, whole) {
  if (!whole) return "";
  const percent = (100 * part) / whole;
  return `${percent >= 9.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1)} %`;
}

export function duration(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

export function clock(seconds) {
  const at = new Date(1000 * seconds);
  return Number.isNaN(at.getTime()) ? "" : at.toTimeString().slice(0, 8);
}

// A table's body gets a row for each item; `columns` write a cell each. Rows and cells that are there are used again.
export function fill(body, items, columns) {
  while (body.rows.length > items.length) body.deleteRow(-1);
  items.forEach((item, at) => {
    const row = body.rows[at] ?? body.insertRow();
    while (row.cells.length < columns.length) row.insertCell();
    row.item = item;
    columns.forEach((write, column) => write(row.cells[column], item));
  });
}

export const text = (of) => (cell, item) => put(cell, String(of(item) ?? ""));
export const count = (of) => (cell, item) => {
  cell.className = "number";
  put(cell, number(of(item)));
};

// A prefix that can be selected. `main.js` listens for clicks on what has data-select.
export const prefix = (of) => (cell, item) => {
  const name = of(item);
  if (!cell.firstElementChild) cell.append(make("button", { type: "button", className: "prefix" }));
  const button = cell.firstElementChild;
  show(button, Boolean(name));
  put(button, name ?? "");
  if (button.dataset.select !== name) button.dataset.select = name ?? "";
};

// Two lines of numbers, the oldest at the left: `connections` filled, `rejections` above them.
export function sparkline(svg, history, label) {
  const { connections, rejections } = history;
  show(svg, connections.length > 1);
  if (connections.length < 2) return;
  if (!svg.firstChild) {
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    for (const name of ["area", "line", "refused"]) {
      const path = document.createElementNS(SVG, name === "area" ? "polygon" : "polyline");
      path.setAttribute("class", name);
      svg.append(path);
    }
  }
  const most = Math.max(1, ...connections, ...rejections);
  const line = (values) => values.map((value, at) =>
    `${((100 * at) / (values.length - 1)).toFixed(1)},${(97 - (94 * value) / most).toFixed(1)}`).join(" ");
  const connected = line(connections);
  const [area, curve, refused] = svg.children;
  area.setAttribute("points", `0,100 ${connected} 100,100`);
  curve.setAttribute("points", connected);
  refused.setAttribute("points", rejections.some(Boolean) ? line(rejections) : "");
  const sum = (values) => number(values.reduce((a, b) => a + b, 0));
  svg.setAttribute("aria-label", `${label}: ${sum(connections)} connections and ${sum(rejections)} refusals in ` +
    duration(history.interval * connections.length));
}

let announced;

// Says it to a screen reader: what a person has done, and what has happened to the connection.
export function announce(sentence) {
  clearTimeout(announced);
  announced = setTimeout(() => put($("live"), sentence), 150);
}
