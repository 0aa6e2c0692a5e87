// What is seen, as a file.

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const stamp = (look) => new Date(1000 * look.time).toISOString().slice(0, 19).replaceAll(":", "");
const figures = (row) => [row.text, row.count, row.change, row.refused];

export function json(look, rows) {
  const { id, may_change, interval, ...members } = look;
  const content = JSON.stringify({ ...members, rows: rows.map(figures) }, null, 1);
  save(`${look.audit}-${stamp(look)}.json`, "application/json", content);
}

export function csv(look, rows) {
  const lines = rows.map((row) => figures(row).map((value) => value ?? "").join(","));
  save(`${look.audit}-${stamp(look)}.csv`, "text/csv", `${["prefix,count,change,refused", ...lines].join("\n")}\n`);
}
