// How the model is asked: the conversation as turns of its chat template, or all of it in one instruction, with a command that can be edited.

import { h } from "./dom.js";
import { request, state } from "./page.js";

const MODES = Object.freeze([
  ["instruct", "As turns", "Each message is a turn of the model's chat template. Right for most models."],
  ["chat-instruct", "As one instruction (chat-instruct)", "The whole dialogue is put into one message that asks the model to go on. For models that follow instructions well and lose the role. It replies without thinking first."],
]);
const SAVE_MS = 500;

/** A section of the dialog; `attempt(work)` shows what went wrong. */
export function modeSection(composer, attempt) {
  const { mode = "instruct", command = "" } = state.conversation?.settings ?? {};
  const saved = h("span", { class: "saved", "aria-live": "polite" });
  const box = h("textarea", { rows: "5", "aria-label": "Command" });
  box.value = command;
  const field = h("label", { class: "mode-command", hidden: mode === "instruct" }, h("strong", { text: "Command" }),
    h("span", { class: "cast-note", text: "{{prompt}} is the persona with the dialogue, {{char}} who speaks next, {{user}} the other one." }), box);
  const keep = async (settings) => {
    const id = composer.conversation;
    if (!id) return;
    saved.textContent = "";
    if (!(await attempt(() => request("PATCH", `ui/conversations/${id}`, { settings })))) return;
    saved.textContent = "Saved";
  };
  let later = 0;
  const keepCommand = () => { if (later) keep({ command: box.value }); clearTimeout(later); later = 0; };
  box.addEventListener("input", () => { clearTimeout(later); later = setTimeout(keepCommand, SAVE_MS); });
  box.addEventListener("blur", keepCommand);
  const choices = MODES.map(([value, title, note]) => {
    const radio = h("input", { type: "radio", name: "cast-mode", value, checked: value === mode });
    radio.addEventListener("change", () => { field.hidden = value === "instruct"; keep({ mode: value }); });
    return h("label", { class: "mode-choice" }, radio, h("span", {}, h("strong", { text: title }), h("span", { class: "cast-note", text: note })));
  });
  return h("section", {}, h("h3", {}, "How the model is asked ", saved), h("div", { role: "radiogroup", "aria-label": "How the model is asked" }, ...choices), field);
}
