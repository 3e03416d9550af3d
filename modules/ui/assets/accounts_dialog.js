// The dialog about accounts: the first account where there is none, else one's own, and for administrators people and the audit log.

import { auditLog } from "./audit_log.js";
import { note, problem, submitting, typed } from "./account_forms.js";
import { ownAccount } from "./account_own.js";
import { people } from "./account_people.js";
import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { request } from "./page.js";

/** Open it; `told` is what the server says of who asks. */
export async function openAccounts(told) {
  if (!told.accounts) { firstAccount(); return; }
  const areas = [["account", "Your account", () => ownAccount()]];
  if (!told.not_admin) areas.push(["people", "People", () => people()], ["audit", "Audit log", () => auditLog()]);
  const body = h("div", { class: "accounts-body", role: "tabpanel", tabindex: "-1" });
  const tabs = areas.map(([name, text, draw]) => h("button", { type: "button", role: "tab", id: `accounts-${name}`, class: "accounts-tab", text, on: { click: () => choose(name, draw) } }));
  const choose = (name, draw) => {
    for (const tab of tabs) {
      const chosen = tab.id === `accounts-${name}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    body.setAttribute("aria-labelledby", `accounts-${name}`);
    body.replaceChildren(draw());
  };
  const list = h("div", { class: "accounts-tabs", role: "tablist", "aria-label": "Accounts", hidden: tabs.length === 1 }, ...tabs);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
  openDialog(areas.length === 1 ? "Your account" : "Accounts", [list, body], { class: "sheet accounts" });
  choose(areas[0][0], areas[0][2]);
}

function firstAccount() {
  const name = typed("Name", { autocomplete: "username", required: true, maxlength: "64" });
  const password = typed("Password", { type: "password", autocomplete: "new-password", required: true, minlength: "8" }, "At least 8 characters.");
  const again = typed("Password again", { type: "password", autocomplete: "new-password", required: true });
  const wrong = problem();
  const form = h("form", { class: "account-form" }, name.element, password.element, again.element, wrong.element,
    h("div", { class: "sheet-buttons" }, h("button", { type: "submit", class: "small-button primary", text: "Create the first account" })));
  submitting(form, wrong, async () => {
    if (password.value !== again.value) throw new Error("The two passwords are not the same; type them again.");
    await request("POST", "ui/users", { name: name.value, password: password.value });
    location.reload();
  });
  openDialog("Accounts", [
    note("This server is open to everybody who reaches it. Create the first account, and from then on everybody must log in, and programs need a key."),
    note("The first account is an administrator's. The conversations, notebooks and settings that are here now become its own; you can then add other people."),
    form,
  ], { class: "sheet accounts" });
  name.control.focus();
}
