// A server that several people share: what belongs to all can be looked at, not changed, and says why. The server refuses it anyway.

import { h } from "./dom.js";
import { address, listen, request } from "./page.js";

// What changes something for all, by place; where a whole area does, all its controls
const WHOLE = Object.freeze(["#area-models", "#area-training"]);
const SINGLE = Object.freeze([
  ".chat-choice.of-all, .of-all .chat-choice input",
  "#preset-save, #preset-name :is(input, textarea), #preset-default, #preset-import, #drawer button.stop, #grammar-buttons button, #grammar-name :is(input, textarea)",
  "#template-save, #template-delete, #template-import, #template-choice, #template-try, .tpl-bin button",
  '.cast-tools [aria-label^="Delete "], .cast-form [type="submit"], .cast-buttons [title^="A card as"]',
]);
const CONTROLS = "button, input, select, textarea";
const HELD = "data-held";

let refused = "";
let login = ""; // where the key can be typed

/** Why this person may not change what belongs to all; empty where they may. */
export function whyNot() {
  return refused;
}

function hold(control) {
  if (control.disabled && control.hasAttribute(HELD)) return;
  control.disabled = true;
  control.title = refused;
  control.setAttribute(HELD, "");
}

function holdAll() {
  for (const area of WHOLE) {
    const root = document.querySelector(area);
    if (!root) continue;
    root.querySelectorAll(CONTROLS).forEach(hold);
    if (!root.querySelector(".held-note")) root.prepend(h("p", { class: "held-note", role: "note" }, refused, login && h("a", { href: address(login), text: "Type the key" })));
  }
  document.querySelectorAll(SINGLE.join(",")).forEach(hold);
}

/** The session has ended: said once, above all. Nothing is led away by itself, as something may be half typed. */
function sayLoggedOut() {
  if (document.querySelector(".logged-out")) return;
  const here = location.pathname.slice(address("").pathname.length - 1) + location.search;
  const again = h("a", { href: address(`login?next=${encodeURIComponent(here)}`), text: "Log in again" });
  document.body.append(h("p", { class: "logged-out", role: "alert" }, "You are no longer logged in. Messages you typed are kept in this browser.", again));
}

async function begin() {
  listen("logged-out", sayLoggedOut);
  const told = await request("GET", "ui/person").catch(() => ({}));
  if (!told.refused) return;
  ({ refused, login } = told);
  document.body.classList.add("held");
  let asked = 0;
  const soon = () => { asked ||= requestAnimationFrame(() => { asked = 0; holdAll(); }); };
  new MutationObserver(soon).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["disabled"] });
  holdAll();
}

begin();
