// Asks for the modules when the page has been painted: until then they would hold it up.

const MODULES = [
  "main", "dom", "prefixes", "curve", "model", "stream", "state", "sources", "colours", "surface", "map", "icicle", "table",
  "panels", "change", "whatif", "export",
];

const begin = () => MODULES.forEach((name) => import(`./${name}.js`));

if (document.hidden) begin();
else requestAnimationFrame(() => setTimeout(begin));
