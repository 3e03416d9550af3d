// Edits of messages that were begun and not saved: the text stays in this browser, and a reload opens the box again in the tab where it was open.
// Those in private conversations stay in this page alone.

import { isPrivate } from "./private_chat.js";

const textKey = (id) => `paddock.edit.${id}`;
const openKey = (id) => `paddock.editing.${id}`;
const here = new Map(); // also of what the browser has no room for

/** What was typed into the edit box of a message, or null. */
export function editDraft(id) {
  return here.get(id) ?? localStorage.getItem(textKey(id));
}

/** Whether its box was open in this tab when the page was left. */
export function wasEditing(id) {
  return sessionStorage.getItem(openKey(id)) !== null;
}

/** Keep what is typed; null: as it was when the box was opened. */
export function keepEdit(id, text) {
  if (isPrivate(id)) { here.set(id, text); return; }
  here.delete(id);
  sessionStorage.setItem(openKey(id), "");
  if (text === null) { localStorage.removeItem(textKey(id)); return; }
  try { localStorage.setItem(textKey(id), text); } catch { here.set(id, text); }
}

/** The box is closed; what was typed waits. */
export function closeEdit(id) {
  sessionStorage.removeItem(openKey(id));
}

export function dropEdit(id) {
  closeEdit(id);
  here.delete(id);
  localStorage.removeItem(textKey(id));
}
