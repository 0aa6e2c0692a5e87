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
  const query = parameters([...SOURCE, ...OTHERS]).toString().replace(/%(2F|3A|2C)/g, decodeURIComponent);
  const address = location.pathname + location.search + (query && `#${query}`);
  if (address !== location.pathname + location.search + location.hash) history.replaceState(null, "", address);
}

function parameters(names) {
  return new URLSearchParams(names.filter((name) => state[name] !== "").map((name) => [name, state[name]]));
}

// Sets the members of the source that `query` names; `kept` ones stay, all others are the defaults.
export function source(query, kept = []) {
  const given = new URLSearchParams(query);
  const others = SOURCE.filter((name) => !kept.includes(name));
  change(Object.fromEntries(others.map((name) => [name, given.get(name) ?? ""])));
}

export const path = () => `/api/events?${parameters(SOURCE)}`;
// Of whom a limit is asked: the service of the source, in all processes, since a limit counts them all; or of one node.
export function asked() {
  const { service, node } = state;
  return { service: service || "SMTP", ...(node && { node }) };
}

export const isDefault = () => parameters(SOURCE).size === 0;
