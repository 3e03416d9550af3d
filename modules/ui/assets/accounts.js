// Who is logged in, and the way to accounts: a button below the list of conversations, a line with the name and Log out, a notice when the session has ended.

import { openAccounts } from "./accounts_dialog.js";
import { openDialog } from "./dialog.js";
import { h, icon, iconButton } from "./dom.js";
import { address, listen, report } from "./page.js";
import { person } from "./people.js";

const ROLES = Object.freeze({ chat: "may chat", manage: "manages models", admin: "administrator" });

/** The button that opens accounts; not there where there can be none. */
export function accountsButton() {
  const button = iconButton("person", "Accounts", showAccounts, { hidden: true });
  person.then((told) => { button.hidden = told.accounts || told.several || told.accounts === undefined; });
  return button;
}

/** The line with who is logged in; not there where nobody is. */
export function whoAmI() {
  const line = h("div", { class: "who", hidden: true });
  person.then((told) => {
    if (!told.accounts) return;
    line.hidden = false;
    const open = h("button", { type: "button", class: "who-name", title: "Account", on: { click: showAccounts } }, icon("person"), h("span", { text: told.name }), h("small", { text: ROLES[told.role] ?? told.role }));
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

/** Leave with a form, as a browser then follows to the page that asks for the name. */
function logOut() {
  const form = h("form", { method: "post", action: address("logout"), hidden: true });
  document.body.append(form);
  form.submit();
}

let ended = null;
listen("logged-out", () => {
  if (ended?.isConnected) return;
  const login = address("login");
  login.searchParams.set("next", location.pathname + location.search);
  ended = openDialog("You are logged out", [
    h("p", { text: "Your session has ended. Log in to go on; what you typed here and did not send is kept by this browser." }),
    h("div", { class: "sheet-buttons" }, h("a", { class: "small-button primary", href: login, text: "Log in" })),
  ]);
});
