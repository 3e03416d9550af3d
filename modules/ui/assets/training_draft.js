// The run that a person is preparing. It is kept in this browser with every change, so that a reload or a wrong value loses nothing.

import { emit } from "./page.js";

const KEY = "paddock.training";
const EMPTY = { dataset: null, held_out: null, base: "", name: "", template: "", continue_from: "", prompts: "", notes: "", shown: null, check: null };

export const draft = { ...EMPTY, ...kept() };

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return found !== null && typeof found === "object" ? found : {};
  } catch { return {}; }
}

/** Change some of it. `by` is who did: others draw themselves anew. */
export function change(values, by = null) {
  Object.assign(draft, values);
  localStorage.setItem(KEY, JSON.stringify(draft));
  emit("training-draft", { by, names: Object.keys(values) });
}

/** Put the settings of a run or a recipe in; `options` go to the form. `what` names the parts that are taken; what is not told stays. */
export function takeOver(run, what = Object.keys(EMPTY)) {
  const found = { ...run, prompts: run.prompts?.join("\n") };
  change(Object.fromEntries(Object.entries(found).filter(([name, value]) => name in EMPTY && what.includes(name) && value !== undefined)));
  emit("training-options", run.options ?? {});
}

/** The run as the server takes it. */
export function asRun(options) {
  const { name, base, dataset, held_out, template, continue_from, prompts, notes } = draft;
  return { name: name.trim(), base, dataset: dataset ?? { name: "", format: "", columns: {} }, held_out, template, continue_from, options, prompts: lines(prompts), notes };
}

function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** What is missing before anything can be asked of the server, as a sentence and the field it is about; null if nothing is. */
export function missing() {
  if (!draft.dataset?.name) return { field: "dataset", message: "Choose the data to learn from first: upload a file, pick one of the list, or make one of your conversations." };
  if (!draft.dataset.format) return { field: "dataset", message: "Tell how the data is to be read: choose a format and the columns that it needs." };
  if (!draft.base) return { field: "base", message: "Choose the base model that is to learn." };
  if (!draft.name.trim()) return { field: "name", message: "Give the adapter a name: it will be a folder of that name." };
  if (lines(draft.prompts).length > 10) return { field: "prompts", message: `There are ${lines(draft.prompts).length} prompts of your own; the limit is 10. Remove some.` };
  return null;
}
