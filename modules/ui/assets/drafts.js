// What is typed and not sent, by conversation: the browser keeps it over a reload; of private conversations only this page does.

import { isPrivate } from "./private_chat.js";

export const BEGINNING = "begin."; // the words a reply is to begin with, beside the text of the box
const key = (id, kind) => `paddock.draft.${kind}${id}`;
const here = new Map();

export function draftOf(id, kind = "") {
  return isPrivate(id) ? here.get(key(id, kind)) : localStorage.getItem(key(id, kind));
}

/** Keep a text; an empty one is forgotten. */
export function keepDraft(id, text, kind = "") {
  if (isPrivate(id)) here.set(key(id, kind), text);
  else if (text) localStorage.setItem(key(id, kind), text);
  else localStorage.removeItem(key(id, kind));
}
