// The page: takes what the stream brings, keeps what is looked at, and draws once a frame what differs.

import { $, announce, clock, make, number, put, share, show, signed, sparkline } from "./dom.js";
import * as change from "./change.js";
import { onScheme } from "./colours.js";
import * as files from "./export.js";
import { Icicle } from "./icicle.js";
import { IPv4Map } from "./map.js";
import { Model } from "./model.js";
import * as panels from "./panels.js";
import { around, everything, isInside, parse } from "./prefixes.js";
import * as sources from "./sources.js";
import * as state from "./state.js";
import { get, Stream, useToken } from "./stream.js";
import { ORDERS, Table } from "./table.js";
import * as whatif from "./whatif.js";

const HISTORY_MS = 5000;

const model = new Model();
const differs = new Set();
let selected = null;
let history = null;
let historyAt = -Infinity;
let requested = 0;
let waiting = 0; // parts that are still to be drawn
let turn = 0;
let titled = 0;

const map = new IPv4Map($("map"), model, {
  point: readout($("map-says")),
  choose: select,
  view: (prefix) => view("at", prefix),
});
const icicle = new Icicle($("icicle"), model, {
  point: readout($("icicle-says")),
  choose: select,
  view: (prefix) => view("at6", prefix),
});
const table = new Table($("tree"), $("tree-body"), model, {
  choose: select,
  order(name, reversed) {
    state.change({ order: (reversed ? "-" : "") + name });
    applyState();
  },
});
const stream = new Stream({ event: receive, lost, unauthorized });

// ---- what the stream brings

export function receive(name, data) {
  if (name === "gone") return gone(data.error);
  const members = model.take(data, name === "look");
  if (members === null) return stream.again();
  banner("");
  members.forEach((member) => differs.add(member));
  waiting = PARTS.length;
  if (!requested) requested = requestAnimationFrame(frame);
}

// A look is drawn part by part, one in each frame, so that the page answers at once whatever comes.
const PARTS = [
  () => map.draw(),
  () => {
    show($("six"), model.rows.some((row) => row.six));
    icicle.draw();
    table.draw();
  },
  () => {
    figures(model.look);
    lists();
  },
];

export function frame() {
  requested = 0;
  PARTS[turn]();
  turn = (turn + 1) % PARTS.length;
  waiting--;
  if (waiting > 0) requested = requestAnimationFrame(frame);
}

// All at once: what a person has done is seen in the next frame.
function draw() {
  cancelAnimationFrame(requested);
  requested = waiting = 0;
  if (model.look) PARTS.forEach((part) => part());
}

const OFFERED = ["listeners", "monitors", "series", "processes", "nodes"];
const WRITERS = {
  limits: panels.limits, refusals: panels.refusals, decisions: panels.decisions, notes: panels.notes,
};

function lists() {
  const { look } = model;
  panels.busiest(model);
  panels.selection(model, selected, history);
  panels.processes(look);
  for (const [member, write] of Object.entries(WRITERS)) if (differs.has(member)) write(look);
  if (OFFERED.some((member) => differs.has(member))) sources.draw(look);
  if (differs.has("history")) sparkline($("history"), look.history, "History");
  differs.clear();
  whatif.refresh();
  refreshHistory();
}

function figures(look) {
  put($("audit"), look.audit);
  put($("total"), number(look.total));
  put($("of"), sources.named());
  put($("time"), clock(look.time));
  // Once a second: a title costs a message to the browser.
  if (Math.floor(look.time) !== titled) document.title = `${look.audit}: ${number(look.total)}`;
  titled = Math.floor(look.time);
  for (const [box, drawn] of [[$("map-scale"), map], [$("icicle-scale"), icicle]]) {
    put(box, drawn.most ? `1 to ${number(drawn.most)}` : "");
  }
}

// ---- the connection

function banner(sentence, { token = false, source = false } = {}) {
  const had = !$("banner").hidden;
  show($("banner"), sentence !== "");
  document.body.classList.toggle("stale", sentence !== "");
  put($("banner-says"), sentence);
  show($("token-form"), token);
  show($("banner-source"), source);
  put($("state"), sentence ? "not live" : "live");
  if (sentence ? !had : had) announce(sentence || "The picture is live again.");
}

const stale = () => (model.look ? ` What is shown is of ${clock(model.look.time)}.` : "");

function gone(sentence) {
  const words = `The audit can't be read now: ${sentence}.${stale()} The page goes on by itself when it can.`;
  banner(words, { source: !state.isDefault() });
}

function lost(sentence, seconds) {
  banner(`${sentence} Trying again in ${Math.ceil(seconds)} s.${stale()}`, { source: !state.isDefault() });
}

function unauthorized(sentence) {
  banner(sentence, { token: true });
}

function reopen() {
  stream.open(state.path());
  whatif.set(state.state.limits);
}

// ---- what is looked at

function view(name, prefix) {
  state.change({ [name]: prefix.length ? prefix.text : "" });
  applyState();
  announce(`Shown: ${prefix.text}`);
}

function select(prefix) {
  state.change({ select: prefix.text });
  applyState();
  const about = model.about(prefix);
  announce(`${prefix.text}: ${number(about.count)}, ${number(about.refused)} refused`);
  const row = model.named.get(prefix.text);
  if (row && document.activeElement !== table.grid) table.reveal(row);
  if (innerWidth < 760) $("selected").scrollIntoView({ block: "nearest" });
}

// Makes the views what the state says.
function applyState() {
  const { state: now } = state;
  const at = parse(now.at);
  map.view = at && !at.six ? around(at, Math.min(28, at.length - (at.length % 2))) : everything(false);
  const at6 = parse(now.at6);
  icicle.view = at6?.six ? at6 : everything(true);
  const found = parse(now.select);
  if (found?.key !== selected?.key) {
    selected = found;
    history = null;
    historyAt = -Infinity;
  }
  map.selected = icicle.selected = table.selected = selected;
  const order = now.order.replace("-", "");
  table.order = Object.hasOwn(ORDERS, order) ? order : "count";
  table.reversed = now.order.startsWith("-");
  table.filter = now.filter;
  if ($("filter").value !== now.filter) $("filter").value = now.filter;
  map.measure = icicle.measure = ["refused", "change"].find((name) => name === now.by) ?? "count";
  $("measure").value = map.measure;
  document.documentElement.dataset.measure = map.measure;
  crumbs($("map-crumbs"), map.view, steps4(map.view));
  crumbs($("icicle-crumbs"), icicle.view, steps6());
  draw();
}

const steps4 = (view) => Array.from({ length: view.length / 2 + 1 }, (_, at) => around(view, 2 * at));

function steps6() {
  const found = [];
  for (let row = icicle.root; row; row = row.parent) found.unshift(row);
  return found.length ? found : [everything(true)];
}

function crumbs(box, shown, steps) {
  box.replaceChildren(...steps.map((prefix) => {
    const button = make("button", { type: "button", textContent: prefix.text });
    button.dataset.view = prefix.text;
    if (prefix.key === shown.key) button.ariaCurrent = "location";
    return make("li", {}, button);
  }));
  box.scrollLeft = box.scrollWidth;
}

// Names what is under the pointer or the cursor.
function readout(box) {
  return (row, cell) => {
    if (!row && !cell) return put(box, "");
    if (!row) return put(box, `${cell.text}: none`);
    const figures = [number(row.count), share(row.count, model.total), row.change ? signed(row.change) : "",
      row.refused ? `${number(row.refused)} refused` : ""];
    const most = cell && isInside(row, cell) && row.length > cell.length ? `the most in ${cell.text}` : "";
    const said = `${row.text}: ${[...figures, most].filter(Boolean).join(", ")}`;
    put(box, said);
    if (["map", "icicle"].includes(document.activeElement.id)) announce(said);
  };
}

// The history of what is selected, anew after some seconds.
async function refreshHistory() {
  if (!selected || performance.now() - historyAt < HISTORY_MS || document.hidden) return;
  historyAt = performance.now();
  const of = selected;
  try {
    const found = await get(`/api/history?${new URLSearchParams({ prefix: of.text })}`);
    if (of !== selected) return;
    history = found;
    panels.selection(model, selected, history);
  } catch {
    // the stream says what is wrong with the connection
  }
}

// ---- what a person does

function listen() {
  document.addEventListener("click", (event) => {
    const { select: prefix, lift, view: step } = event.target.dataset ?? {};
    if (prefix && parse(prefix)) select(parse(prefix));
    if (lift) change.askFor("lift", lift, 0);
    if (step) view(parse(step).six ? "at6" : "at", parse(step));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
    event.preventDefault();
    $("filter").focus();
  });
  for (const action of ["deny", "allow"]) {
    $(action).addEventListener("click", () => change.askFor(action, selected.text, model.about(selected).count));
  }
  $("deny-other").addEventListener("click", () => change.askFor("deny", "", 0));
  $("unselect").addEventListener("click", () => {
    state.change({ select: "" });
    applyState();
  });
  $("zoom-to").addEventListener("click", () => {
    if (selected.six) view("at6", model.enclosing(selected) ?? selected);
    else view("at", around(selected, Math.max(0, Math.min(28, selected.length - 4) & ~1)));
  });
  $("filter").addEventListener("input", () => {
    state.change({ filter: $("filter").value });
    table.filter = state.state.filter;
    table.draw();
    announce(`${number(table.lines.length)} rows`);
  });
  $("measure").addEventListener("change", () => {
    state.change({ by: $("measure").value === "count" ? "" : $("measure").value });
    applyState();
  });
  for (const [id, step] of [
    ["map-in", () => map.zoomIn()], ["map-out", () => map.back()], ["icicle-out", () => icicle.back()],
  ]) $(id).addEventListener("click", step);
  $("export-json").addEventListener("click", () => model.look && files.json(model.look, table.seen()));
  $("export-csv").addEventListener("click", () => model.look && files.csv(model.look, table.seen()));
  $("banner-source").addEventListener("click", () => {
    state.source("");
    reopen();
  });
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useToken($("token").value.trim());
    $("token").value = "";
    reopen();
  });
  addEventListener("hashchange", () => {
    state.read();
    applyState();
    reopen();
  });
}

state.read();
// What was typed before the modules came counts, too.
for (const [name, id] of [["filter", "filter"], ["limits", "whatif-limits"]]) {
  if (state.state[name] === "") state.change({ [name]: $(id).value });
}
listen();
change.start();
whatif.start((limits) => state.change({ limits }));
sources.start(() => model.look, reopen);
onScheme(draw);
applyState();
reopen();
