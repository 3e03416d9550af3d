// "What the model saw": the prompt before a reply, token by token in the colours of its messages.

import { openDialog } from "./dialog.js";
import { copyText, flash, h, iconButton, number, plural } from "./dom.js";
import { report, request } from "./page.js";

const MOST_TOKENS = 12000; // beyond that, only the messages are told apart
const NAMES = Object.freeze({ system: "System", user: "You", assistant: "Reply", tool: "Tool", developer: "Developer" });
const SAME = "This is what the model saw: the prompt has the hash that the receipt names.";
const OTHER_MODEL = "This is the text that was kept with the reply. The loaded model (or this version of Paddock) splits it into other tokens than those that the receipt names.";
const OTHER_TEMPLATE = "These are the messages that were kept with the reply, but not its template: the one in force today writes them otherwise than the model saw them.";
const CHANGED = "Messages, settings, the template or the model have changed since: this is what the loaded model would see now, not what it saw then.";
const UNKNOWN = "The receipt names no hash of the prompt, so this may differ: it is what the loaded model would see now.";

/** Open the panel for the reply to a message, or for a reply. */
export async function showWhatItSaw(id) {
  const body = h("div", { class: "saw-body", "aria-busy": "true" }, h("p", { text: "Making the prompt once more…" }));
  const dialog = openDialog("What the model saw", [body], { class: "sheet saw" });
  try {
    const seen = await request("GET", `ui/messages/${id}/seen`);
    body.replaceChildren(...content(seen));
    body.setAttribute("aria-busy", "false");
  } catch (error) {
    dialog.close();
    report(error);
  }
}

function content(seen) {
  const { same, same_template: sameTemplate, kept, tokens, limit, dropped, dropped_count: left, messages, text, template, reused_tokens: reused } = seen;
  const copy = iconButton("copy", "Copy the text", async () => {
    try { await copyText(text); flash(copy, "check", "copy"); } catch (error) { report(error); }
  });
  const facts = `${plural(tokens.length, "token")}, room for ${number(limit)}. Template: ${template.origin}.`;
  return [
    h("p", { class: same === false ? "saw-note changed" : "saw-note", text: same ? SAME : same === false ? changeInWords(kept, sameTemplate) : UNKNOWN }),
    h("div", { class: "saw-facts" }, h("span", { text: facts }), copy),
    legend(tokens, messages, reused),
    leftOut(dropped, left, messages, limit),
    h("div", { class: "saw-text", role: "document", tabindex: "0", "aria-label": "The prompt" }, ...spans(tokens, messages, reused)),
  ].filter(Boolean);
}

function changeInWords(kept, sameTemplate) {
  if (!kept) return CHANGED;
  return sameTemplate ? OTHER_MODEL : OTHER_TEMPLATE;
}

function roleOf(messages, place) {
  return messages[place]?.role ?? "none";
}

function legend(tokens, messages, reused) {
  const counts = new Map();
  for (const [, , place] of tokens) counts.set(roleOf(messages, place), (counts.get(roleOf(messages, place)) ?? 0) + 1);
  const rows = [...counts].map(([role, count]) => h("span", { class: `saw-chip r-${role}`, text: `${NAMES[role] ?? "Template"} ${number(count)}` }));
  if (reused) rows.push(h("span", { class: "saw-chip reused", text: `${number(reused)} reused from before` }));
  return h("div", { class: "saw-legend", "aria-label": "Tokens by message" }, ...rows);
}

function leftOut(dropped, count, messages, limit) {
  if (!count) return null;
  const rows = dropped.map((place) => h("li", { text: `${NAMES[roleOf(messages, place)] ?? "Message"}: ${messages[place]?.start ?? ""}` }));
  if (count > rows.length) rows.push(h("li", { text: `and ${number(count - rows.length)} more` }));
  return h("details", { class: "saw-dropped" }, h("summary", { text: `${plural(count, "oldest message")} left out: all together are longer than ${number(limit)} tokens` }), h("ul", {}, ...rows));
}

function spans(tokens, messages, reused) {
  const single = tokens.length <= MOST_TOKENS;
  const found = [];
  let run = null;
  tokens.forEach(([id, piece, place], index) => {
    const again = index < reused;
    if (!single && run && run.place === place && run.again === again) { run.element.append(piece ?? "▣"); return; }
    const title = single ? `token ${id}${place >= 0 ? `, message ${place + 1}` : ", of the template"}` : null;
    const element = h("span", { class: `tok r-${roleOf(messages, place)}${again ? " again" : ""}`, title }, piece ?? "▣");
    run = { element, place, again };
    found.push(element);
  });
  return found;
}
