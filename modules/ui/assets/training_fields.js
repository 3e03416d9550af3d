// The parts that the forms of the training page are made of.

import { h } from "./dom.js";

/** A control with its name above and a sentence below; `mark(sentence)` shows what is wrong with it, or clears that. */
export function field(name, label, control, hint = "") {
  const id = `training-${name}`;
  control.id = id;
  const problem = h("p", { class: "model-note bad", id: `${id}-problem`, role: "alert", hidden: true });
  const note = h("p", { class: "model-note", id: `${id}-hint`, text: hint, hidden: !hint });
  control.setAttribute("aria-describedby", `${id}-hint ${id}-problem`);
  const element = h("div", { class: "train-field", data: { field: name } }, h("label", { for: id, text: label }), control, note, problem);
  const mark = (sentence) => {
    problem.hidden = !sentence;
    problem.textContent = sentence;
    control.setAttribute("aria-invalid", String(Boolean(sentence)));
    if (sentence) control.focus();
  };
  return { element, control, note, mark };
}

/** Fill a select with [value, text, disabled?, group?] rows and choose one; a value that is not among them is kept as a row of its own. */
export function fill(select, rows, value) {
  const known = rows.some(([name]) => name === value) || !value;
  const all = known ? rows : [...rows, [value, `${value} (not here)`]];
  const signature = JSON.stringify(all);
  if (select.dataset.rows !== signature) {
    const groups = new Map([["", select]]);
    select.replaceChildren();
    for (const [name, text, disabled, group = ""] of all) {
      if (!groups.has(group)) groups.set(group, select.appendChild(h("optgroup", { label: group })));
      groups.get(group).append(h("option", { value: name, text, disabled }));
    }
  }
  select.dataset.rows = signature;
  select.value = value ?? "";
}

/** A section of the page: its number and title, what it is for, its body. */
export function step(number, title, about, ...body) {
  const id = `training-step-${number}`;
  return h("section", { class: "train-step", "aria-labelledby": id }, h("h2", { id, text: `${number} · ${title}` }), about ? h("p", { class: "model-note", text: about }) : null, ...body);
}

/** A box for errors that are sentences: `say(sentence)`, `say("")`. */
export function problemBox() {
  const element = h("div", { class: "problem", role: "alert", hidden: true });
  return { element, say: (sentence) => { element.hidden = !sentence; element.textContent = sentence; } };
}

export function button(text, onClick, more = {}) {
  const { kind = "", ...attributes } = more;
  return h("button", { type: "button", class: `small-button ${kind}`.trim(), text, ...attributes, on: { click: onClick } });
}

/** Calls `action` a moment after the last of several calls. */
export function later(action, wait = 250) {
  let timer = 0;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => action(...values), wait); };
}

/** A box that is ticked, with its words. */
export function tick(label, checked, onChange, more = {}) {
  const input = h("input", { type: "checkbox", ...more, on: { change: () => onChange(input.checked) } });
  input.checked = checked;
  return h("label", { class: "train-tick" }, input, h("span", {}, label));
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

/** A loss or another number with as many places as tell something. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en-US") : Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3)).toString();
}
