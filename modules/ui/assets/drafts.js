// What is typed and not sent, by conversation: the browser keeps it over a reload; of private conversations only this page does.

import { isPrivate } from "./private_chat.js";

export const BEGINNING = "begin."; // the words a reply is to begin with, beside the text of the box
const key = (id, kind) => `paddock.draft.${kind}${id}`;
const here = new Map(); // also of what the browser has no room for

export function draftOf(id, kind = "") {
  return here.get(key(id, kind)) ?? (isPrivate(id) ? null : localStorage.getItem(key(id, kind)));
}

/** Keep a text; an empty one is forgotten. */
export function keepDraft(id, text, kind = "") {
  const place = key(id, kind);
  if (isPrivate(id)) { here.set(place, text); return; }
  here.delete(place);
  if (!text) { localStorage.removeItem(place); return; }
  try { localStorage.setItem(place, text); } catch { here.set(place, text); }
}
