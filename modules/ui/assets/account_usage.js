// What was computed for somebody: today against the daily limit, and the days before.

import { h, number, plural } from "./dom.js";
import { request } from "./page.js";

const DAYS = 30;

/** The own usage; it fills itself. */
export function ownUsage() {
  const section = h("section", { class: "account-part", "aria-label": "Usage" }, h("h3", { text: "Usage" }));
  request("GET", `ui/usage?days=${DAYS}`).then((told) => section.append(...today(told), days(told.rows))).catch((error) => section.append(h("p", { text: error.message })));
  return section;
}

function today({ used_tokens: used, limit_tokens: limit, resets_in_s: left }) {
  if (!limit) return [h("p", { text: `${plural(used, "token")} computed today. You have no daily limit.` })];
  const hours = left >= 3600 ? `${Math.floor(left / 3600)} h ${Math.floor((left % 3600) / 60)} min` : `${Math.ceil(left / 60)} min`;
  return [
    h("p", { text: `${number(used)} of ${plural(limit, "token")} today; the count begins anew in ${hours} (00:00 UTC).` }),
    h("progress", { max: String(limit), value: String(Math.min(used, limit)), "aria-label": "Tokens used of today's limit" }),
  ];
}

function days(rows) {
  if (!rows.length) return h("p", { class: "account-note", text: "Nothing was computed for you yet." });
  const head = ["Day", "Model", "Requests", "Read", "Reused", "Written", "Time"];
  return h("details", {}, h("summary", { text: `The last ${DAYS} days, by model` }),
    h("div", { class: "account-table", role: "region", "aria-label": "Usage by day", tabindex: "0" }, h("table", {},
      h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col", text })))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...cells(row).map((text) => h("td", { text }))))))));
}

function cells(row) {
  const counts = [row.requests, row.prompt_tokens, row.reused_tokens, row.completion_tokens].map(number);
  return [row.day, row.model, ...counts, row.compute_s < 90 ? `${row.compute_s.toFixed(1)} s` : `${Math.round(row.compute_s / 60)} min`];
}
