// The panels beside the maps and the table: each writes one member of the look.

import { $, clock, count, duration, fill, make, number, prefix, put, show, signed, sparkline, text } from "./dom.js";
import { isInside, parse } from "./prefixes.js";

const REFUSALS = 50;
const DECISIONS = 200;

// How full: a bar, and the figures of it. `exact` is false where another one may be fuller.
export const fullness = (of) => (cell, item) => {
  const [part, most, exact = true] = of(item);
  const parts = { min: 0, max: 1, low: 0.7, high: 0.9, optimum: 0 };
  if (!cell.firstElementChild) cell.append(make("meter", parts), make("span"));
  const [meter, figures] = cell.children;
  const value = most > 0 ? Math.min(1, part / most) : 1;
  if (meter.value !== value) meter.value = value;
  const words = `${number(part)} of ${number(most)}`;
  const said = exact ? words : `≥ ${words}`;
  if (figures.shown === said) return;
  meter.setAttribute("aria-label", exact ? words : `at least ${words}`);
  cell.title = exact ? "" : "Not all prefixes were looked into: another one may be fuller.";
  put(figures, said);
};

// What was refused and why, in one sentence.
export function reason(refusal) {
  const { by, limit, count: counted, most, prefix: of, text: said } = refusal;
  const full = most === null ? "" : `${number(counted ?? 0)} of ${number(most)}`;
  const words = [limit ?? by, full, said].filter(Boolean).slice(0, 2).join(": ");
  const at = [refusal.service, refusal.listener].filter(Boolean).join(" ");
  return words + (of ? ` in ${of}` : "") + (at ? `, at ${at}` : "");
}

const isIn = (selected) => (refusal) => {
  const client = parse(refusal.client ?? refusal.prefix ?? "");
  return client !== null && isInside(client, selected);
};

const REFUSAL_COLUMNS = [
  text((refusal) => clock(Date.parse(refusal.time) / 1000)),
  prefix((refusal) => refusal.client ?? refusal.prefix),
  text((refusal) => refusal.done),
  text(reason),
];

export function refusals(look) {
  list("refusals", look.refusals.slice(0, REFUSALS), REFUSAL_COLUMNS);
}

// A table, or the sentence that it is empty.
function list(name, items, columns) {
  show($(`${name}-none`), items.length === 0);
  show($(`${name}-list`), items.length > 0);
  fill($(`${name}-list`).tBodies[0], items, columns);
}

export function limits(look) {
  const full = ({ count, most }) => (most ? count / most : 1);
  const fullest = [...look.limits].sort((a, b) => full(b) - full(a));
  list("limits", fullest, [
    text((limit) => limit.limit + (limit.dry_run ? " (dry run)" : "")),
    fullness((limit) => [limit.count, limit.most, limit.exact]),
    prefix((limit) => limit.prefix),
    text((limit) => [limit.service, limit.listener].filter(Boolean).join(" ")),
  ]);
}

export function processes(look) {
  list("processes", look.processes, [
    text((process) => process.pid),
    text((process) => duration(process.age_s)),
    count((process) => process.sessions),
    text((process) => process.damaged ?? ""),
  ]);
  show($("nodes"), look.nodes.length > 0);
  fill($("nodes-list").tBodies[0], look.nodes, [
    text((node) => node.name),
    text((node) => node.state),
    text((node) => duration(node.age_s)),
    count((node) => node.sessions),
  ]);
}

export function decisions(look) {
  list("decisions", look.decisions.slice(0, DECISIONS), [
    prefix((decision) => decision.prefix),
    text((decision) => decision.action),
    text((decision) => (decision.until === null ? "until lifted" : `${duration(decision.until - look.time)} more`)),
    text((decision) => decision.why),
    text((decision) => `${decision.by}${decision.node && !decision.by.includes("@") ? ` at ${decision.node}` : ""}`),
    (cell, decision) => {
      if (!cell.firstElementChild) cell.append(make("button", { type: "button", textContent: "Lift" }));
      const button = cell.firstElementChild;
      button.dataset.lift = decision.prefix;
      button.ariaLabel = `Lift ${decision.action} of ${decision.prefix}`;
      button.disabled = !look.may_change;
    },
  ]);
  $("deny-other").disabled = !look.may_change;
  show($("read-only"), !look.may_change);
}

export function notes(look) {
  const box = $("notes");
  show(box, look.notes.length > 0);
  while (box.children.length > look.notes.length) box.lastChild.remove();
  look.notes.forEach((note, at) => put(box.children[at] ?? box.appendChild(make("li")), note));
}

export function busiest(model) {
  for (const [name, six, length] of [["busiest4", false, 24], ["busiest6", true, 64]]) {
    const items = model.busiest(six, length, 6);
    list(name, items, [
      prefix((item) => item.prefix),
      (cell, item) => {
        if (!cell.firstElementChild) cell.append(make("meter", { min: 0, ariaLabel: "share" }), make("span"));
        const [meter, figure] = cell.children;
        if (meter.max !== Math.max(1, model.total)) meter.max = Math.max(1, model.total);
        if (meter.value !== item.count) meter.value = item.count;
        put(figure, number(item.count));
      },
      (cell, item) => {
        cell.className = "number refused";
        put(cell, item.refused ? number(item.refused) : "");
      },
    ]);
  }
}

// ---- what is selected

// The limits that count what lies in the prefix: as far as their names have lengths.
function limitsOver(model, selected) {
  return model.look.limits.flatMap((limit) => {
    const lengths = limit.limit.match(/\/(\d+)(?:,\/(\d+))?/);
    if (!lengths) return [];
    const length = Number(selected.six ? (lengths[2] ?? lengths[1]) : lengths[1]);
    return length > selected.length ? [] : [{ limit, length }];
  });
}

export function selection(model, selected, history) {
  show($("selected-none"), !selected);
  show($("selected-body"), Boolean(selected));
  if (!selected) return;
  const { look } = model;
  const about = model.about(selected);
  put($("selected-name"), selected.text);
  put($("selected-count"), (about.least ? "at least " : "") + number(about.count));
  put($("selected-share"), model.total ? `${((100 * about.count) / model.total).toFixed(1)} %` : "0 %");
  put($("selected-change"), signed(about.change) || "not known");
  put($("selected-refused"), number(about.refused));
  put($("selected-parent"), about.parent?.text ?? "");
  $("selected-parent").dataset.select = about.parent?.text ?? "";
  show($("selected-inside"), Boolean(about.parent));
  sparkline($("selected-history"), history ?? { connections: [], rejections: [] }, `History of ${selected.text}`);
  why(look, selected);
  const under = limitsOver(model, selected);
  show($("selected-limits"), under.length > 0);
  fill($("selected-limits").tBodies[0], under, [
    text(({ limit }) => limit.limit + (limit.dry_run ? " (dry run)" : "")),
    text(({ limit, length }) => `${number(limit.most)} in each /${length}`),
  ]);
  const decided = look.decisions.find((decision) => holds(decision.prefix, selected));
  show($("selected-decision"), Boolean(decided));
  if (decided) put($("selected-decision"), `${decided.prefix}: ${decided.action}${decided.why && `, ${decided.why}`}`);
  for (const name of ["deny", "allow"]) $(name).disabled = !look.may_change;
  show($("selected-read-only"), !look.may_change);
}

function holds(text, selected) {
  const outer = parse(text);
  return outer !== null && isInside(selected, outer);
}

// Who is refused in it, and why: the reasons by how often, and the latest refusals.
function why(look, selected) {
  const inside = look.refusals.filter(isIn(selected));
  const reasons = new Map();
  for (const refusal of inside) {
    const name = refusal.limit ?? refusal.by ?? refusal.done;
    const known = reasons.get(name);
    if (known) known.n++;
    else reasons.set(name, { name, n: 1, refusal });
  }
  const often = [...reasons.values()].sort((a, b) => b.n - a.n);
  const most = (refusal) => (refusal.most === null ? "" : ` (at most ${number(refusal.most)})`);
  const sums = often.map(({ name, n, refusal }) => `${number(n)} by ${name}${most(refusal)}`);
  put($("selected-why"), sums.join(", ") || "None of the latest refusals is of this prefix.");
  show($("selected-refusals"), inside.length > 0);
  const [time, client, , because] = REFUSAL_COLUMNS;
  fill($("selected-refusals").tBodies[0], inside.slice(0, 5), [time, client, because]);
}
