// The receipt of a reply: one line that is always there, and all that is known when it is opened.

import { choicesInWords } from "./adapter_rows.js";
import { costInWords } from "./cost.js";
import { h, number, plural } from "./dom.js";
import { report, request, shortName, state } from "./page.js";
import { showWhatItSaw } from "./what_it_saw.js";

const HASH_SHOWN = 16;

/** The elements below a reply; `wasOpen` keeps a receipt open that a redraw would close. */
export function receiptOf(message, wasOpen = false) {
  const { receipt, role } = message;
  if (role !== "assistant" || !receipt) return [];
  const details = h("details", { class: "receipt" }, h("summary", { text: inShort(message) }), h("span", { text: inWords(receipt) }));
  details.addEventListener("toggle", () => { if (details.open) complete(details, message.id); });
  details.addEventListener("what-it-saw", () => showWhatItSaw(message.id)); // from keys, also while it is closed
  details.addEventListener("replay", () => replay(message.id));
  details.open = wasOpen;
  const parts = [details];
  if (receipt.summarised_messages) parts.push(h("span", { class: "dropped", text: `${plural(receipt.summarised_messages, "oldest message")} summarised before: the conversation was longer than the context.` }));
  if (receipt.not_summarised) parts.push(h("span", { class: "dropped", text: `The oldest messages could not be summarised: ${receipt.not_summarised}` }));
  if (receipt.dropped_messages) {
    parts.push(h("span", { class: "dropped", text: `${plural(receipt.dropped_messages, "oldest message")} left out: the conversation is longer than the context.` }));
  }
  return parts;
}

function inShort({ receipt, model, status }) {
  const words = [shortName(model ?? ""), receipt.completion_tokens === undefined ? "" : plural(receipt.completion_tokens, "token")];
  if (receipt.tokens_per_s) words.push(`${receipt.tokens_per_s.toFixed(1)} tok/s`);
  if (receipt.continued) words.push("continued");
  if (receipt.replay) words.push(replayInWords(receipt.replay));
  if (status === "stopped") words.push("stopped");
  if (receipt.finish_reason === "length") words.push("length limit reached");
  return words.filter(Boolean).join(" · ");
}

/** What became of a reply that was written again from a receipt. */
function replayInWords({ same_text: same, same_prompt: prompt, same_model: model, differs_at: place }) {
  if (same) return "replay: the same text";
  const why = !model ? " (another model)" : !prompt ? " (another prompt)" : "";
  return `replay: differs from character ${number(place + 1)} on${why}`;
}

function inWords(receipt) {
  return [
    ...costInWords(receipt),
    receipt.seed === null || receipt.seed === undefined ? "" : `seed ${receipt.seed}`,
    receipt.adapters?.length ? `adapters ${choicesInWords(receipt.adapters)}` : "",
    receipt.finish_reason ? `ended by ${receipt.finish_reason}${receipt.stop_string ? ` ${JSON.stringify(receipt.stop_string)}` : ""}` : "",
  ].filter(Boolean).join(" · ");
}

/** All that is known, asked for when somebody looks. */
async function complete(details, id) {
  let told;
  try { told = await request("GET", `ui/messages/${id}/receipt`); } catch (error) { report(error); return; }
  const saw = h("button", { type: "button", class: "small-button", text: "What the model saw", on: { click: () => showWhatItSaw(id) } });
  const again = told.receipt?.params ? h("button", {
    type: "button", class: "small-button", text: "Replay", title: "Write it again with the same seed and values, as another version, and compare", on: { click: () => replay(id) },
  }) : null;
  details.querySelector(".receipt-more")?.remove();
  details.append(h("div", { class: "receipt-more" }, table(told), differences(told.receipt?.replay_texts), h("div", { class: "receipt-buttons" }, saw, again)));
}

/** Of a replay that became another text: both from the first difference on. */
function differences(texts) {
  if (!texts) return "";
  const side = (title, text) => h("figure", {}, h("figcaption", { text: title }), h("pre", {}, h("span", { text: texts.before ? `…${texts.before}` : "" }), h("mark", { text: text || "(it ended here)" })));
  return h("div", { class: "replay-texts" }, side("It was", texts.was), side("It is now", texts.now));
}

function replay(id) {
  request("POST", `ui/conversations/${state.conversation.id}/replay`, { message_id: id }).catch(report);
}

function table({ receipt, model, created_s: created, changed }) {
  const made = receipt?.made_by ?? {};
  const rows = [
    ["Model", model],
    ["Model file", made.file ? file(made.file) : made.host ? `on the server ${made.host}` : ""],
    ["Loaded with", [made.loader, made.engine, made.context_length ? `context ${number(made.context_length)}` : "", options(made.options)].filter(Boolean).join(" · ")],
    ["Chat template", receipt?.template ? [`${receipt.template.origin} `, hash(receipt.template.hash)] : ""],
    ["Prompt", receipt?.prompt_hash ? ["token ids ", hash(receipt.prompt_hash)] : ""],
    ["Sampling", receipt?.params ? sampling(receipt.params, changed) : ""],
    ["Written", new Date(created * 1000).toLocaleString()],
    ...(receipt?.earlier ?? []).map((part, place) => [`Part ${place + 1}`, inWords(part)]),
  ];
  return h("dl", {}, ...rows.filter(([, value]) => value && value.length !== 0).flatMap(([name, value]) => [
    h("dt", { text: name }), h("dd", {}, ...(Array.isArray(value) ? value : [value])),
  ]));
}

function file({ name, size_bytes: size, sha256 }) {
  return [`${name}, ${number(size)} bytes, `, sha256 ? h("code", { text: sha256 }) : "its SHA-256 is still being computed"];
}

function hash(value) {
  return h("code", { title: value, text: `${value.slice(0, HASH_SHOWN)}…` });
}

function options(given) {
  return Object.entries(given ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
}

function inValues(params, names) {
  return names.map((name) => `${name} ${typeof params[name] === "object" ? JSON.stringify(params[name]) : params[name]}`).join(", ");
}

function sampling(params, changed) {
  const all = Object.keys(params);
  return [inValues(params, changed) || "neutral", h("details", { class: "receipt-all" }, h("summary", { text: `All ${all.length} values` }), h("span", { text: inValues(params, all) }))];
}
