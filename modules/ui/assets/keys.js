// What a key press starts, and the sheet that lists all keys and changes them. The actions are in key_actions.js.

import { dialogIsOpen, openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { ACTIONS, box } from "./key_actions.js";
import { ON_MAC, actionOf, forgetKeys, keyFor, keyMarks, keyOf, setKey, whyNotKey, writesWithAlt } from "./key_bindings.js";
import { currentTheme, emit, leaveSomething, state } from "./page.js";

const EDITABLE = "input, textarea, select, [contenteditable]";
const HAS_KEYS_OF_ITS_OWN = `${EDITABLE}, [role="tab"], [role="slider"], [role="listbox"], [role="combobox"], [role="menu"], [role="menuitem"], #side li *`;
const GROUPS = Object.freeze(["Everywhere", "Conversation", "Notebook"]);

/** Keys that stay as they are, for the sheet. */
const FIXED = Object.freeze([["Close a dialog or a menu, leave a name that is typed", "Escape"], ["Next or previous conversation in the list", "ArrowDown"]]);

// ---- a key is pressed

function isMeant(action, key, event) {
  const { target } = event;
  if (action.areas && !action.areas.includes(state.area)) return false;
  if (writesWithAlt(event) && target.closest?.(EDITABLE)) return false;
  if (key.includes("Arrow") && target.closest?.(".sampler-order")) return false; // they move a row there
  const inBox = target === box();
  if (action.typing === "message" && !inBox && target.closest?.(EDITABLE)) return false; // there they move the caret and take words away
  if (action.typing === "empty") return inBox ? !target.value : !target.closest?.(HAS_KEYS_OF_ITS_OWN);
  return /^(Mod|Alt)\+|^F\d/.test(key) || !target.closest?.(HAS_KEYS_OF_ITS_OWN);
}

function onKey(event) {
  if (event.isComposing || event.defaultPrevented || dialogIsOpen()) return;
  const key = keyOf(event);
  const action = key && ACTIONS.find((row) => row.run && !row.late && keyFor(row.id) === key && isMeant(row, key, event));
  if (!action) return;
  event.preventDefault();
  event.stopPropagation();
  action.run();
}

/** Leaving and stopping come last: a menu or an edit that is open takes the key for itself. */
function onLateKey(event) {
  if (event.isComposing || event.defaultPrevented || dialogIsOpen()) return;
  const key = keyOf(event);
  const isPressed = (id) => key && keyFor(id) === key && (key === "Escape" || isMeant(actionOf(id), key, event));
  const leaves = isPressed("leave") && leaveSomething(event.target);
  const stops = !leaves && isPressed("stop");
  if (stops) emit("escape");
  if ((leaves || stops) && key !== "Escape") event.preventDefault();
}

// ---- the sheet

/** All actions with their keys; pressing a key's button waits for another one. */
export function openSheet() {
  const list = h("div", {});
  const problem = h("p", { class: "key-problem", role: "alert" });
  const fill = (focused) => {
    list.replaceChildren(...GROUPS.flatMap((group) => [
      h("h3", { text: group }), ...ACTIONS.filter((action) => action.group === group).map((action) => keyRow(action, fill, problem)),
    ]), h("h3", { text: "Always" }), ...FIXED.map(([title, key]) => h("div", { class: "key-row" }, h("span", { text: title }), h("span", { class: "key-fixed" }, ...keyMarks(key)))));
    if (focused) list.querySelector(`[data-action="${focused}"]`)?.focus();
  };
  fill();
  const reset = h("button", { type: "button", class: "small-button", text: "All keys as they were", on: { click: () => { forgetKeys(); emit("keys-changed"); problem.textContent = ""; fill(); } } });
  const onMac = ON_MAC ? [h("p", { text: "In a text box ⌥ writes characters; hold ⌃ with it there." })] : [];
  openDialog("Keys", [h("p", { text: "Press a key's button, then the key it should have instead." }), ...onMac, problem, list, h("div", { class: "sheet-buttons" }, reset)]);
}

function keyRow(action, fill, problem) {
  const key = keyFor(action.id);
  const button = h("button", {
    type: "button", class: `key-button${key === action.key ? "" : " changed"}`, data: { action: action.id }, "aria-label": `Change the key of “${action.title}”, now ${key || "none"}`,
  }, ...keyMarks(key));
  let ended = false; // taking the button away takes the focus from it as well
  const end = (sentence = "") => {
    if (ended) return;
    ended = true;
    problem.textContent = sentence;
    fill(action.id);
  };
  const take = (event) => {
    event.preventDefault();
    event.stopPropagation();
    const pressed = keyOf(event);
    if (!pressed) return;
    if (pressed === "Escape" && !action.late) { end(); return; }
    const isNone = pressed === "Backspace" || pressed === "Delete";
    const sentence = isNone ? "" : whyNotKey(action.id, pressed);
    if (!sentence) {
      setKey(action.id, isNone ? "" : pressed);
      emit("keys-changed");
    }
    end(sentence);
  };
  button.addEventListener("click", () => {
    button.classList.add("waiting");
    button.replaceChildren(h("span", { text: "Press a key · Backspace for none" }));
    button.addEventListener("keydown", take, { capture: true });
    button.addEventListener("blur", () => end(), { once: true });
    button.focus();
  });
  return h("div", { class: "key-row" }, h("span", { text: action.title }), button);
}

/** What the palette shows of the actions. */
export function actionRows() {
  return ACTIONS.filter((action) => action.run && action.id !== "palette").map((action) => ({
    title: action.id === "theme" ? (currentTheme() === "dark" ? "Light theme" : "Dark theme") : action.title, key: keyFor(action.id), areas: action.areas, run: action.run,
  }));
}

document.addEventListener("keydown", onKey, { capture: true });
document.addEventListener("keydown", onLateKey);
