// What can be done with an adapter that is ready: try it in chat, make a GGUF of it, merge it into its base, download it.

import { h } from "./dom.js";
import { address, emit, listen, openArea, openConversation, refreshModels, report, request, state } from "./page.js";
import { button } from "./training_fields.js";

const LOOK_MS = 700;
const JOBS_KEY = "paddock.training.jobs"; // of this tab: which conversions it has asked for

export class AdapterUse {
  constructor() {
    Object.assign(this, { run: null, template: "", closed: false, lines: new Map() });
    this.scale = h("input", { type: "range", min: "0", max: "2", step: "0.05", value: "1", "aria-label": "Scale of the adapter" });
    this.value = h("output", { text: "1" });
    this.scale.addEventListener("input", () => { this.value.textContent = this.scale.value; });
    this.chat = button("Try in chat", () => this.tryInChat(), { kind: "primary" });
    this.convert = button("Convert to GGUF", () => this.begin("convert", { model: this.run.base }));
    this.merge = button("Merge into the base", () => this.askTarget());
    this.download = h("a", { class: "small-button", text: "Download", download: true });
    this.status = h("p", { class: "model-note", role: "status" });
    this.news = h("div", { class: "train-jobs" });
    this.target = h("input", { type: "text", maxlength: "100", autocomplete: "off", spellcheck: "false", "aria-label": "Name of the merged model" });
    this.form = h("form", { class: "train-merge", hidden: true, on: { submit: (event) => { event.preventDefault(); this.begin("merge", { model: this.run.base, target: this.target.value.trim(), scale: Number(this.scale.value) }); } } },
      h("label", {}, "Name of the merged model ", this.target), h("button", { type: "submit", class: "small-button primary", text: "Merge" }), button("Cancel", () => { this.form.hidden = true; this.merge.focus(); }));
    this.element = h("section", { class: "train-use", "aria-label": "Use the adapter", hidden: true },
      h("div", { class: "train-buttons start" }, h("span", { class: "train-scale" }, "Scale", this.scale, this.value), this.chat, this.convert, this.merge, this.download), this.form, this.status, this.news);
    listen("model", () => this.drawThere());
  }

  close() {
    this.closed = true;
  }

  show(run, args) {
    this.run = run;
    this.template = args.template;
    this.element.hidden = run.status !== "done";
    if (this.element.hidden) return;
    this.download.href = address(`ui/adapters/files/download?name=${encodeURIComponent(run.name)}`);
    if (!this.target.value) this.target.value = `${(args.base ?? run.base).split("/").pop()}-${run.name}`;
    this.drawThere();
    for (const [kind, id] of Object.entries(remembered()[run.name] ?? {})) if (!this.lines.has(kind)) this.follow(kind, id);
  }

  /** Whether the adapter is still in its folder. */
  drawThere() {
    if (!this.run || !state.models || this.closed) return;
    const there = state.models.adapters.some((row) => row.name === this.run.name);
    for (const control of [this.chat, this.convert, this.merge, this.scale]) control.disabled = !there;
    this.download.hidden = !there;
    if (!there) this.status.textContent = `There is no adapter “${this.run.name}” in loras/ any more.`;
    else if (this.status.textContent.startsWith("There is no adapter")) this.status.textContent = "";
  }

  async tryInChat() {
    const { run } = this;
    this.chat.disabled = true;
    const loaded = state.models?.loaded?.some((card) => card.name === run.base);
    this.status.textContent = loaded ? "" : `Loading ${run.base} …`;
    try {
      const { conversation } = await request("POST", "ui/adapters/try", { name: run.name, model: run.base, scale: Number(this.scale.value) });
      // It answers best through the template that it learned with
      if (this.template) await request("PATCH", `ui/conversations/${conversation}`, { settings: { template: this.template } });
      this.status.textContent = "";
      await refreshModels();
      openConversation(conversation);
      emit("conversations-changed");
    } catch (error) { this.status.textContent = error.message; } finally { this.chat.disabled = false; }
  }

  askTarget() {
    this.form.hidden = !this.form.hidden;
    if (!this.form.hidden) this.target.focus();
  }

  async begin(kind, body) {
    this.status.textContent = "";
    try {
      const { job } = await request("POST", `ui/adapters/files/${kind}`, { name: this.run.name, ...body });
      this.form.hidden = true;
      const kept = remembered();
      sessionStorage.setItem(JOBS_KEY, JSON.stringify({ ...kept, [this.run.name]: { ...kept[this.run.name], [kind]: job } }));
      this.follow(kind, job);
    } catch (error) { this.status.textContent = error.message; }
  }

  /** Show a conversion until it has ended. */
  async follow(kind, id) {
    this.lines.get(kind)?.remove();
    const line = h("div", { class: "train-job" });
    this.lines.set(kind, line);
    this.news.append(line);
    const title = kind === "convert" ? "Converting to GGUF" : "Merging into the base";
    while (!this.closed && line.isConnected) {
      let job;
      try { job = await request("GET", `ui/jobs/${id}`); } catch (error) { line.remove(); if (error.status !== 404) report(error); return; }
      if (!["queued", "running"].includes(job.status)) { this.ended(kind, job, line); return; }
      const share = job.total ? Math.min(1, (job.done ?? 0) / job.total) : null;
      line.replaceChildren(h("span", { text: job.status === "queued" ? `${title}: waiting` : title }), h("progress", share === null ? { "aria-label": title } : { max: "1", value: share, "aria-label": title }));
      await new Promise((resolve) => { setTimeout(resolve, LOOK_MS); });
    }
  }

  ended(kind, job, line) {
    if (job.status === "done") {
      const made = job.result?.name ?? "";
      const words = kind === "convert" ? `${made || "The GGUF adapter"} is in loras/. Load a GGUF file of the same base, then tick it there.` : `${made || "The merged model"} is in the model folder: load it like any other.`;
      line.replaceChildren(h("span", { text: words }), button("Open the Models page", () => openArea("models")));
      refreshModels();
    } else line.replaceChildren(h("span", { class: "model-note bad", text: job.error || (job.status === "cancelled" ? "It was cancelled." : "It was interrupted; begin it again.") }));
  }
}

function remembered() {
  try { return JSON.parse(sessionStorage.getItem(JOBS_KEY) ?? "{}") ?? {}; } catch { return {}; }
}
