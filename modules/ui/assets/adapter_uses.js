// What can be made of an adapter on the models page: a chat that tries it, a GGUF file, a merged model, a zip archive.

import { h } from "./dom.js";
import { JobList } from "./job_list.js";
import { address, emit, listen, openConversation, refreshModels, request, toast, toggleDrawer } from "./page.js";

const ROOM_FOR_DRAWER = "(min-width: 1100px)"; // beside the chat rather than over it

/** A chat with an adapter on its base model, with its scale at hand. Throws what `request` throws. */
export async function tryAdapter(name, { scale = 1, model = "" } = {}) {
  const { conversation } = await request("POST", "ui/adapters/try", { name, scale, model });
  emit("conversations-changed");
  openConversation(conversation);
  if (matchMedia(ROOM_FOR_DRAWER).matches) toggleDrawer(true);
}

export class AdapterUses {
  /** `open(name, make)` opens a form in the row of an adapter. */
  constructor(library, open) {
    Object.assign(this, { library, open, trying: "" });
    this.jobs = new JobList(["convert_adapter", "merge_adapter"], (job) => this.tellDone(job), "Conversions and merges");
    listen("area", (area) => { if (area === "models") this.jobs.refresh(); });
  }

  tryButton(row) {
    const busy = this.trying === row.name;
    return h("button", {
      type: "button", class: "small-button", text: busy ? "Loading…" : "Try in chat", disabled: Boolean(this.trying), "aria-label": `Try ${row.name} in chat`,
      title: "A new chat with it on its base model, which is loaded if need be", on: { click: () => this.tryOne(row.name) },
    });
  }

  items(row) {
    const peft = row.format === "peft";
    return [
      peft ? ["Convert to GGUF", () => this.convert(row.name)] : null,
      peft ? ["Merge into its base", () => this.open(row.name, (name, library, close) => this.mergeForm(name, close))] : null,
      ["Download", () => this.download(row.name)],
    ].filter(Boolean);
  }

  async tryOne(name, model = "") {
    this.trying = name;
    this.library.say(name, "");
    setTimeout(refreshModels, 250); // shows the loading
    try { await tryAdapter(name, { model }); } catch (error) { this.refused(name, error, (chosen) => this.tryOne(name, chosen)); }
    this.trying = "";
    this.library.onChange();
  }

  async convert(name, model = "") {
    this.library.say(name, "");
    try { this.began(await request("POST", "ui/adapters/files/convert", { name, model })); } catch (error) { this.refused(name, error, (chosen) => this.convert(name, chosen)); }
  }

  download(name) {
    const link = h("a", { href: String(address(`ui/adapters/files/download?name=${encodeURIComponent(name)}`)), download: "" });
    document.body.append(link);
    link.click();
    link.remove();
  }

  began() {
    document.dispatchEvent(new Event("jobs-changed"));
  }

  tellDone(job) {
    const { name } = job.result ?? {};
    toast(job.kind === "merge_adapter" ? `${name} is among the models now.` : `${name} is among the adapters now.`);
    refreshModels();
  }

  /** What went wrong stays in the row; where only the model is in doubt, it can be chosen there. */
  refused(name, error, again) {
    const choices = error.details?.choices;
    if (!choices) { this.library.say(name, error.message); return; }
    this.open(name, (_, library, close) => form(name, close, [modelField(name, choices)], "Go on", error.message, ({ model }) => { close(); again(model); }));
  }

  mergeForm(name, close, choices = null, before = {}, sentence = "") {
    const target = h("input", { type: "text", name: "target", maxlength: "100", autocomplete: "off", spellcheck: "false", placeholder: "named after both", "aria-label": `Name of the model merged from ${name}` });
    const scale = h("input", { type: "number", name: "scale", min: "-4", max: "4", step: "0.05", class: "scale", "aria-label": `Scale at which ${name} is merged` });
    target.value = before.target ?? "";
    scale.value = before.scale ?? "1";
    const fields = [h("label", {}, h("span", { text: "Name of the new model" }), target), h("label", {}, h("span", { text: "Scale" }), scale), ...(choices ? [modelField(name, choices)] : [])];
    return form(name, close, fields, "Merge", sentence, async (values, problem) => {
      const asked = { name, target: values.target.trim(), scale: values.scale === "" ? 1 : Number(values.scale), model: values.model ?? "" };
      try {
        this.began(await request("POST", "ui/adapters/files/merge", asked));
        close();
      } catch (error) {
        if (error.details?.choices) this.open(name, (_, library, again) => this.mergeForm(name, again, error.details.choices, values, error.message));
        else problem(error.message);
      }
    });
  }
}

function modelField(name, choices) {
  return h("label", {}, h("span", { text: "Its base model" }), h("select", { name: "model", "aria-label": `Base model of ${name}` }, ...choices.map((choice) => h("option", { value: choice, text: choice }))));
}

/** A form in a row: `send(values, problem)` gets the fields by name. */
function form(name, close, fields, verb, sentence, send) {
  const problem = h("p", { class: "model-note bad", role: "alert", text: sentence, hidden: !sentence });
  const element = h("form", { class: "model-form" }, ...fields,
    h("button", { type: "submit", class: "small-button primary", text: verb }), h("button", { type: "button", class: "small-button", text: "Cancel", on: { click: () => close() } }), problem);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    send(Object.fromEntries(new FormData(element)), (text) => { problem.textContent = text; problem.hidden = false; });
  });
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); close(); }
  });
  return element;
}
