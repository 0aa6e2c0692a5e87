// Denies, allows and lifts: asks first, and once more if the server does.

import { $, announce, number, put, show } from "./dom.js";
import { parse } from "./prefixes.js";
import { post } from "./stream.js";

const WORDS = { deny: "Deny", allow: "Allow", lift: "Lift the decision on" };

let wanted = null;

export function askFor(action, prefix, count) {
  wanted = { action };
  put($("change-title"), `${WORDS[action]} ${prefix || "a prefix"}`);
  put($("change-effect"), {
    deny: `New connections from there are refused. Open sessions stay${count ? `: ${number(count)} now` : ""}.`,
    allow: "No limit refuses connections from there.",
    lift: "The limits decide again.",
  }[action]);
  $("change-prefix").value = prefix;
  $("change-why").value = "";
  show($("change-details"), action !== "lift");
  complain("");
  $("change").showModal();
}

function complain(sentence, confirm = false) {
  wanted.confirm = confirm;
  put($("change-error"), sentence);
  show($("change-error"), sentence !== "");
  put($("change-go"), confirm ? "Do it all the same" : wanted.action[0].toUpperCase() + wanted.action.slice(1));
}

async function go() {
  const { action, confirm } = wanted;
  const prefix = $("change-prefix").value.trim();
  const time = $("change-time").value;
  const for_s = action === "lift" || !time ? null : Number(time);
  const body = { action, prefix, for_s, why: $("change-why").value.trim() };
  $("change-go").disabled = true;
  try {
    const { changed } = await post("/api/change", confirm ? { ...body, confirm } : body);
    $("change").close();
    announce(changed ? `Done: ${action} ${prefix}` : `${prefix}: nothing has changed`);
    put($("done"), changed ? `${action} ${prefix}: done` : `${action} ${prefix}: it was so already`);
  } catch (error) {
    complain(error.message, error.confirm === true);
  } finally {
    $("change-go").disabled = false;
  }
}

export function start() {
  $("change-form").addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  $("change-cancel").addEventListener("click", () => $("change").close());
  $("change-prefix").addEventListener("input", () => {
    if (!parse($("change-prefix").value)) complain("This is no prefix: write 192.0.2.0/24 or 2001:db8::/64.");
    else complain("");
  });
}
