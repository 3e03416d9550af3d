// Which key an action has, what a key press is called, and whether a key can be had. On a Mac the key beside an Alt (⌥) is told by its place
// on the keyboard, as ⌥ makes other characters; in a text box it writes those, and with ⌃ beside it it is Alt there too.

import { h } from "./dom.js";
import { ACTIONS } from "./key_actions.js";

const KEYS_KEY = "paddock.keys"; // what the person changed: action → key, "" for none
const MODIFIERS = ["Control", "Shift", "Alt", "Meta", "AltGraph", "Unidentified"];
const PLACES = Object.freeze({ Minus: "-", Equal: "=", BracketLeft: "[", BracketRight: "]", Semicolon: ";", Quote: "'", Backquote: "`", Backslash: "\\", Comma: ",", Period: ".", Slash: "/", Space: "Space" });
const OF_THE_PAGE = ["Enter", "Shift+Enter", "Tab", "Shift+Tab", "Space"];
const WRITES_NOTHING = /^(?:Mod\+|Alt\+)|^F\d|^(?:Shift\+)?Enter$/;
const TOGETHER = Object.freeze(["stop", "leave"]); // one key may do both: what is nearer comes first

export const ON_MAC = /mac/i.test(navigator.platform);
const NAMES = { Mod: ON_MAC ? "⌘" : "Ctrl", Alt: ON_MAC ? "⌥" : "Alt", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };

export function actionOf(id) {
  return ACTIONS.find((action) => action.id === id);
}

function changes() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEYS_KEY) ?? "{}");
    return kept && typeof kept === "object" ? kept : {};
  } catch { return {}; }
}

/** The key that an action has now; empty for none. */
export function keyFor(id) {
  const changed = changes()[id];
  return typeof changed === "string" ? changed : actionOf(id).key;
}

export function setKey(id, key) {
  const kept = changes();
  if (key === actionOf(id).key) delete kept[id]; else kept[id] = key;
  localStorage.setItem(KEYS_KEY, JSON.stringify(kept));
}

export function forgetKeys() {
  localStorage.removeItem(KEYS_KEY);
}

// ---- what was pressed

/** What was pressed, as the table writes it; empty for a modifier alone. */
export function keyOf(event) {
  if (MODIFIERS.includes(event.key) || (!ON_MAC && event.getModifierState("AltGraph"))) return "";
  const name = nameOf(event);
  if (name === "Dead") return "";
  const mod = (event.ctrlKey || event.metaKey) && !(ON_MAC && event.altKey && !event.metaKey);
  const shift = event.shiftKey && (mod || event.altKey || name.length > 1);
  return [mod && "Mod", event.altKey && "Alt", shift && "Shift", name].filter(Boolean).join("+");
}

function nameOf({ key, code, altKey }) {
  if (key === " ") return "Space";
  const isPlain = !ON_MAC && /^[a-z0-9]$/i.test(key); // else Alt, or Shift with it, made another character of the key
  const place = altKey && !isPlain ? /^(?:Key|Digit)(.)$/.exec(code)?.[1] ?? PLACES[code] : null;
  return place ?? (key.length === 1 ? key.toUpperCase() : key);
}

/** Whether this is the key of an action. */
export function isKey(event, id) {
  return !event.isComposing && keyOf(event) !== "" && keyOf(event) === keyFor(id);
}

/** Whether ⌥ writes or edits here, as it does in every text box of a Mac. */
export function writesWithAlt(event) {
  return ON_MAC && event.altKey && !event.ctrlKey && !event.metaKey && event.key !== "Enter" && !/^F\d/.test(event.key);
}

/** Put a new line where the cursor is, unless the browser does it anyway. */
export function writeNewLine(event) {
  if (["Enter", "Shift+Enter"].includes(keyOf(event))) return;
  event.preventDefault();
  document.execCommand("insertText", false, "\n"); // keeps the browser's own undo
}

// ---- keys in words

/** A key as marks that can be read. */
export function keyMarks(key) {
  return key ? key.split("+").map((part) => h("kbd", { text: NAMES[part] ?? part })) : [h("span", { text: "no key" })];
}

export function keyInWords(key) {
  return key ? key.split("+").map((part) => NAMES[part] ?? part).join("+") : "no key";
}

/** “Send (Enter)”: words with the key that the action has now. */
export function withKey(words, id) {
  return keyFor(id) ? `${words} (${keyInWords(keyFor(id))})` : words;
}

/** Why an action cannot have a key, as a sentence; empty where it can. */
export function whyNotKey(id, key) {
  const action = actionOf(id);
  const isOwn = action.typing === "own";
  if (isOwn && !WRITES_NOTHING.test(key)) return `${keyInWords(key)} writes or moves in the text there; take Enter, or a key with ${NAMES.Mod} or ${NAMES.Alt}.`;
  const other = ACTIONS.find((row) => row.id !== id && keyFor(row.id) === key && meets(row, action));
  const owner = other?.title ?? (!isOwn && OF_THE_PAGE.includes(key) ? "the page itself" : "");
  return owner && `${keyInWords(key)} belongs to “${owner}”; choose another key, or change that one first.`;
}

/** Whether two actions cannot have the same key: both are meant somewhere at the same time. */
function meets(one, other) {
  if (one.areas && other.areas && !one.areas.some((area) => other.areas.includes(area))) return false;
  if (TOGETHER.includes(one.id) && TOGETHER.includes(other.id)) return false;
  const whens = [one.typing, other.typing];
  return !(whens.includes("own") && whens.includes("empty")); // a box with text in it, and an empty one
}
