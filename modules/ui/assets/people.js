// A server that several people share: what belongs to all, or is an administrator's, can be looked at, not changed, and says why. The server refuses it anyway.

import { h } from "./dom.js";
import { address, listen, request } from "./page.js";

// What changes something for all, by place; where a whole area does, all its controls
const WHOLE = Object.freeze(["#area-models", "#area-training"]);
const SINGLE = Object.freeze([
  "#preset-save, #preset-name :is(input, textarea), #preset-default, #preset-import, #drawer button.stop, #grammar-buttons button, #grammar-name :is(input, textarea)",
  "#template-save, #template-delete, #template-import, #template-choice, #template-try, .tpl-bin button",
  cards("characters"),
]);
const ONE_FOR_ALL = `.of-all .chat-choice input, ${cards("profiles")}`; // each account has its own
const ADMINS = Object.freeze([".chat-choice.of-all", ".hub-token :is(input, button)", ".remote-form :is(input, textarea, select, button), .remote-servers [aria-label^=\"Remove \"]", ".model-folders :is(input, button)"]);
const CONTROLS = "button, input, select, textarea";
const HELD = "data-held";

function cards(kind) {
  return `[data-cards="${kind}"] :is(.cast-tools [aria-label^="Delete "], .cast-buttons [title^="A card as"]), .cast-form[data-cards="${kind}"] [type="submit"]`;
}

export const person = request("GET", "ui/person").catch(() => ({}));

let refused = "";
let notAdmin = "";
let single = SINGLE;
let login = ""; // where the key can be typed

/** Why this person may not change what concerns the server itself; empty where they may. */
export function whyNot() {
  return notAdmin;
}

function hold(control, reason) {
  if (control.disabled && control.hasAttribute(HELD)) return;
  control.disabled = true;
  control.title = reason;
  control.setAttribute(HELD, "");
}

function holdAll() {
  document.querySelectorAll(ADMINS.join(",")).forEach((control) => hold(control, notAdmin));
  if (!refused) return;
  for (const area of WHOLE) {
    const root = document.querySelector(area);
    if (!root) continue;
    root.querySelectorAll(CONTROLS).forEach((control) => hold(control, refused));
    if (!root.querySelector(".held-note")) root.prepend(h("p", { class: "held-note", role: "note" }, refused, login && h("a", { href: address(login), text: "Type the key" })));
  }
  document.querySelectorAll(single.join(",")).forEach((control) => hold(control, refused));
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
  const told = await person;
  if (!told.refused && !told.not_admin) return;
  ({ refused, login, not_admin: notAdmin } = told);
  single = told.accounts ? SINGLE : [ONE_FOR_ALL, ...SINGLE];
  document.body.classList.add("held");
  let asked = 0;
  const soon = () => { asked ||= requestAnimationFrame(() => { asked = 0; holdAll(); }); };
  new MutationObserver(soon).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["disabled"] });
  holdAll();
}

begin();
