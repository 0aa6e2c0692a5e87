// "What if": a limit that is typed in shows who would be over it.

import { $, duration, fill, make, number, prefix, put, show } from "./dom.js";
import { fullness } from "./panels.js";
import { asked as source } from "./state.js";
import { get } from "./stream.js";

const PAUSE_MS = 250;
const AGAIN_MS = 3000; // while it is there, it is asked again as the sessions change
const PREFIXES = 20;

let typed = "";
let waiting;
let asked = null;
let last = 0;

export function start(onTyped) {
  $("whatif-limits").addEventListener("input", () => {
    onTyped($("whatif-limits").value);
    set($("whatif-limits").value);
  });
}

export function set(value) {
  typed = value.trim();
  if ($("whatif-limits").value.trim() !== typed) $("whatif-limits").value = typed;
  clearTimeout(waiting);
  waiting = setTimeout(ask, PAUSE_MS);
}

export function refresh() {
  if (typed && !asked && performance.now() - last > AGAIN_MS && !document.hidden) ask();
}

async function ask() {
  asked?.abort();
  if (!typed) return clear("");
  const attempt = (asked = new AbortController());
  last = performance.now();
  const of = source();
  const query = new URLSearchParams([...Object.entries(of), ...typed.split(/\s+/).map((limit) => ["limit", limit])]);
  try {
    answer(of, await get(`/api/what-if?${query}`, attempt.signal));
  } catch (error) {
    if (!attempt.signal.aborted) clear(error.message);
  } finally {
    if (asked === attempt) asked = null;
  }
}

function clear(sentence) {
  put($("whatif-says"), sentence);
  show($("whatif-list"), false);
  show($("whatif-windows"), false);
}

function answer({ service, node }, { limits, windows }) {
  const refused = limits.map(({ limit, refused: n, exact }) =>
    `${limit}: ${exact === false ? "at least " : ""}${number(n)} would be refused now`);
  put($("whatif-says"), `${service}${node ? ` at ${node}` : ""}: ${refused.join("; ")}.`);
  const rows = limits.flatMap(({ prefixes }) => prefixes.map(([of, count, most]) => ({ of, count, most })));
  show($("whatif-list"), rows.length > 0);
  const columns = [prefix((row) => row.of), fullness((row) => [row.count, row.most])];
  fill($("whatif-list").tBodies[0], rows.slice(0, PREFIXES), columns);
  const over = [...new Set(windows.map(({ limit }) => limit))];
  const box = $("whatif-windows");
  show(box, over.length > 0);
  while (box.children.length > over.length) box.lastChild.remove();
  over.forEach((limit, at) => {
    const line = box.children[at] ?? box.appendChild(make("li"));
    put(line, before(limit, windows.filter((window) => window.limit === limit)));
  });
}

// What the limit would have refused in the windows of a monitor.
function before(limit, windows) {
  const sum = windows.reduce((all, { refused }) => all + refused, 0);
  const worst = windows.reduce((best, window) => (window.refused > best.refused ? window : best));
  const where = worst.prefixes.length ? ` in ${worst.prefixes[0][0]}` : "";
  const most = sum ? `: the most, ${number(worst.refused)}, ${duration(worst.ago_s)} ago${where}` : "";
  return `${limit}: ${number(sum)} in ${windows.length} windows${most}`;
}
