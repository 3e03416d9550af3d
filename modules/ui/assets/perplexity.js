// How well models foresee a text. The server measures; this looks while somebody looks, so a reload changes nothing.

import { askInPlace, h, iconButton, number } from "./dom.js";
import { emit, listen, refreshModels, report, request, state } from "./page.js";
import { PerplexityTable, places } from "./perplexity_table.js";
import { TextFetch, isAway, isMoving, valueOf } from "./perplexity_text.js";
import { button, duration, field, fill, problemBox, tick } from "./training_fields.js";

const BUSY_MS = 700;
const IDLE_MS = 10000;
const KEPT_KEY = "paddock.perplexity"; // what is chosen, of this tab
const ACTIVE = ["queued", "running"];
const GENERAL = "General text (comes with Paddock)";

class PerplexityView {
  constructor(element) {
    const kept = JSON.parse(sessionStorage.getItem(KEPT_KEY) ?? "{}");
    Object.assign(this, { models: null, adapters: {}, text: "", window: "0", stride: "512", open: false, ...kept, datasets: [], texts: [], timer: 0, drawn: "", busy: false });
    this.modelTicks = h("div", { class: "ppl-ticks" });
    this.adapterTicks = h("div", { class: "ppl-ticks" });
    this.adapterFold = h("details", { class: "ppl-fold", open: Object.keys(this.adapters).length > 0 }, h("summary", { text: "Adapters" }), this.adapterTicks);
    const box = (name, attributes) => h("input", { type: "number", inputmode: "numeric", value: this[name], ...attributes, on: { input: (event) => { this[name] = event.target.value; this.fields[name].mark(""); this.keep(); } } });
    this.fields = {
      text: field("perplexity-text", "Text", h("select", { on: { change: (event) => { this.text = event.target.value; this.fields.text.mark(""); this.keep(); this.showFetch(); } } }), "Best one that no model has learned. More texts: upload them as data, above."),
      window: field("perplexity-window", "Window", box("window", { min: "0", max: "1048576" }), "Tokens a model sees at once; 0 is its own context."),
      stride: field("perplexity-stride", "Stride", box("stride", { min: "1", max: "1048576" }), "Smaller gives every token more context, and takes longer."),
    };
    this.fetch = new TextFetch(() => this.refresh());
    this.measure = button("Measure", () => this.begin(false), { kind: "primary", id: "perplexity-measure" });
    this.problem = problemBox();
    this.known = h("div", { class: "ppl-known", role: "status", hidden: true });
    this.jobs = h("div", { class: "ppl-jobs", role: "region", "aria-label": "Measurements that go on" });
    this.table = new PerplexityTable(() => this.refresh());
    this.details = h("details", { class: "ppl", open: this.open, on: { toggle: () => { this.open = this.details.open; this.keep(); this.refresh(); } } },
      h("summary", {}, h("h2", { text: "Perplexity" }), h("span", { class: "model-note", text: "How well a model foresees a text, measured and kept to compare." })),
      h("div", { class: "ppl-body" }, this.form(), this.problem.element, this.known, this.jobs, this.table.element));
    const style = h("link", { rel: "stylesheet", href: new URL("./perplexity.css", import.meta.url).href, on: { load: () => element.removeAttribute("aria-busy") } });
    element.replaceChildren(style, this.details);
    document.addEventListener("visibilitychange", () => this.refresh());
    listen("area", () => this.refresh());
    listen("model", () => this.drawChoices());
    listen("training-datasets", (rows) => { this.datasets = rows; this.drawChoices(); });
    this.refresh();
  }

  form() {
    const { text, window, stride } = this.fields;
    return h("section", { class: "ppl-form", "aria-label": "What is measured" },
      h("div", { class: "ppl-column" }, h("fieldset", {}, h("legend", { text: "Models" }), this.modelTicks), this.adapterFold),
      h("div", { class: "ppl-column" }, text.element, this.fetch.element, h("div", { class: "ppl-grid" }, window.element, stride.element),
        h("p", { class: "model-note", text: "Lower is better. Perplexity compares models that split a text into the same tokens; bits per byte compares all. Models are loaded one after the other as they were loaded last, beside what is loaded for chat." }),
        h("div", { class: "ppl-buttons" }, this.measure)));
  }

  keep() {
    const { models, adapters, text, window, stride, open } = this;
    sessionStorage.setItem(KEPT_KEY, JSON.stringify({ models, adapters, text, window, stride, open }));
  }

  get isSeen() {
    return !document.hidden && this.open && this.details.checkVisibility();
  }

  async refresh() {
    clearTimeout(this.timer);
    let active = false;
    if (this.isSeen) {
      try {
        if (!this.asked) {
          this.asked = true;
          if (!state.models) await refreshModels();
          this.datasets = (await request("GET", "ui/datasets")).datasets;
          this.drawChoices();
        }
        const { jobs, rows, texts } = await request("GET", "ui/perplexity");
        this.takeTexts(texts);
        this.drawJobs(jobs);
        this.table.show(rows);
        active = jobs.some((job) => ACTIVE.includes(job.status)) || texts.some(isMoving);
      } catch { /* the chat's own banner tells that the server is away */ }
    }
    clearTimeout(this.timer);
    if (this.isSeen) this.timer = setTimeout(() => this.refresh(), active ? BUSY_MS : IDLE_MS);
  }

  // ---- choices

  /** The well-known texts as they stand; one that was chosen and has come is chosen still. */
  takeTexts(texts) {
    const arrived = texts.filter((text) => text.name && this.texts.some((known) => known.id === text.id && !known.name));
    const chosen = texts.find((text) => text.name && this.text === valueOf({ ...text, name: "" }));
    this.texts = texts;
    if (chosen) { this.text = chosen.name; this.keep(); }
    this.drawChoices();
    this.showFetch();
    if (arrived.length) emit("datasets-changed", arrived.map((text) => text.name));
  }

  showFetch() {
    this.fetch.show(this.texts.find((text) => !text.name && valueOf(text) === this.text) ?? null);
  }

  drawChoices() {
    if (!this.asked || !state.models) return;
    const models = state.models.models.filter((row) => row.format !== "remote" && !row.problem);
    const loaded = state.models.loaded.map((card) => card.name);
    if (this.models === null) this.models = models.some((row) => row.name === loaded[0]) ? [loaded[0]] : [];
    const adapters = state.models.adapters.filter((row) => !row.problem);
    const here = this.texts.filter((text) => text.name);
    const own = this.datasets.filter((row) => (!row.problem || row.format) && !here.some((text) => text.name === row.name));
    const texts = [
      ["", GENERAL], ...here.map((text) => [text.name, text.title, false, "Well-known texts"]), ...own.map((row) => [row.name, row.name, false, "Data sets"]),
      ...this.texts.filter((text) => !text.name).map((text) => [valueOf(text), text.title, false, "On the hub, to be fetched"]),
    ];
    const signature = JSON.stringify([models.map((row) => row.name), loaded, adapters.map((row) => row.name), texts]);
    if (signature === this.drawn) return;
    this.drawn = signature;
    this.modelTicks.replaceChildren(...(models.length ? models.map((row) => this.modelTick(row, loaded.includes(row.name))) : [h("p", { class: "model-note", text: "There is no model on this machine yet. Download one on the Models page." })]));
    this.adapterFold.hidden = !adapters.length;
    this.adapterTicks.replaceChildren(...adapters.map((row) => this.adapterTick(row)));
    fill(this.fields.text.control, texts, this.text);
  }

  modelTick(row, isLoaded) {
    const choose = (on) => { this.models = on ? [...this.models, row.name] : this.models.filter((name) => name !== row.name); this.keep(); };
    const words = h("span", {}, row.name, isLoaded ? h("span", { class: "badge", text: "loaded" }) : null);
    return tick(words, this.models.includes(row.name), choose, { value: row.name });
  }

  adapterTick(row) {
    const scale = h("input", { type: "number", min: "-4", max: "4", step: "0.05", value: String(this.adapters[row.name] ?? 1), "aria-label": `Scale of ${row.name}`, hidden: !(row.name in this.adapters) });
    const set = () => { this.adapters[row.name] = scale.value; this.keep(); };
    scale.addEventListener("input", set);
    const choose = (on) => { scale.hidden = !on; if (on) set(); else { delete this.adapters[row.name]; this.keep(); } };
    return h("div", { class: "ppl-adapter" }, tick(row.name, row.name in this.adapters, choose), scale);
  }

  // ---- begin

  wanted(again) {
    const there = state.models?.models.map((row) => row.name) ?? [];
    const adapters = Object.entries(this.adapters).filter(([name]) => state.models?.adapters.some((row) => row.name === name));
    return {
      models: (this.models ?? []).filter((name) => there.includes(name)), adapters: adapters.map(([name, scale]) => ({ name, scale: Number(scale) })),
      text: { name: this.text }, window: Number(this.window || 0), stride: Number(this.stride || 512), again,
    };
  }

  async begin(again) {
    this.problem.say("");
    this.known.hidden = true;
    for (const { mark } of Object.values(this.fields)) mark("");
    const wanted = this.wanted(again);
    if (!wanted.models.length) { this.problem.say("No model is chosen. Choose at least one."); return; }
    if (isAway(this.text)) { this.fields.text.mark("This text is not here yet. Fetch it first, or choose another one."); return; }
    this.measure.disabled = true;
    this.measure.textContent = "Reading the text…";
    try {
      const { jobs, known } = await request("POST", "ui/perplexity", wanted);
      if (known.length) this.showKnown(known, jobs.length);
    } catch (error) {
      const place = this.fields[String(error.details?.field ?? "")];
      if (place) place.mark(error.message); else this.problem.say(error.message);
    }
    this.measure.disabled = false;
    this.measure.textContent = "Measure";
    this.refresh();
  }

  showKnown(known, begun) {
    const which = known.length === 1 ? `${known[0].model} was measured in this way already` : `${known.length} of these were measured in this way already`;
    this.known.replaceChildren(h("span", { text: `${which}: marked in the table.${begun ? " The others are measured now." : ""}` }), button("Run again anyway", () => this.begin(true)));
    this.known.hidden = false;
    this.table.mark(known.map((row) => row.id));
  }

  // ---- jobs

  drawJobs(jobs) {
    const signature = JSON.stringify(jobs);
    if (signature === this.jobsDrawn || this.jobs.querySelector("button:active, .ask")) return; // a pressed button must live until it is let go
    this.jobsDrawn = signature;
    const focused = document.activeElement?.dataset?.act;
    this.jobs.replaceChildren(...[...jobs].reverse().map((job) => this.card(job)));
    if (focused) this.jobs.querySelector(`[data-act="${focused}"]`)?.focus();
  }

  card(job) {
    const share = job.total ? Math.min(1, job.done / job.total) : null;
    const isActive = ACTIVE.includes(job.status);
    const bar = job.status === "running" || (job.status === "interrupted" && share) ? h("progress", { max: "1", ...(share === null ? {} : { value: String(share) }), "aria-label": `Progress of ${job.model}` }) : null;
    return h("article", { class: `ppl-job ${job.status}`, data: { model: job.model } },
      h("header", {}, h("strong", { text: [job.model, ...job.adapters.map((adapter) => `${adapter.name} × ${adapter.scale}`)].join(" + ") }), h("span", { class: "model-note", text: `on ${job.text_name}` }), h("span", { class: "grow" }), ...this.verbs(job, isActive)),
      bar, h("p", { class: "job-facts", text: facts(job, share) }),
      job.error || job.warning ? h("p", { class: "model-note bad", text: job.error || job.warning }) : null);
  }

  verbs(job, isActive) {
    const make = (verb, text) => button(text, () => this.act("POST", `${job.id}/${verb}`), { disabled: job.stopping, "data-act": `${verb}-${job.id}`, "aria-label": `${text} ${job.model}` });
    if (isActive) return [make("cancel", "Cancel")];
    const remove = iconButton("trash", `Remove the measurement of ${job.model}`, () => this.remove(job, remove), { "data-act": `remove-${job.id}` });
    return [make("resume", job.status === "failed" ? "Try again" : "Resume"), remove];
  }

  async remove(job, control) {
    if (job.status !== "interrupted" || (await askInPlace(control, "Remove what was measured so far?", "Remove"))) await this.act("DELETE", job.id);
  }

  async act(method, path) {
    try { await request(method, `ui/perplexity/jobs/${path}`); } catch (error) { report(error); }
    this.refresh();
  }
}

function facts(job, share) {
  const words = { queued: job.place ? `Waiting, place ${job.place}` : "Waiting", failed: "Failed", cancelled: "Cancelled", interrupted: job.paused ? "Paused" : "Interrupted" };
  const parts = [job.stopping ? "Stopping" : words[job.status] ?? ""];
  const { perplexity, stage } = job.metrics ?? {};
  if (job.status === "running" && !job.total) parts.push(stage ?? "Starting");
  if (job.total) parts.push(`${number(job.done)} of ${number(job.total)} tokens (${Math.floor(share * 100)} %)`);
  if (job.total && perplexity) parts.push(`perplexity so far ${places(perplexity)}`);
  if (job.status === "running" && job.eta_s) parts.push(`about ${duration(job.eta_s)} left`);
  return parts.filter(Boolean).join(" · ");
}

export function mount(element) {
  return new PerplexityView(element);
}
