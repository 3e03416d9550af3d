// What the forms about accounts are made of.

import { h } from "./dom.js";

let made = 0;

/** A field with its label above and a hint below. */
export function typed(label, attributes, hint = "") {
  const id = `account-field-${made += 1}`;
  const control = h("input", { id, type: "text", spellcheck: "false", "aria-describedby": hint ? `${id}-hint` : null, ...attributes });
  return around(label, control, id, hint);
}

/** The same with choices, rows of [value, words]. */
export function chosen(label, rows, value, hint = "") {
  const id = `account-field-${made += 1}`;
  const control = h("select", { id, "aria-describedby": hint ? `${id}-hint` : null }, ...rows.map(([row, text]) => h("option", { value: row, text, selected: row === value })));
  return around(label, control, id, hint);
}

function around(label, control, id, hint) {
  const element = h("div", { class: "account-field" }, h("label", { for: id, text: label }), control, hint && h("span", { class: "account-note", id: `${id}-hint`, text: hint }));
  return { element, control, get value() { return control.value; }, set value(text) { control.value = text; } };
}

/** A sentence about what went wrong. */
export function problem() {
  const element = h("p", { class: "account-problem", role: "alert", hidden: true });
  return { element, say: (sentence) => { element.hidden = !sentence; element.textContent = sentence; } };
}

/** A sentence that explains. */
export function note(text) {
  return h("p", { class: "account-note", text });
}

export function button(text, run, kind = "", more = {}) {
  return h("button", { type: "button", class: `small-button ${kind}`.trim(), text, ...more, on: { click: run } });
}

/** Run `act` when a form is sent; what goes wrong is said and nothing typed is lost. */
export function submitting(form, wrong, act) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const send = form.querySelector('[type="submit"]');
    wrong.say("");
    send.disabled = true;
    try { await act(); } catch (error) { wrong.say(error.message); }
    send.disabled = false;
  });
}

/** A moment in words, in this place's time. */
export function moment(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "never";
}

/** A browser by what it says of itself: "Chrome on Linux". */
export function browserName(agent) {
  const name = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]].find(([mark]) => agent.includes(mark))?.[1];
  const system = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["Linux", "Linux"]].find(([mark]) => agent.includes(mark))?.[1];
  return name ? `${name}${system ? ` on ${system}` : ""}` : agent.slice(0, 60) || "Unknown browser";
}

/** Text that is to be copied: shown, chosen, with a button for it. */
export function copyable(label, text, copy) {
  const shown = h("input", { type: "text", readonly: true, "aria-label": label, value: text, class: "account-secret", on: { focus: () => shown.select() } });
  const press = button("Copy", async () => { await copy(text); press.textContent = "Copied"; }, "primary");
  return h("div", { class: "account-copy" }, shown, press);
}
