// The audit log for administrators: the newest first, searched by any word, older ones as they are asked for, all of it as a file.

import { button, problem } from "./account_forms.js";
import { h } from "./dom.js";
import { address, request } from "./page.js";

const HEAD = ["Time", "Who", "What", "To what", "Outcome", "From"];

export function auditLog() {
  const search = h("input", { type: "search", placeholder: "Search: a name, an address, an action", "aria-label": "Search the audit log", autocomplete: "off" });
  const rows = h("tbody"), wrong = problem();
  const older = button("Older", () => read(rows.lastElementChild?.dataset.time ?? ""), "", { hidden: true });
  const none = h("p", { class: "account-note", text: "Nothing was noted yet.", hidden: true });
  const file = h("a", { class: "small-button", href: address("ui/audit/file"), download: "paddock-audit.jsonl", text: "Download" });
  let typing = 0, names = new Map(), asked = 0;

  const read = async (before = "") => {
    const question = asked += 1;
    try {
      const { entries, more } = await request("GET", `ui/audit?${new URLSearchParams({ before, text: search.value.trim() })}`);
      if (question !== asked) return;
      if (!before) rows.replaceChildren();
      rows.append(...entries.map((entry) => line(entry, names)));
      older.hidden = !more;
      none.hidden = rows.children.length > 0;
      none.textContent = search.value.trim() ? "No entry has that." : "Nothing was noted yet.";
      wrong.say("");
    } catch (error) { wrong.say(error.message); }
  };
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => read(), 200); });
  request("GET", "ui/users").then(({ users }) => { names = new Map(users.map((user) => [user.id, user.name])); }).catch(() => null).then(() => read());
  return h("div", { class: "audit" },
    h("div", { class: "audit-head" }, search, button("Refresh", () => read()), file), wrong.element,
    h("div", { class: "account-table", role: "region", "aria-label": "Audit log", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, ...HEAD.map((text) => h("th", { scope: "col", text })))), rows)), none, older);
}

function line(entry, names) {
  const who = entry.name || names.get(entry.person) || (entry.person === "local" ? "" : entry.person);
  const object = entry.object.split(" ").map((word) => names.get(word) ?? word).join(" ");
  const cells = [
    h("td", { class: "audit-time", text: new Date(entry.time).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }), title: entry.time }),
    h("td", { text: who || (entry.address ? "–" : "the server"), title: entry.key ? `with the key ${entry.key}` : null }), h("td", { text: entry.action }), h("td", { text: object }),
    h("td", { class: entry.outcome === "done" ? "" : "audit-not", text: entry.outcome + (entry.why ? ` (${entry.why})` : "") }), h("td", { text: entry.address }),
  ];
  return h("tr", { data: { time: entry.time } }, ...cells);
}
