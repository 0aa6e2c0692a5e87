// "What if": a limit that is typed in shows who would be over it.

import { $, fill, make, number, prefix, put, show } from "./dom.js";
import { fullness } from "./panels.js";
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
  const query = new URLSearchParams(typed.split(/\s+/).map((limit) => ["limit", limit]));
  try {
    answer(await get(`/api/what-if?${query}`, attempt.signal));
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

function answer({ limits, windows }) {
  const refused = limits.map(({ limit, refused: n }) => `${limit}: ${number(n)} of the sessions would be refused now`);
  put($("whatif-says"), `${refused.join("; ")}.`);
  const rows = limits.flatMap(({ limit, prefixes }) => prefixes.map(([of, count, most]) => ({ limit, of, count, most })));
  show($("whatif-list"), rows.length > 0);
  fill($("whatif-list").tBodies[0], rows.slice(0, PREFIXES), [prefix((row) => row.of), fullness((row) => [row.count, row.most])]);
  over(windows ?? []);
}

function over(windows) {
  const box = $("whatif-windows");
  show(box, windows.length > 0);
  while (box.children.length > windows.length) box.lastChild.remove();
  windows.forEach((entry, at) => put(box.children[at] ?? box.appendChild(make("li")), sentence(entry)));
}

const sentence = (entry) => Object.entries(entry).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ");
