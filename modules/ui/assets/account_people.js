// Everybody's accounts, for administrators: add, role, daily limit, a new password, disable, delete; and what each had computed today.

import { button, chosen, copyable, moment, note, problem, submitting, typed } from "./account_forms.js";
import { askInPlace, copyText, h, number } from "./dom.js";
import { report, request, toast } from "./page.js";

const ROLES = [["chat", "Chat: own conversations and notebooks"], ["manage", "Manage: also models, downloads, training"], ["admin", "Administrator: also people and the server"]];
const LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";

export function people() {
  const list = h("ul", { class: "account-rows people-rows", "aria-label": "People" }), told = h("div", { role: "status" });
  const draw = async () => {
    try {
      const [{ users }, { rows }] = await Promise.all([request("GET", "ui/users"), request("GET", "ui/usage?days=1&everybody=true")]);
      const used = new Map();
      for (const row of rows) used.set(row.person, (used.get(row.person) ?? 0) + row.counted_tokens);
      list.replaceChildren(...users.map((user) => personRow(user, used.get(user.id) ?? 0, told, draw)));
    } catch (error) { report(error); }
  };
  draw();
  return h("div", {}, told, list, h("section", { class: "account-part", "aria-label": "Add somebody" }, h("h3", { text: "Add somebody" }), addForm(told, draw)));
}

/** Change something of an account and draw all anew; a refusal is said and shows what holds. */
async function change(work, draw, done = "") {
  try { await work(); if (done) toast(done); } catch (error) { report(error); }
  await draw();
}

function personRow(user, used, told, draw) {
  const path = `ui/users/${user.id}`;
  const role = h("select", { "aria-label": `Role of ${user.name}`, on: { change: () => change(() => request("PATCH", path, { role: role.value }), draw, `${user.name} has the role “${role.value}” now.`) } },
    ...ROLES.map(([value]) => h("option", { value, text: value, selected: value === user.role })));
  const able = user.disabled ? "Enable" : "Disable";
  const tools = h("span", { class: "account-tools" },
    button("New password", () => givePassword(user, told), "", { "aria-label": `New password for ${user.name}` }),
    button("Log out", () => change(() => request("DELETE", `${path}/sessions`), draw, `${user.name} is logged out everywhere.`), "", { "aria-label": `Log ${user.name} out everywhere` }),
    button(able, () => setDisabled(user, !user.disabled, draw), "", { "aria-label": `${able} ${user.name}` }),
    button("Delete", () => remove(user, tools, draw), "", { "aria-label": `Delete ${user.name}` }));
  return h("li", { class: user.disabled ? "over" : "" },
    h("span", { class: "account-what" }, h("strong", { text: user.name }), user.disabled && h("span", { class: "badge", text: "disabled" }), h("small", { text: `since ${moment(user.created_s)} · ${number(used)} tokens today` })),
    role, quota(user, draw), tools);
}

function quota(user, draw) {
  const input = h("input", {
    type: "number", min: "0", step: "1000", class: "account-quota", placeholder: "as set for all", value: user.daily_tokens ?? "", "aria-label": `Tokens a day of ${user.name}; 0 is no limit, empty as set for all`,
    title: "Tokens a day; 0 is no limit, empty as the server's settings say", on: {
      change: () => change(() => request("PUT", `ui/users/${user.id}/quota`, { daily_tokens: input.value === "" ? null : Math.round(Number(input.value)) }), draw, `The daily limit of ${user.name} is changed.`),
    },
  });
  return h("label", { class: "account-limit" }, input, h("span", { text: "tokens a day", "aria-hidden": "true" }));
}

async function setDisabled(user, disabled, draw) {
  const set = (value) => change(() => request("PATCH", `ui/users/${user.id}`, { disabled: value }), draw);
  await set(disabled);
  if (disabled) toast(`${user.name} is logged out and cannot log in.`, "info", { text: "Undo", run: () => set(false) });
}

async function remove(user, tools, draw) {
  const question = `Delete ${user.name}? Keys and sessions end at once; conversations are gone for good in thirty days. To keep a way back, disable the account instead.`;
  if (!await askInPlace(tools, question, "Delete")) return;
  await change(() => request("DELETE", `ui/users/${user.id}`), draw, `The account ${user.name} is deleted.`);
}

/** A password nobody has to think of, shown once to be passed on. */
async function givePassword(user, told) {
  const password = drawn();
  try { await request("POST", `ui/users/${user.id}/password`, { new: password }); } catch (error) { report(error); return; }
  showOnce(told, `${user.name} is logged out everywhere and has this new password. Pass it on; it is shown this once.`, user.name, password);
}

function showOnce(told, sentence, name, password) {
  told.replaceChildren(h("div", { class: "account-once" }, h("p", { text: sentence }), copyable(`Password of ${name}`, password, copyText)));
  told.scrollIntoView({ block: "nearest" });
}

function addForm(told, draw) {
  const name = typed("Name", { required: true, maxlength: "64", autocomplete: "off" });
  const password = typed("Password", { type: "password", autocomplete: "new-password", minlength: "8" }, "At least 8 characters; left empty, one is drawn and shown once.");
  const role = chosen("Role", ROLES, "chat");
  const wrong = problem();
  const form = h("form", { class: "account-form" }, name.element, password.element, role.element, wrong.element, h("div", {}, h("button", { type: "submit", class: "small-button primary", text: "Add" })), note("They log in on this page with that name and change the password under “Your account”."));
  submitting(form, wrong, async () => {
    const given = password.value || drawn();
    const { name: kept } = await request("POST", "ui/users", { name: name.value, password: given, role: role.value });
    if (password.value) toast(`${kept} can log in now.`);
    else showOnce(told, `${kept} can log in with this password. Pass it on; it is shown this once.`, kept, given);
    form.reset();
    await draw();
  });
  return form;
}

function drawn() {
  return [...crypto.getRandomValues(new Uint32Array(14))].map((value) => LETTERS[value % LETTERS.length]).join("");
}
