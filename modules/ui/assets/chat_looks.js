// How the messages look: a class of the page, remembered by this browser.

import { h } from "./dom.js";

const KEY = "paddock.look";
const LOOKS = Object.freeze([["", "Bubbles"], ["document", "Document"], ["messenger", "Messenger"], ["compact", "Compact"]]);

function chosen() {
  const kept = localStorage.getItem(KEY) ?? "";
  return LOOKS.some(([name]) => name === kept) ? kept : "";
}

function apply() {
  for (const [name] of LOOKS) if (name) document.body.classList.toggle(`look-${name}`, name === chosen());
}

/** The choice among them. */
export function lookChoice() {
  const choices = LOOKS.map(([name, title]) => {
    const radio = h("input", { type: "radio", name: "chat-look", value: name, checked: name === chosen() });
    radio.addEventListener("change", () => { localStorage.setItem(KEY, name); apply(); });
    return h("label", {}, radio, h("span", { text: title }));
  });
  return h("div", { class: "look-choice", role: "radiogroup", "aria-label": "Look of the messages" }, h("span", { class: "menu-hint", text: "Look of the messages" }), ...choices);
}

apply();
window.addEventListener("storage", (event) => { if (event.key === KEY) apply(); });
