// The choice of what is counted, of whom, and when.

import { $, duration, make, put, show } from "./dom.js";
import * as state from "./state.js";

const KINDS = ["connections", "receptions", "rejections"];

const query = (members) => new URLSearchParams(members).toString();

function whats(look) {
  const found = [];
  const services = new Map();
  for (const { service, listener, sessions } of look.listeners) {
    const known = services.get(service) ?? services.set(service, { sessions: 0, listeners: [] }).get(service);
    known.sessions += sessions;
    known.listeners.push(listener);
  }
  if (!services.has("SMTP")) services.set("SMTP", { sessions: 0, listeners: [] });
  for (const [service, { listeners }] of services) {
    found.push(["Open sessions", query({ service }), service]);
    if (listeners.length < 2) continue;
    for (const listener of listeners) {
      found.push(["Open sessions", query({ service, listener }), `${service}, listener ${listener}`]);
    }
  }
  if (look.nodes.length) found.push(["Open sessions", query({ service: "inbound_cidr" }), "SMTP of the whole cluster"]);
  for (const { name, interval, windows } of look.monitors) {
    for (const kind of KINDS) {
      found.push(["Over time", query({ monitor: name, kind }), `${kind}, ${windows} × ${duration(interval)}`]);
    }
  }
  for (const { name } of look.series) found.push(["Series", query({ series: name }), name]);
  return found;
}

function whoms(look) {
  return [
    ["", "", "all processes"],
    ...look.processes.map(({ pid }) => ["Process", query({ pid }), `process ${pid}`]),
    ...look.nodes.map(({ name }) => ["Node", query({ node: name }), `node ${name}`]),
  ];
}

// Options are made anew only if they differ, so that an open list stays open.
function offer(select, options, chosen) {
  if (!options.some(([, value]) => value === chosen)) options.push(["", chosen, new URLSearchParams(chosen).toString()]);
  const key = JSON.stringify(options);
  if (select.offered !== key) {
    select.offered = key;
    const groups = new Map();
    for (const [group, value, words] of options) {
      const option = make("option", { value, textContent: words });
      const box = () => (group ? make("optgroup", { label: group }) : document.createDocumentFragment());
      if (!groups.has(group)) groups.set(group, box());
      groups.get(group).append(option);
    }
    select.replaceChildren(...groups.values());
  }
  if (select.value !== chosen) select.value = chosen;
}

const picked = (names) =>
  query(names.filter((name) => state.state[name] !== "").map((name) => [name, state.state[name]]));

// What the slider moves over: the windows of the source, or of the monitor that reaches back the furthest.
function windowsOf(look) {
  const { monitor, series } = state.state;
  if (series) return look.series.find(({ name }) => name === series);
  if (monitor) return look.monitors.find(({ name }) => name === monitor);
  return [...look.monitors].sort((a, b) => b.interval * b.windows - a.interval * a.windows)[0];
}

export function draw(look) {
  const { monitor, series, startv } = state.state;
  const chosen = series ? query({ series }) : monitor ? query({ monitor, kind: state.state.kind || KINDS[0] })
    : picked(["service", "listener"]) || query({ service: "SMTP" });
  offer($("what"), whats(look), chosen);
  offer($("whom"), whoms(look), picked(["pid", "node"]));
  const windows = windowsOf(look);
  show($("when-box"), Boolean(windows) && windows.windows > 1);
  if (!windows) return;
  const slider = $("when");
  slider.max = String(windows.windows - 1);
  const back = Number(startv || 0);
  if (document.activeElement !== slider) slider.value = String(windows.windows - 1 - back);
  words(look, back);
}

function words(look, back) {
  const { interval } = windowsOf(look);
  const open = !state.state.monitor && !state.state.series;
  const said = open ? "now" : back ? `${duration(back * interval)} ago, for ${duration(interval)}` : "now: the last window";
  put($("when-says"), said);
  $("when").setAttribute("aria-valuetext", said);
}

// `reopen` is called when the source is another one.
export function start(lookNow, reopen) {
  $("what").addEventListener("change", () => {
    state.source($("what").value, ["pid", "node"]);
    reopen();
  });
  $("whom").addEventListener("change", () => {
    const others = ["service", "listener", "monitor", "kind", "series", "startv", "endv"];
    state.source($("whom").value, others);
    reopen();
  });
  let waiting;
  $("when").addEventListener("input", () => {
    const look = lookNow();
    const back = Number($("when").max) - Number($("when").value);
    if (!state.state.monitor && !state.state.series) {
      if (!back) return;
      state.source(query({ monitor: windowsOf(look).name, kind: KINDS[0] }), ["pid", "node"]);
    }
    state.change({ startv: back ? String(back) : "", endv: back ? String(back) : "" });
    words(look, back);
    clearTimeout(waiting);
    waiting = setTimeout(reopen, 120);
  });
}

export const named = () => {
  const option = $("what").selectedOptions[0];
  return option ? option.textContent : "";
};
