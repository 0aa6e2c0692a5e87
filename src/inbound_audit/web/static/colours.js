// Colours of figures. Light to dark or dark to light in one hue, so that they differ in brightness for every eye.
// Refusals are orange; what has grown is orange and what has shrunk is blue.

const STEPS = 32;
const RAMPS = {
  light: {
    count: ["#d3e3f5", "#5f9fd8", "#0b4f96", "#06224a"],
    refused: ["#fbe3c8", "#ee9a4d", "#b5540a", "#5c2500"],
    fewer: ["#dbe6f0", "#0b4f96"],
    more: ["#f6e4d2", "#b5540a"],
  },
  dark: {
    count: ["#1c3a5a", "#2f74b5", "#7ab8f0", "#e3f2ff"],
    refused: ["#4a2a10", "#b8651c", "#f4a55a", "#fff0dd"],
    fewer: ["#24364a", "#7ab8f0"],
    more: ["#463120", "#f4a55a"],
  },
};

const scheme = matchMedia("(prefers-color-scheme: dark)");
let made;

function mix(a, b, t) {
  const channel = (at) => {
    const [from, to] = [a, b].map((colour) => parseInt(colour.slice(at, at + 2), 16));
    return Math.round(from + t * (to - from));
  };
  return [channel(1), channel(3), channel(5)];
}

function ramp(stops) {
  return Array.from({ length: STEPS }, (_, step) => {
    const at = (step / (STEPS - 1)) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const [r, g, b] = mix(stops[low], stops[low + 1], at - low);
    const css = `#${[r, g, b].map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
    return { css, dark: 2 * r + 5 * g + b < 1000 };
  });
}

function refresh() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ground", "hatch", "grid", "text", "muted", "accent", "panel"];
  made = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  for (const [name, stops] of Object.entries(RAMPS[scheme.matches ? "dark" : "light"])) made[name] = ramp(stops);
}

export const colours = () => {
  if (!made) refresh();
  return made;
};

export function onScheme(redraw) {
  scheme.addEventListener("change", () => {
    refresh();
    redraw();
  });
}

// 1 is the first colour, `most` the last one; between them by logarithm. null: no colour.
export function colourOf(measure, value, most) {
  const tone = measure === "change" ? (value < 0 ? "fewer" : "more") : measure;
  const size = Math.abs(value);
  if (!size) return null;
  const at = most <= 1 ? 1 : Math.log(size) / Math.log(most);
  return colours()[tone][Math.max(0, Math.min(STEPS - 1, Math.round(at * (STEPS - 1))))];
}

// The end of the scale: a power of ten, so that colours stay as they are while figures move.
export const scaleEnd = (most) => 10 ** Math.max(1, Math.ceil(Math.log10(Math.max(1, most))));
