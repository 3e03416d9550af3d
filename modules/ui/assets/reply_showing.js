// Whether a reply is shown while it is written or when it is done: a view of this browser. It is written and kept all the same.

import { toast } from "./page.js";

const KEY = "paddock.stream";

export function showsWhileWritten() {
  return localStorage.getItem(KEY) !== "off";
}

export function showWhileWritten(on) {
  if (on) localStorage.removeItem(KEY); else localStorage.setItem(KEY, "off");
  apply();
}

export function switchShowing() {
  showWhileWritten(!showsWhileWritten());
  toast(showsWhileWritten() ? "Replies are shown while they are written." : "Replies are shown when they are done.");
}

function apply() {
  document.body.dataset.stream = showsWhileWritten() ? "on" : "off"; // the style hides what is being written
}

apply();
