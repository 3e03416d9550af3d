// Every action with its key: one table, the sheet that lists and changes them, and what a key press starts.
// Actions press the controls that are on the page anyway, so a key never does more than a click.

import { dialogIsOpen, openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { currentTheme, newConversation, openArea, state, toggleDrawer, toggleSide, toggleTheme } from "./page.js";
import { openPalette } from "./palette.js";
import { newPrivateConversation } from "./private_chat.js";
import { switchShowing } from "./reply_showing.js";
import { restartPaddock } from "./restart.js";

const KEYS_KEY = "paddock.keys"; // what the person changed: action → key, "" for none
const CHAT = ["chat"];
const EDITABLE = "input, textarea, select, [contenteditable]";
const HAS_KEYS_OF_ITS_OWN = `${EDITABLE}, [role="tab"], [role="slider"], [role="listbox"], [role="combobox"], [role="menu"], [role="menuitem"], #side li *`;

/**
 * `key` is the one it has unless the person changed it ("Mod" is Ctrl, or ⌘ on a Mac); `run` does it. `areas`: only there.
 * `typing`: also while the person types, only in an empty message box, or in no other box than that; keys with Mod or Alt work while typing anyway.
 */
export const ACTIONS = Object.freeze([
  { id: "palette", group: "Everywhere", title: "Jump to a conversation, model, preset or action", key: "Mod+K", run: openPalette },
  { id: "keys", group: "Everywhere", title: "All keys", key: "?", run: openSheet },
  { id: "new", group: "Everywhere", title: "New chat", key: "Mod+Shift+O", run: newConversation },
  { id: "private", group: "Everywhere", title: "New private chat, kept nowhere", key: "Alt+O", run: newPrivateConversation },
  { id: "search", group: "Everywhere", title: "Search conversations", key: "Mod+Shift+F", run: focusSearch },
  { id: "import", group: "Everywhere", title: "Import conversations", key: "Alt+I", run: () => press(document, "Import conversations") },
  { id: "settings", group: "Everywhere", title: "Show or hide the settings", key: "Mod+S", areas: ["chat", "notebook"], run: () => toggleDrawer() },
  { id: "side", group: "Everywhere", title: "Show or hide the list of conversations", key: "Mod+B", run: () => toggleSide() },
  { id: "theme", group: "Everywhere", title: "Light or dark", key: "Alt+L", run: toggleTheme },
  { id: "restart", group: "Everywhere", title: "Restart Paddock", key: "Alt+Shift+R", run: restartPaddock },
  { id: "chat", group: "Everywhere", title: "Chat", key: "Alt+1", run: () => openArea("chat") },
  { id: "notebook", group: "Everywhere", title: "Notebook", key: "Alt+2", run: () => openArea("notebook") },
  { id: "models", group: "Everywhere", title: "Models", key: "Alt+3", run: () => openArea("models") },
  { id: "training", group: "Everywhere", title: "Training", key: "Alt+4", run: () => openArea("training") },
  { id: "templates", group: "Everywhere", title: "Templates", key: "Alt+5", run: () => openArea("templates") },
  { id: "write", group: "Conversation", title: "Go to the message box", key: "/", areas: CHAT, run: () => box()?.focus() },
  { id: "edit-last", group: "Conversation", title: "Edit your last message", key: "ArrowUp", areas: CHAT, typing: "empty", run: () => press(last(".message.user"), "Edit") },
  { id: "regenerate", group: "Conversation", title: "Another version of the last reply", key: "Mod+Enter", areas: CHAT, typing: "empty", run: () => press(last(".message.assistant"), "Regenerate: another version") },
  { id: "continue", group: "Conversation", title: "Continue the last reply", key: "Alt+Enter", areas: CHAT, run: () => press(last(".message.assistant"), "Continue this reply") },
  { id: "earlier", group: "Conversation", title: "Earlier version of the last reply", key: "ArrowLeft", areas: CHAT, typing: "empty", run: () => press(last(".message.assistant"), "Earlier version") },
  { id: "later", group: "Conversation", title: "Later version of the last reply; behind the last, another one", key: "ArrowRight", areas: CHAT, typing: "empty", run: laterVersion },
  { id: "copy", group: "Conversation", title: "Copy the last reply", key: "Alt+C", areas: CHAT, run: () => press(last(".message.assistant"), "Copy") },
  { id: "edit-reply", group: "Conversation", title: "Edit the last reply", key: "Alt+E", areas: CHAT, run: () => press(last(".message.assistant"), "Edit") },
  { id: "good", group: "Conversation", title: "Good reply", key: "Alt+ArrowUp", areas: CHAT, typing: "message", run: () => press(last(".message.assistant"), "Good reply") },
  { id: "bad", group: "Conversation", title: "Bad reply", key: "Alt+ArrowDown", areas: CHAT, typing: "message", run: () => press(last(".message.assistant"), "Bad reply") },
  { id: "branch", group: "Conversation", title: "Branch: a new conversation up to the last message", key: "Alt+B", areas: CHAT, run: () => press(last(".message"), "Branch: a new conversation up to here") },
  { id: "remove", group: "Conversation", title: "Delete the last reply", key: "Alt+Backspace", areas: CHAT, typing: "message", run: () => press(last(".message.assistant"), "Delete this and what follows") },
  { id: "begin-with", group: "Conversation", title: "Start the reply with your words", key: "Alt+S", areas: CHAT, run: () => pressMenu("Start the reply with") },
  { id: "impersonate", group: "Conversation", title: "Let the model write your turn", key: "Mod+Shift+M", areas: CHAT, run: () => pressMenu("Write my turn") },
  { id: "send-only", group: "Conversation", title: "Send without a reply", key: "Mod+Shift+Enter", areas: CHAT, run: () => pressMenu("Send without") },
  { id: "insert-reply", group: "Conversation", title: "Insert what you typed as a reply", key: "Alt+Shift+Enter", areas: CHAT, run: () => pressMenu("Insert as a reply") },
  { id: "narrate", group: "Conversation", title: "Tell what you typed as narrator", key: "Alt+N", areas: CHAT, run: () => pressMenu("Tell as narrator") },
  { id: "take-back", group: "Conversation", title: "Take your last message back into the box", key: "Mod+Shift+Backspace", areas: CHAT, typing: "message", run: () => pressMenu("Take back") },
  { id: "thinking", group: "Conversation", title: "Show or hide the last reply's thinking", key: "Alt+T", areas: CHAT, run: () => last(".message:has(details.thinking)")?.querySelector("details.thinking > summary").click() },
  { id: "showing", group: "Conversation", title: "Show replies while they are written, or when they are done", key: "Alt+W", areas: CHAT, run: switchShowing },
  { id: "rename", group: "Conversation", title: "Rename the conversation", key: "F2", areas: CHAT, run: () => press(openRow(), "Rename") },
  { id: "pin", group: "Conversation", title: "Pin the conversation, or no longer", key: "Alt+P", areas: CHAT, run: () => press(openRow(), "Pin") || press(openRow(), "Unpin") },
  { id: "delete", group: "Conversation", title: "Delete the conversation", key: "Alt+Delete", areas: CHAT, typing: "message", run: () => press(openRow(), "Delete") },
]);

/** Keys that stay as they are, for the sheet. */
const FIXED = Object.freeze([
  ["Send", "Enter"], ["New line", "Shift+Enter"], ["Stop the reply; leave an edit, a menu or the settings", "Escape"], ["Next or previous conversation in the list", "ArrowDown"],
]);

// ---- the controls

const box = () => document.querySelector("#message-text");
const last = (selector) => [...document.querySelectorAll(`#chat .messages > ${selector}`)].at(-1) ?? null;
const openRow = () => document.querySelector("#side li[aria-current]");

/** Click the button of that name; whether there was one that can be pressed. */
function press(element, label) {
  const button = [...element?.querySelectorAll("button") ?? []].find((found) => found.getAttribute("aria-label") === label && !found.disabled);
  button?.click();
  return Boolean(button);
}

/** Click what begins with these words in the menu beside the message box. */
function pressMenu(words) {
  [...document.querySelectorAll("#chat .composer-menu .menu-item")].find((item) => item.textContent.startsWith(words))?.click();
}

function laterVersion() {
  const reply = last(".message.assistant");
  if (reply !== last(".message")) return;
  if (!press(reply, "Later version")) press(reply, "Regenerate: another version");
}

function focusSearch() {
  toggleSide(true);
  document.querySelector('#side input[type="search"]')?.focus();
}

// ---- keys in words

function changes() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEYS_KEY) ?? "{}");
    return kept && typeof kept === "object" ? kept : {};
  } catch { return {}; }
}

/** The key that an action has now; empty for none. */
export function keyFor(id) {
  const changed = changes()[id];
  return typeof changed === "string" ? changed : ACTIONS.find((action) => action.id === id).key;
}

function setKey(id, key) {
  const kept = changes();
  if (key === ACTIONS.find((action) => action.id === id).key) delete kept[id]; else kept[id] = key;
  localStorage.setItem(KEYS_KEY, JSON.stringify(kept));
}

/** What was pressed, as the table writes it; empty for a modifier alone. */
function keyOf(event) {
  if (["Control", "Shift", "Alt", "Meta", "AltGraph", "Dead", "Unidentified"].includes(event.key) || event.getModifierState("AltGraph")) return "";
  const mod = event.ctrlKey || event.metaKey;
  const physical = event.code.match(/^(?:Key|Digit)(.)$/)?.[1]; // Alt makes other letters of these
  const name = event.key === " " ? "Space" : event.altKey && physical ? physical : event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const shift = event.shiftKey && (mod || event.altKey || event.key.length > 1);
  return [mod && "Mod", event.altKey && "Alt", shift && "Shift", name].filter(Boolean).join("+");
}

const ON_MAC = /mac/i.test(navigator.platform);
const NAMES = { Mod: ON_MAC ? "⌘" : "Ctrl", Alt: ON_MAC ? "⌥" : "Alt", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };

/** A key as marks that can be read. */
export function keyMarks(key) {
  return key ? key.split("+").map((part) => h("kbd", { text: NAMES[part] ?? part })) : [h("span", { text: "no key" })];
}

// ---- a key is pressed

function isMeant(action, key, target) {
  if (action.areas && !action.areas.includes(state.area)) return false;
  if (key.includes("Arrow") && target.closest?.(".sampler-order")) return false; // they move a row there
  const inBox = target === box();
  if (action.typing === "message" && !inBox && target.closest?.(EDITABLE)) return false; // there they move the caret and take words away
  if (action.typing === "empty") return inBox ? !target.value : !target.closest?.(HAS_KEYS_OF_ITS_OWN);
  return /^(Mod|Alt)\+|^F\d/.test(key) || !target.closest?.(HAS_KEYS_OF_ITS_OWN);
}

function onKey(event) {
  if (event.isComposing || event.defaultPrevented || dialogIsOpen()) return;
  const key = keyOf(event);
  const action = key && ACTIONS.find((row) => keyFor(row.id) === key && isMeant(row, key, event.target));
  if (!action) return;
  event.preventDefault();
  event.stopPropagation();
  action.run();
}

// ---- the sheet

/** All actions with their keys; pressing a key's button waits for another one. */
export function openSheet() {
  const list = h("div", {});
  const problem = h("p", { class: "key-problem", role: "alert" });
  const fill = (focused) => {
    list.replaceChildren(...["Everywhere", "Conversation"].flatMap((group) => [
      h("h3", { text: group }), ...ACTIONS.filter((action) => action.group === group).map((action) => keyRow(action, fill, problem)),
    ]), h("h3", { text: "Always" }), ...FIXED.map(([title, key]) => h("div", { class: "key-row" }, h("span", { text: title }), h("span", { class: "key-fixed" }, ...keyMarks(key)))));
    if (focused) list.querySelector(`[data-action="${focused}"]`)?.focus();
  };
  fill();
  const reset = h("button", { type: "button", class: "small-button", text: "All keys as they were", on: { click: () => { localStorage.removeItem(KEYS_KEY); problem.textContent = ""; fill(); } } });
  openDialog("Keys", [h("p", { text: "Press a key's button, then the key it should have instead." }), problem, list, h("div", { class: "sheet-buttons" }, reset)]);
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
    if (pressed === "Escape") { end(); return; }
    if (pressed === "Backspace" || pressed === "Delete") { setKey(action.id, ""); end(); return; }
    const other = ACTIONS.find((row) => row.id !== action.id && keyFor(row.id) === pressed);
    if (other || ["Enter", "Shift+Enter", "Tab", "Shift+Tab"].includes(pressed)) {
      end(`${pressed.replace("Mod", NAMES.Mod)} belongs to “${other?.title ?? "the page itself"}”; choose another key, or change that one first.`);
      return;
    }
    setKey(action.id, pressed);
    end();
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
  return ACTIONS.filter((action) => action.id !== "palette").map((action) => ({
    title: action.id === "theme" ? (currentTheme() === "dark" ? "Light theme" : "Dark theme") : action.title, key: keyFor(action.id), areas: action.areas, run: action.run,
  }));
}

document.addEventListener("keydown", onKey, { capture: true });
