// Edits of messages that were begun and not saved: the text stays in this browser, and a reload opens the box again in the tab where it was open.

import { conversationInAddress } from "./page.js";
import { isPrivate } from "./private_chat.js";

const textKey = (id) => `paddock.edit.${id}`;
const openKey = (id) => `paddock.editing.${id}`;

/** What was typed into the edit box of a message, or null. */
export function editDraft(id) {
  return localStorage.getItem(textKey(id));
}

/** Whether its box was open in this tab when the page was left. */
export function wasEditing(id) {
  return sessionStorage.getItem(openKey(id)) !== null;
}

/** Keep what is typed; null: as it was when the box was opened. */
export function keepEdit(id, text) {
  if (isPrivate(conversationInAddress())) return; // nothing of it is kept
  sessionStorage.setItem(openKey(id), "");
  if (text === null) localStorage.removeItem(textKey(id)); else localStorage.setItem(textKey(id), text);
}

export function dropEdit(id) {
  sessionStorage.removeItem(openKey(id));
  localStorage.removeItem(textKey(id));
}
