// The models of the folder: what is known of them, load and unload, progress, memory.

import { h, icon, number, plural } from "./dom.js";
import { size } from "./job_list.js";
import { focused, isBusy, openForm, refocus } from "./list_rows.js";
import { ModelAdapters } from "./model_adapters.js";
import { modelFigures } from "./model_figures.js";
import { ModelFolders } from "./model_folders.js";
import { Library, codeBadge, shelfFacts, shelfNotes, sourceBadge, verifications } from "./model_library.js";
import { ModelFits, fitNote } from "./model_fit.js";
import { modelMenu, updateNews } from "./model_menu.js";
import { listen, refreshModels, state } from "./page.js";
import { remoteRow } from "./remote_row.js";
import { templateBadge } from "./template_badge.js";

const REMOTE_SHOWN = 20; // models of other servers that are listed without a filter

class ModelList {
  constructor(element, trigger) {
    this.trigger = trigger;
    this.search = h("input", { type: "search", placeholder: "Filter models", "aria-label": "Filter models" });
    this.search.addEventListener("input", () => this.drawRows());
    this.memory = h("div", { class: "memory" });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.progress = h("div", { class: "loading-card", role: "status", hidden: true });
    this.rows = h("div", { class: "model-rows" });
    this.adapters = new ModelAdapters();
    this.library = new Library("ui/library", "Bin", () => this.drawRows());
    this.fits = new ModelFits(() => this.drawRows());
    const refresh = h("button", { type: "button", class: "small-button", on: { click: () => { refreshModels(); this.library.refresh(); this.adapters.library.refresh(); } } }, icon("retry"), h("span", { text: "Refresh" }));
    element.replaceChildren(
      h("header", { class: "page-head" }, h("div", {}, h("h1", { text: "Models" }), h("p", { class: "lead", text: "GGUF files and safetensors folders in models/." })), this.memory),
      this.problem, this.progress,
      h("div", { class: "list-head" }, h("label", { class: "search" }, icon("search"), this.search), refresh), verifications(this.library, this.adapters.library).element, this.rows, this.fits.element, new ModelFolders().element, this.library.bin, this.adapters.element, this.adapters.library.bin);
    element.removeAttribute("aria-busy");
    listen("model", () => this.draw());
    listen("area", (area) => { if (area === "models") refreshModels(); });
    this.draw();
    refreshModels();
  }

  draw() {
    if (!state.models) return;
    this.drawMemory();
    this.drawLoading();
    this.drawRows();
  }

  drawMemory() {
    const { memory, loaded } = state.models;
    const used = memory.total_bytes - memory.available_bytes;
    const models = loaded.reduce((sum, card) => sum + (card.memory_bytes || 0), 0);
    const meter = h("meter", { min: "0", max: "1", high: "0.85", value: String(used / memory.total_bytes), "aria-label": "Memory in use" });
    this.memory.replaceChildren(meter, h("span", { text: `${size(memory.available_bytes)} free of ${size(memory.total_bytes)}${models ? ` · models take ${size(models)}` : ""}` }));
  }

  drawLoading() {
    const { loading, error } = state.models;
    this.progress.hidden = !loading;
    if (loading) {
      const bar = h("progress", loading.done === null ? { max: "1" } : { max: "1", value: String(loading.done) });
      this.progress.replaceChildren(h("strong", { text: `Loading ${loading.name}` }), bar, h("span", { text: loading.stage }));
    }
    this.problem.hidden = !error || Boolean(loading);
    if (error) this.problem.replaceChildren(h("span", { text: error }));
  }

  drawRows() {
    if (!state.models) return;
    const wanted = this.search.value.trim().toLowerCase();
    const isListed = (model, index, all) => !model.host || wanted || this.isLoaded(model) || all.filter((other) => other.host).indexOf(model) < REMOTE_SHOWN;
    const rows = state.models.models.filter((model) => model.name.toLowerCase().includes(wanted)).filter(isListed);
    const signature = JSON.stringify([rows, state.models.loading?.name, state.models.loaded, state.models.asleep, rows.map((model) => [this.library.seen(model.name), this.fits.of(model.name)])]);
    if (signature === this.drawn) return; // the poll must not take the focus from a button
    if (isBusy(this.rows)) return; // nor what somebody is typing
    this.drawn = signature;
    const none = state.models.models.length ? "No model has that in its name." : "There is no model yet. Get one below, or put a GGUF file or a safetensors folder into models/ and refresh.";
    const held = focused(this.rows);
    this.rows.replaceChildren(...(rows.length ? rows.map((model) => this.row(model)) : [h("p", { class: "side-note", text: none })]));
    refocus(this.rows, held);
  }

  isLoaded(model) {
    return state.models.loaded.some((card) => card.name === model.name);
  }

  row(model) {
    const card = state.models.loaded.find((loaded) => loaded.name === model.name);
    const asleep = state.models.asleep.includes(model.name);
    const busy = Boolean(state.models.loading);
    const shelf = this.library.of(model.name);
    const said = this.library.said.get(model.name);
    const facts = [
      model.architecture, model.parameters ? `${short(model.parameters)} parameters` : "", model.quantization,
      model.context_length ? `${number(model.context_length)} context` : "", size(model.size_bytes), model.template || model.problem ? "" : "no chat template",
      (card ? card.vision : model.sees) ? "sees images" : "", ...shelfFacts(shelf),
    ].filter(Boolean);
    const act = (event) => () => { this.trigger(`${event}_model`, { name: model.name }); setTimeout(refreshModels, 250); };
    const tools = h("div", { class: "model-tools" });
    const isNext = card && state.models.loaded[0] !== card;
    if (isNext) tools.append(h("button", { type: "button", class: "small-button primary", text: "Use", title: "It answers from now on", disabled: busy, on: { click: act("load") } }));
    if (!model.problem && !model.host) tools.append(h("button", { type: "button", class: "small-button", text: "Options", on: { click: () => this.pick(model.name) } }));
    if (card) tools.append(h("button", { type: "button", class: "small-button", text: "Unload", disabled: busy, on: { click: act("unload") } }));
    else if (!model.problem) tools.append(h("button", { type: "button", class: "small-button primary", text: "Load", disabled: busy, on: { click: act("load") } }));
    if (asleep) tools.append(h("button", { type: "button", class: "small-button", text: "Forget", title: "It does not load again by itself", disabled: busy, on: { click: act("unload") } }));
    if (model.host) return remoteRow(model, card, tools);
    tools.append(modelMenu(model.name, this.library, (form) => openForm(this.rows, model.name, this.library, form)));
    const badge = card ? h("span", { class: "badge", text: "Loaded" }) : model.problem ? h("span", { class: "badge bad", text: "Cannot be loaded" }) : asleep ? h("span", { class: "badge", text: "Asleep" }) : null;
    const pin = model.pinned ? h("span", { class: "badge", text: "Pinned", title: "Neither idleness nor another model unloads it" }) : null;
    return h("article", { class: `model-row${card ? " loaded" : ""}`, data: { name: model.name } },
      h("div", { class: "model-about" },
        h("h2", {}, h("span", { text: model.name }), badge ?? "", pin ?? "", sourceBadge(model) ?? "", codeBadge(model) ?? "", templateBadge(model.name, card ? card.template_check : shelf?.template) ?? ""),
        h("ul", { class: "facts" }, ...facts.map((fact) => h("li", { text: fact }))),
        model.description ? h("p", { class: "model-note", text: model.description }) : null,
        model.problem ? h("p", { class: "model-note bad", text: model.problem }) : null,
        asleep ? h("p", { class: "model-note", text: "Asleep: loads again when used." }) : null,
        ...shelfNotes(shelf), updateNews(model.name, this.library),
        said ? h("p", { class: "model-note bad", role: "alert", text: said }) : null,
        card ? this.cardLine(card) : null, card ? modelFigures(card.name) : null, fitNote(this.fits.of(model.name))),
      tools);
  }

  cardLine(card) {
    const parts = [
      `${card.loader}`, `context ${number(card.context_length)}`, plural(card.slots, "slot"), `${size(card.memory_bytes)} memory`, `loaded in ${card.load_s.toFixed(1)} s`,
      card.adapters.length ? plural(card.adapters.length, "adapter") : "",
    ].filter(Boolean);
    return h("div", { class: "model-card" }, h("span", { text: parts.join(" · ") }), ...card.notes.map((note) => h("span", { class: "model-note", text: note })));
  }

  pick(name) {
    this.trigger("pick", { name });
    setTimeout(() => document.querySelector("#load-options")?.scrollIntoView({ behavior: "smooth", block: "start" }), 350);
  }
}

function short(count) {
  return count < 1e9 ? `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} M` : `${(count / 1e9).toFixed(1)} B`;
}

export function mount(element, { trigger }) {
  return new ModelList(element, trigger);
}
