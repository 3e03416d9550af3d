// Between the settings drawer (stock components) and the views. It is told whose settings are open and hands edits to their owner.

import { h } from "./dom.js";
import { emit, listen, loadedModel, state, toggleDrawer } from "./page.js";

const ECHO_MS = 3000;
let acting = []; // the samplers that take part with the values shown

export function actingSamplers() {
  return acting;
}

/** The same value with the keys of its objects in order, so that equal settings compare equal. */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

export function mount(element, { props, watch, trigger }) {
  const known = new Map(); // scope → {key, settings} as last shown by a view or edited here
  let shown = "";
  let model = "";
  let asked = 0; // how often the form was asked to show something
  let answered = 0;
  let edited = { key: "", at: 0 };

  const scope = () => (state.area === "notebook" ? "notebook" : "chat");
  const identity = ({ key, settings: { adapters, ...shownHere } }) => JSON.stringify([key, sorted(shownHere)]); // adapters have a view of their own

  function show() {
    const current = known.get(scope());
    if (!current || !document.body.classList.contains("drawer-open")) return;
    const wanted = identity(current);
    if (wanted === shown) return;
    shown = wanted;
    trigger("show", { key: current.key, settings: current.settings, asked: (asked += 1) });
  }

  listen("settings", ({ scope: name, key, settings }) => {
    // The echo of an edit may be older than what is typed now
    if (edited.key === key && Date.now() - edited.at < ECHO_MS) return;
    known.set(name, { key, settings });
    show();
  });
  listen("settings-edited", ({ scope: name, key, settings }) => { // by another view: shown at once; by this one: nothing new
    const current = known.get(name);
    if (current?.key !== key) return;
    known.set(name, { key, settings: { ...current.settings, ...settings } });
    show();
  });
  listen("drawer-opened", show);
  listen("area", show);
  listen("model", () => {
    const present = JSON.stringify([loadedModel(), state.models?.loaded?.[0]?.template]);
    if (present === model) return;
    model = present; // what is said of presets and offered of its template is about the model
    shown = "";
    show();
  });
  watch("value", () => {
    if (!props.value) return;
    const { key, settings, acting: names, asked: answer = 0 } = JSON.parse(props.value);
    if (answer && answer < answered) { shown = ""; show(); return; } // an older answer came later and stands in the form now
    answered = Math.max(answered, answer);
    acting = names;
    emit("samplers-acting");
    if (!settings) return;
    const name = key === "notebook" ? "notebook" : "chat";
    if (known.get(name)?.key === key) known.set(name, { key, settings });
    shown = identity({ key, settings });
    edited = { key, at: Date.now() };
    emit("settings-edited", { scope: name, key, settings });
  });
  element.replaceChildren(h("h2", { text: "Settings" }), h("button", { type: "button", class: "drawer-close", text: "Done", on: { click: () => toggleDrawer(false) } }));
  element.removeAttribute("aria-busy");
}
