// Adapters to choose from, each with a box, a scale and whether it fits the model: for a model, a conversation, the notebook.

import { h } from "./dom.js";

const SLIDER = { min: "0", max: "2", step: "0.05" };
const SETTLE_MS = 200; // of a slider that is being dragged

/** The box and the scale of one adapter. `row` comes from ui/adapters, `choice` is {name, scale} or undefined; `changed` is `settled`. */
export class AdapterControl {
  constructor(row, choice, changed) {
    this.name = row.name;
    // What does not fit cannot be chosen; chosen before another model was loaded, it can be taken off
    this.box = h("input", { type: "checkbox", disabled: Boolean(row.problem) && !choice, "aria-label": `Use ${row.name}` });
    this.box.checked = Boolean(choice);
    const scale = String(choice?.scale ?? 1);
    this.number = h("input", { type: "number", min: "-4", max: "4", step: "0.05", value: scale, class: "scale", "aria-label": `Scale of ${row.name}` });
    this.slider = h("input", { type: "range", ...SLIDER, value: scale, disabled: this.box.disabled, "aria-label": `Scale slider of ${row.name}` });
    this.number.disabled = this.box.disabled;
    this.box.addEventListener("change", () => changed(true));
    for (const [from, to] of [[this.slider, this.number], [this.number, this.slider]]) {
      from.addEventListener("input", () => { to.value = from.value; changed(false); });
      from.addEventListener("change", () => changed(true));
    }
    this.scale = h("div", { class: "scale-label" }, this.slider, this.number);
  }

  /** What is chosen here, or null. */
  get choice() {
    const scale = Number(this.number.value);
    return this.box.checked ? { name: this.name, scale: this.number.value === "" || Number.isNaN(scale) ? 1 : Math.min(4, Math.max(-4, scale)) } : null;
  }
}

/** Facts of an adapter in words, and what keeps it from fitting or speaks against it. */
export function adapterWords(row, ...more) {
  const facts = [row.format === "gguf" ? "GGUF" : "PEFT", row.rank ? `rank ${row.rank}` : "", row.targets?.length ? `changes ${row.targets.join(", ")}` : "", row.base_model ? `for ${row.base_model}` : "", ...more];
  return [
    h("span", { class: "model-note", text: facts.filter(Boolean).join(" · ") }),
    row.problem ? h("span", { class: "model-note bad", text: row.problem }) : row.note ? h("span", { class: "model-note", text: row.note }) : null,
  ];
}

/** Calls a function at once, or a moment after the last of several calls, so that a dragged slider asks now and then; `pending` until then. */
export function settled(action) {
  let timer = 0;
  const act = () => { changed.pending = false; action(); };
  const changed = (now) => {
    clearTimeout(timer);
    changed.pending = true;
    if (now) act(); else timer = setTimeout(act, SETTLE_MS);
  };
  return changed;
}

/** "odd-words × 0.5, other", or "". */
export function choicesInWords(choices) {
  return (choices ?? []).map(({ name, scale }) => (scale === 1 ? name : `${name} × ${scale}`)).join(", ");
}
