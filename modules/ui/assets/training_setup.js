// The upper half of the training page: data, then model and adapter. The options below are stock components, the rest is `training_runs.js`.

import { h } from "./dom.js";
import { listen, state } from "./page.js";
import { TrainingData } from "./training_data.js";
import { TrainingModel } from "./training_model.js";

export function mount(element) {
  const data = new TrainingData();
  const model = new TrainingModel();
  const refresh = () => { data.refresh(); model.refresh(); };
  element.replaceChildren(
    h("header", { class: "page-head" }, h("div", {}, h("h1", { text: "Training" }), h("p", { class: "lead", text: "From a file of examples to an adapter that proved itself." }))),
    model.tutorial, data.element, model.element);
  element.removeAttribute("aria-busy");
  listen("area", (area) => { if (area === "training") refresh(); });
  if (state.area === "training") refresh();
}
