// One's own account: usage, password, browsers that are logged in, keys for programs.

import { browserName, button, chosen, copyable, moment, note, problem, submitting, typed } from "./account_forms.js";
import { ownUsage } from "./account_usage.js";
import { askInPlace, copyText, h } from "./dom.js";
import { report, request, toast } from "./page.js";

const SCOPES = Object.freeze({
  chat: "Write: chat, completions, vectors, tokens", models: "Load and unload models", jobs: "Downloads, training and other jobs", admin: "Everything that your account may",
});
const LIFE = [["30", "In 30 days"], ["90", "In 90 days"], ["365", "In a year"], ["", "Never"]];

export function ownAccount() {
  const element = h("div", { class: "account-own", "aria-busy": "true" });
  const usage = ownUsage(), secret = h("div", { role: "status" });
  const draw = async () => {
    try {
      const account = await request("GET", "ui/account");
      element.replaceChildren(h("p", { text: `${account.name}, role “${account.role}”, since ${moment(account.created_s)}.` }), usage, keys(account, secret, draw), sessions(account, draw), password());
    } catch (error) { element.replaceChildren(h("p", { class: "account-problem", role: "alert", text: error.message })); }
    element.removeAttribute("aria-busy");
  };
  draw();
  return element;
}

function part(title, ...children) {
  return h("section", { class: "account-part", "aria-label": title }, h("h3", { text: title }), ...children);
}

function password() {
  const old = typed("Present password", { type: "password", autocomplete: "current-password", required: true });
  const fresh = typed("New password", { type: "password", autocomplete: "new-password", required: true, minlength: "8" }, "At least 8 characters. All other browsers are then logged out.");
  const again = typed("New password again", { type: "password", autocomplete: "new-password", required: true });
  const wrong = problem();
  const form = h("form", { class: "account-form" }, old.element, fresh.element, again.element, wrong.element, h("div", {}, h("button", { type: "submit", class: "small-button", text: "Change the password" })));
  submitting(form, wrong, async () => {
    if (fresh.value !== again.value) throw new Error("The two new passwords are not the same; type them again.");
    await request("POST", "ui/account/password", { old: old.value, new: fresh.value });
    form.reset();
    toast("The password is changed. Other browsers are logged out.");
  });
  return part("Password", h("details", {}, h("summary", { text: "Change it" }), form));
}

function sessions({ sessions: rows }, draw) {
  const end = async (path, method) => { try { await request(method, path); await draw(); } catch (error) { report(error); } };
  const list = h("ul", { class: "account-rows" }, ...rows.map((row) => {
    const name = browserName(row.agent);
    return h("li", {},
      h("span", { class: "account-what" }, h("strong", { text: name }), row.current && h("span", { class: "badge", text: "this browser" }), h("small", { text: `since ${moment(row.created_s)} · seen ${moment(row.seen_s)}` })),
      row.current ? null : button("Log out", () => end(`ui/account/sessions/${row.id}`, "DELETE"), "", { "aria-label": `Log out ${name}` }));
  }));
  return part("Where you are logged in", list, rows.length > 1 ? button("Log out all others", () => end("ui/account/sessions/end-others", "POST")) : null);
}

// ---- keys

function keys({ keys: rows, scopes }, secret, draw) {
  return part("Keys for programs", note("A program sends its key as “Authorization: Bearer …”. It may what you tick, and never more than you."), secret,
    rows.length ? h("ul", { class: "account-rows" }, ...rows.map((row) => keyRow(row, draw))) : null,
    h("details", {}, h("summary", { text: "New key" }), keyForm(scopes, secret, draw)));
}

function keyRow(row, draw) {
  const over = row.revoked_s ? `revoked ${moment(row.revoked_s)}` : row.expires_s && row.expires_s * 1000 < Date.now() ? `expired ${moment(row.expires_s)}` : "";
  const facts = over || `used ${moment(row.used_s)} · ${row.expires_s ? `expires ${moment(row.expires_s)}` : "does not expire"}`;
  const end = button(over ? "Remove" : "Revoke", async () => {
    if (!over && !await askInPlace(end, "Programs with this key stop working at once.", "Revoke")) return;
    try { await request("DELETE", `ui/account/keys/${row.id}`); await draw(); } catch (error) { report(error); }
  }, "", { "aria-label": `${over ? "Remove" : "Revoke"} the key ${row.name}` });
  return h("li", { class: over ? "over" : "" }, h("span", { class: "account-what" }, h("strong", { text: row.name }), h("span", { class: "badge", text: row.scopes.join(", ") }), h("small", { text: facts })), end);
}

function keyForm(scopes, secret, draw) {
  const name = typed("What it is for", { required: true, maxlength: "64", autocomplete: "off" });
  const life = chosen("Expires", LIFE, "90");
  const boxes = scopes.map((scope) => h("input", { type: "checkbox", value: scope, checked: scope === "chat" }));
  const wrong = problem();
  const form = h("form", { class: "account-form" }, name.element,
    h("fieldset", { class: "account-scopes" }, h("legend", { text: "It may" }), ...boxes.map((box) => h("label", {}, box, h("span", { text: SCOPES[box.value] ?? box.value })))),
    life.element, wrong.element, h("div", {}, h("button", { type: "submit", class: "small-button primary", text: "Make the key" })));
  submitting(form, wrong, async () => {
    const ticked = boxes.filter((box) => box.checked).map((box) => box.value);
    const { key } = await request("POST", "ui/account/keys", { name: name.value, scopes: ticked, days: life.value ? Number(life.value) : null });
    secret.replaceChildren(h("div", { class: "account-once" }, h("p", { text: "The key is shown this once. Copy it now; the server keeps only what it is checked with." }), copyable(`Key ${name.value}`, key, copyText)));
    await draw();
    secret.scrollIntoView({ block: "nearest" });
  });
  return form;
}
