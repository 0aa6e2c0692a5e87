// Prefixes, as text and as places in the order of addresses.
//
// A prefix is {text, six, hex, length, first, last, key}. `hex` is its first address. `first`, `last` and `key` begin
// with the family, so that plain comparison of texts is the order of addresses: IPv4 first, a prefix before what lies
// inside it.

function ended(hex, length, ones) {
  const whole = length >> 2;
  if (whole >= hex.length) return hex;
  const kept = (0xf0 >> (length & 3)) & 0xf;
  const digit = (parseInt(hex[whole], 16) & kept) | (ones ? ~kept & 0xf : 0);
  return hex.slice(0, whole) + digit.toString(16) + (ones ? "f" : "0").repeat(hex.length - whole - 1);
}

function make(hex, length, text) {
  const family = hex.length === 8 ? "4" : "6";
  const start = ended(hex, length, false);
  return {
    text: text ?? `${written(start)}/${length}`,
    six: family === "6",
    hex: start,
    length,
    first: family + start,
    last: family + ended(hex, length, true),
    key: family + start + String.fromCharCode(32 + length),
  };
}

// null: the text is no prefix. An address alone is a prefix of its whole length.
export function parse(text) {
  const parts = text.trim().toLowerCase().split("/");
  const hex = parts[0].includes(":") ? read6(parts[0]) : read4(parts[0]);
  if (hex === null || parts.length > 2 || (parts.length === 2 && !/^\d{1,3}$/.test(parts[1]))) return null;
  const length = parts.length === 2 ? Number(parts[1]) : 4 * hex.length;
  return length > 4 * hex.length ? null : make(hex, length);
}

// Of a text that the server wrote: it stays as it is.
export function known(text) {
  const found = parse(text);
  return found && make(found.hex, found.length, text);
}

export const around = (prefix, length) => make(prefix.hex, length);
export const address4 = (number) => make(number.toString(16).padStart(8, "0"), 32);
export const isInside = (inner, outer) => inner.first >= outer.first && inner.last <= outer.last;
export const everything = (six) => make("0".repeat(six ? 32 : 8), 0);

function read4(text) {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return null;
  const octets = text.split(".").map(Number);
  if (octets.some((octet) => octet > 255)) return null;
  return octets.map((octet) => octet.toString(16).padStart(2, "0")).join("");
}

function read6(text) {
  const tail = text.slice(text.lastIndexOf(":") + 1);
  if (tail.includes(".")) {
    const four = read4(tail);
    return four && read6(`${text.slice(0, text.lastIndexOf(":") + 1)}${four.slice(0, 4)}:${four.slice(4)}`);
  }
  const halves = text.split("::").map((half) => (half ? half.split(":") : []));
  const groups = halves.flat();
  if (halves.length > 2 || groups.some((group) => !/^[0-9a-f]{1,4}$/.test(group))) return null;
  if (halves.length === 1 ? groups.length !== 8 : groups.length > 7) return null;
  const between = Array(8 - groups.length).fill("0");
  return [...halves[0], ...between, ...(halves[1] ?? [])].map((group) => group.padStart(4, "0")).join("");
}

function written(hex) {
  if (hex.length === 8) return hex.match(/../g).map((octet) => parseInt(octet, 16)).join(".");
  const groups = hex.match(/..../g).map((group) => group.replace(/^0{1,3}/, ""));
  let best = { at: 0, n: 1 };
  for (let at = 0; at < 8; at++) {
    let n = 0;
    while (groups[at + n] === "0") n++;
    if (n > best.n) best = { at, n };
  }
  if (best.n < 2) return groups.join(":");
  return `${groups.slice(0, best.at).join(":")}::${groups.slice(best.at + best.n).join(":")}`;
}
