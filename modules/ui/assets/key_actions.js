// Every action that has a key, once. Actions press the controls that are on the page anyway, so a key never does more than a click.

import { openSheet } from "./keys.js";
import { emit, newConversation, openArea, toast, toggleDrawer, toggleSide, toggleTheme } from "./page.js";
import { openPalette } from "./palette.js";
import { newPrivateConversation } from "./private_chat.js";
import { switchShowing } from "./reply_showing.js";
import { restartPaddock } from "./restart.js";

const CHAT = ["chat"];
const NOTEBOOK = ["notebook"];

/**
 * `key` is the one it has unless the person changed it ("Mod" is Ctrl, or ⌘ on a Mac); `run` does it. `areas`: only there.
 * `typing`: also while the person types, only in an empty message box ("empty"), in no other box than that ("message"), or it is the box's own
 * doing ("own"); keys with Mod or Alt work while typing anyway. `late`: only where nothing nearer took the key.
 */
export const ACTIONS = Object.freeze([
  { id: "palette", group: "Everywhere", title: "Jump to a conversation, model, preset or action", key: "Mod+K", run: () => openPalette() },
  { id: "keys", group: "Everywhere", title: "All keys", key: "?", run: () => openSheet() },
  { id: "new", group: "Everywhere", title: "New chat", key: "Mod+Shift+O", run: newConversation },
  { id: "private", group: "Everywhere", title: "New private chat, kept nowhere", key: "Alt+O", run: newPrivateConversation },
  { id: "search", group: "Everywhere", title: "Search conversations", key: "Mod+Shift+F", run: focusSearch },
  { id: "import", group: "Everywhere", title: "Import conversations", key: "Alt+I", run: () => press(document, "Import conversations") },
  { id: "settings", group: "Everywhere", title: "Show or hide the settings", key: "Mod+S", areas: ["chat", "notebook"], run: () => toggleDrawer() },
  { id: "side", group: "Everywhere", title: "Show or hide the list of conversations", key: "Mod+B", run: () => toggleSide() },
  { id: "theme", group: "Everywhere", title: "Light or dark", key: "Alt+L", run: toggleTheme },
  { id: "restart", group: "Everywhere", title: "Restart Paddock", key: "Alt+Shift+R", run: restartPaddock },
  { id: "chats-menu", group: "Everywhere", title: "Choices for all chats", key: "Alt+Shift+O", run: () => { toggleSide(true); document.querySelector("#side .chat-menu > summary")?.click(); } },
  { id: "stop", group: "Everywhere", title: "Stop the reply or the text", key: "Escape", areas: [...CHAT, ...NOTEBOOK], late: true, run: () => emit("escape") },
  { id: "leave", group: "Everywhere", title: "Leave an edit, the list or the settings", key: "Escape", late: true },
  { id: "chat", group: "Everywhere", title: "Chat", key: "Alt+1", run: () => openArea("chat") },
  { id: "notebook", group: "Everywhere", title: "Notebook", key: "Alt+2", run: () => openArea("notebook") },
  { id: "models", group: "Everywhere", title: "Models", key: "Alt+3", run: () => openArea("models") },
  { id: "training", group: "Everywhere", title: "Training", key: "Alt+4", run: () => openArea("training") },
  { id: "templates", group: "Everywhere", title: "Templates", key: "Alt+5", run: () => openArea("templates") },
  { id: "send", group: "Conversation", title: "Send, or save an edit", key: "Enter", areas: CHAT, typing: "own" },
  { id: "newline", group: "Conversation", title: "New line", key: "Shift+Enter", areas: CHAT, typing: "own" },
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
  { id: "attach", group: "Conversation", title: "Attach files", key: "Alt+A", areas: CHAT, run: () => press(chat(), "Attach files") },
  { id: "several", group: "Conversation", title: "How many replies are written at once: one more", key: "Alt+Shift+A", areas: CHAT, run: () => chooseNext("Replies at once") },
  { id: "pick", group: "Conversation", title: "Go to the versions side by side", key: "Alt+U", areas: CHAT, run: () => document.querySelector("#chat .side-by-side .version-head button")?.focus() },
  { id: "cast", group: "Conversation", title: "Characters, profiles, how the model is asked", key: "Alt+Shift+C", areas: CHAT, run: () => document.querySelector("#chat .cast-chip")?.click() },
  { id: "context", group: "Conversation", title: "Show or hide what the context holds", key: "Alt+X", areas: CHAT, run: () => document.querySelector("#chat .context-count")?.click() },
  { id: "receipt", group: "Conversation", title: "Show or hide the last reply's receipt", key: "Alt+G", areas: CHAT, run: () => last(".message.assistant")?.querySelector("details.receipt > summary")?.click() },
  { id: "saw", group: "Conversation", title: "What the model saw before the last reply", key: "Alt+Shift+G", areas: CHAT, run: () => tellReceipt("what-it-saw") },
  { id: "replay", group: "Conversation", title: "Replay the last reply: the same seed and values, and compare", key: "Alt+Shift+Y", areas: CHAT, run: () => tellReceipt("replay") },
  { id: "map", group: "Conversation", title: "Map of all versions", key: "Alt+M", areas: CHAT, run: () => press([...document.querySelectorAll("#chat .messages > .message:has(.icon-map)")].at(-1), "Map of all versions") },
  { id: "pin-message", group: "Conversation", title: "Pin the last message in the prompt, or no longer", key: "Alt+Shift+P", areas: CHAT, run: () => press(last(".message"), "Pin") },
  { id: "to-notebook", group: "Conversation", title: "Open the conversation in a notebook", key: "Alt+K", areas: CHAT, run: () => press(last(".message"), "Open in a notebook") },
  { id: "latest", group: "Conversation", title: "Jump to the latest message", key: "Alt+End", areas: CHAT, run: () => document.querySelector("#chat .jump")?.click() },
  { id: "tags", group: "Conversation", title: "Tags of the conversation", key: "Alt+Shift+T", areas: CHAT, run: () => press(openRow(), "Tags") },
  { id: "export", group: "Conversation", title: "Export the conversation", key: "Alt+Shift+E", areas: CHAT, run: () => press(openRow(), "Export") },
  { id: "bin", group: "Conversation", title: "Deleted conversations and messages", key: "Alt+Shift+B", areas: CHAT, run: () => { toggleSide(true); press(document.querySelector("#side"), "Deleted conversations and messages"); } },
  { id: "notebook-generate", group: "Notebook", title: "Generate, or stop", key: "Mod+Enter", areas: NOTEBOOK, run: () => document.querySelector("#notebook .generate")?.click() },
  { id: "notebook-regenerate", group: "Notebook", title: "Regenerate: take the last generation back and write another", key: "Alt+R", areas: NOTEBOOK, run: () => press(notebook(), "Regenerate") },
  { id: "notebook-undo", group: "Notebook", title: "Take back the last generation or edit", key: "Alt+Z", areas: NOTEBOOK, run: () => press(notebook(), "Undo (takes back the last generation or edit)") },
  { id: "notebook-redo", group: "Notebook", title: "Bring back what was taken back", key: "Alt+Shift+Z", areas: NOTEBOOK, run: () => press(notebook(), "Redo") },
  { id: "notebook-save", group: "Notebook", title: "Save what was typed now", key: "Mod+Shift+S", areas: NOTEBOOK, run: () => emit("save-notebook") },
  { id: "notebook-next", group: "Notebook", title: "The likeliest next tokens", key: "Alt+N", areas: NOTEBOOK, run: () => pressText(".next-tokens", "Look ahead") },
  { id: "notebook-where", group: "Notebook", title: "Where the model writes: the next place", key: "Alt+W", areas: NOTEBOOK, run: () => chooseNext("Where to write") },
  { id: "notebook-tries", group: "Notebook", title: "How many texts are written at once: one more", key: "Alt+Shift+A", areas: NOTEBOOK, run: () => chooseNext("How many alternatives") },
  { id: "notebook-pick", group: "Notebook", title: "Go to the alternatives", key: "Alt+U", areas: NOTEBOOK, run: () => document.querySelector("#notebook .alternative-buttons button:enabled")?.focus() },
  { id: "notebook-none", group: "Notebook", title: "Take none of the alternatives", key: "Alt+Shift+U", areas: NOTEBOOK, run: () => pressText(".alternatives", "Take none") },
  { id: "notebook-text", group: "Notebook", title: "View: the text", key: "Alt+Shift+1", areas: NOTEBOOK, run: () => pressText(".notebook-views", "Text") },
  { id: "notebook-markdown", group: "Notebook", title: "View: as Markdown", key: "Alt+Shift+2", areas: NOTEBOOK, run: () => pressText(".notebook-views", "Markdown") },
  { id: "notebook-tokens", group: "Notebook", title: "View: as tokens", key: "Alt+Shift+3", areas: NOTEBOOK, run: () => pressText(".notebook-views", "Tokens") },
  { id: "notebook-columns", group: "Notebook", title: "View: two columns, or one", key: "Alt+Shift+4", areas: NOTEBOOK, run: () => pressText(".notebook-views", "Two columns") },
  { id: "notebook-list", group: "Notebook", title: "All notebooks: search, new, rename, delete", key: "Alt+B", areas: NOTEBOOK, run: () => document.querySelector("#notebook .notebook-open")?.click() },
  { id: "notebook-history", group: "Notebook", title: "Versions of the notebook", key: "Alt+H", areas: NOTEBOOK, run: () => pressText(".notebook-head", "History") },
  { id: "notebook-special", group: "Notebook", title: "Special tokens", key: "Alt+T", areas: NOTEBOOK, run: () => pressText(".notebook-head", "Special tokens") },
  { id: "notebook-chat", group: "Notebook", title: "Send the selected text, or all, to the chat", key: "Alt+S", areas: NOTEBOOK, run: () => pressText(".notebook-head", "Send to chat") },
]);

// ---- the controls

export const box = () => document.querySelector("#message-text");
const chat = () => document.querySelector("#chat");
const notebook = () => document.querySelector("#notebook");
const last = (selector) => [...document.querySelectorAll(`#chat .messages > ${selector}`)].at(-1) ?? null;
const openRow = () => document.querySelector("#side li[aria-current]");

/** Click the button of that name, or of that name and more behind a colon; whether there was one that can be pressed. */
function press(element, label) {
  const button = [...element?.querySelectorAll("button") ?? []].find((found) => {
    const name = found.getAttribute("aria-label") ?? "";
    return (name === label || name.startsWith(`${label}:`)) && !found.disabled;
  });
  button?.click();
  return Boolean(button);
}

/** Click what begins with these words in the menu beside the message box. */
function pressMenu(words) {
  [...document.querySelectorAll("#chat .composer-menu .menu-item")].find((item) => item.textContent.startsWith(words))?.click();
}

/** Click the button of the notebook with these words. */
function pressText(place, words) {
  [...document.querySelectorAll(`#notebook ${place} button`)].find((button) => button.textContent === words && !button.disabled)?.click();
}

/** Choose the next one of a list, behind the last the first, and say which. */
function chooseNext(label) {
  const list = document.querySelector(`select[aria-label="${label}"]`);
  if (!list) return;
  list.selectedIndex = (list.selectedIndex + 1) % list.options.length;
  list.dispatchEvent(new Event("change"));
  toast(`${label}: ${list.selectedOptions[0].textContent}`);
}

function tellReceipt(name) {
  last(".message.assistant")?.querySelector("details.receipt")?.dispatchEvent(new Event(name));
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
