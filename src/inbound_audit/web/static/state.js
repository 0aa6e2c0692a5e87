// What is looked at, as the fragment of the page's address: a link shows the same. The token never stays in it.

import { useToken } from "./stream.js";

const SOURCE = ["service", "listener", "monitor", "kind", "series", "startv", "endv", "pid", "node"];
const OTHERS = ["at", "at6", "select", "filter", "order", "by", "limits"];

export const state = {};

export function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const token = given.get("token");
  if (token !== null) useToken(token);
  for (const name of [...SOURCE, ...OTHERS]) state[name] = given.get(name) ?? "";
  write();
  return token !== null;
}

export function change(members) {
  Object.assign(state, members);
  write();
}

function write() {
  const query = parameters([...SOURCE, ...OTHERS]).toString().replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2C", ",");
  const address = location.pathname + location.search + (query && `#${query}`);
  if (address !== location.pathname + location.search + location.hash) history.replaceState(null, "", address);
}

function parameters(names) {
  return new URLSearchParams(names.filter((name) => state[name] !== "").map((name) => [name, state[name]]));
}

// Sets the members of the source that `query` names; `kept` ones stay, all others are the defaults.
export function source(query, kept = []) {
  const given = new URLSearchParams(query);
  change(Object.fromEntries(SOURCE.filter((name) => !kept.includes(name)).map((name) => [name, given.get(name) ?? ""])));
}

export const path = () => `/api/events?${parameters(SOURCE)}`;
export const isDefault = () => parameters(SOURCE).size === 0;
