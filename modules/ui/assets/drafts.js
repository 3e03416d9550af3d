// What is typed and not sent, by conversation: the browser keeps it over a reload; of private conversations only this page does.

import { isPrivate } from "./private_chat.js";

const key = (id) => `paddock.draft.${id}`;
const here = new Map();

export function draftOf(id) {
  return isPrivate(id) ? here.get(id) : localStorage.getItem(key(id));
}

/** Keep a text; an empty one is forgotten. */
export function keepDraft(id, text) {
  if (isPrivate(id)) here.set(id, text);
  else if (text) localStorage.setItem(key(id), text);
  else localStorage.removeItem(key(id));
}
