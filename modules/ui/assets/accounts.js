// Who is logged in, and the way to accounts: a line with the name and Log out below the list of conversations, or an entry of the menu where nobody has one.

import { openAccounts } from "./accounts_dialog.js";
import { h, icon } from "./dom.js";
import { address, report } from "./page.js";
import { person } from "./people.js";

const THEME_KEY = "paddock.theme";
const ROLES = Object.freeze({ chat: "may chat", manage: "manages models", admin: "administrator" });

/** Entries of a menu that lead to accounts; hidden where there are some already, or can be none. */
export function accountsEntry(close) {
  const open = () => { close(); showAccounts(); };
  const entry = h("button", { type: "button", class: "chat-choice", on: { click: open } }, icon("person"), h("span", { text: "Accounts" }), h("span", { class: "menu-hint", text: "Have people log in, each with their own conversations." }));
  const parts = [h("hr", { hidden: true }), entry];
  entry.hidden = true;
  person.then((told) => { for (const part of parts) part.hidden = told.several || told.accounts !== false; });
  return parts;
}

/** The line with who is logged in; not there where nobody is. */
export function whoAmI() {
  const line = h("div", { class: "who", hidden: true });
  person.then((told) => {
    if (!told.accounts) return;
    line.hidden = false;
    const open = h("button", { type: "button", class: "who-name", title: `Account: ${ROLES[told.role] ?? told.role}`, on: { click: showAccounts } }, icon("person"), h("span", { text: told.name }));
    line.replaceChildren(open, h("button", { type: "button", class: "small-button", text: "Log out", on: { click: logOut } }));
  });
  return line;
}

export async function showAccounts() {
  document.body.classList.remove("side-open");
  const told = await person;
  if (told.accounts === undefined || (told.several && !told.accounts)) return;
  openAccounts(told).catch(report);
}

/** Leave with a form, as a browser then follows to the page that asks for the name. What was typed here is not left to who logs in next, also where a browser does not heed the server's word for that. */
async function logOut() {
  const look = localStorage.getItem(THEME_KEY);
  for (const store of [localStorage, sessionStorage]) store.clear();
  if (look) localStorage.setItem(THEME_KEY, look);
  for (const { name } of await indexedDB.databases?.() ?? []) indexedDB.deleteDatabase(name);
  const form = h("form", { method: "post", action: address("logout"), hidden: true });
  document.body.append(form);
  form.submit();
}
