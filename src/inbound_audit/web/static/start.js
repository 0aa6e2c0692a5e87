// When the head of the page has been painted: shows the rest, and asks for the modules. Both would hold it up.

const MODULES = [
  "main", "dom", "prefixes", "curve", "model", "stream", "state", "sources", "colours", "surface", "map", "icicle", "table",
  "panels", "change", "whatif", "export",
];

function begin() {
  document.querySelector("main").classList.remove("later");
  MODULES.forEach((name) => import(`./${name}.js`));
}

if (document.hidden) begin();
else requestAnimationFrame(() => setTimeout(begin));
