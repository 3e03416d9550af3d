// Whether the chat template in force on a model fits it, as it was last examined: a badge in the list of models and beside the message box.

import { h, plural } from "./dom.js";

const HOW = new Map([[true, "; a short reply ended by itself"], [false, "; a short reply did not end by itself"]]);
const openDoubts = new Set(); // names of the models whose findings are being read

/** What an examination came to, in a few words: {level: a class of badges, text, told: all that was found}. */
export function templateVerdict({ name, doubts, notes, reply_ended }) {
  const which = name ? `“${name}”` : "Template";
  const told = [...doubts, ...notes];
  if (doubts.length) return { level: "bad", text: `${which}: ${plural(doubts.length, "doubt")}`, told };
  if (reply_ended === false) return { level: "amber", text: `${which}: the reply did not end`, told };
  return { level: "quiet", text: `${which} fits`, told };
}

/** The badge of a model's row; what was found is read on a click. */
export function templateBadge(model, check) {
  if (!check) return null;
  const { level, text, told } = templateVerdict(check);
  const title = `Examined with the model's own tokenizer${HOW.get(check.reply_ended) ?? " when it was last loaded"}`;
  if (!told.length) return h("span", { class: "badge quiet", text, title });
  const open = openDoubts.has(model); // also when the row is drawn anew
  const toggle = (event) => { if (event.target.open) openDoubts.add(model); else openDoubts.delete(model); };
  return h("details", { class: "doubts", open, on: { toggle } }, h("summary", { class: `badge ${level}`, text, title }), h("ul", {}, ...told.map((sentence) => h("li", { text: sentence }))));
}
