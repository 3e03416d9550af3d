// A data set from the hub: one file by its name or link. The server fetches; a reload changes nothing.

import { h } from "./dom.js";
import { size } from "./job_list.js";
import { report, request } from "./page.js";
import { button, problemBox } from "./training_fields.js";

const LOOK_MS = 700;

export class DatasetFetch {
  /** `onDone(name, mine)` is told of every data set that arrives while the page looks, and whether it was asked for here. */
  constructor(onDone) {
    Object.assign(this, { onDone, jobs: [], mine: new Set(), timer: 0, drawn: "" });
    this.input = h("input", { type: "text", id: "training-reference", placeholder: "owner/name/data/train.parquet, or a link to the file", autocomplete: "off", spellcheck: "false", maxlength: "1000", "aria-describedby": "training-reference-hint" });
    this.send = h("button", { type: "submit", class: "small-button", text: "Fetch" });
    this.problem = problemBox();
    this.form = h("form", { class: "train-fetch", hidden: true, on: { submit: (event) => { event.preventDefault(); this.begin(); } } },
      h("label", { for: "training-reference", text: "File of a data set on the hub" }), h("div", {}, this.input, this.send),
      h("p", { class: "model-note", id: "training-reference-hint", text: "With the name of the data set alone, its files are named." }), this.problem.element);
    this.progress = h("div", { class: "train-fetching", role: "status" });
    this.element = h("div", {}, this.form, this.progress);
  }

  toggle(control) {
    this.form.hidden = !this.form.hidden;
    control.setAttribute("aria-expanded", String(!this.form.hidden));
    if (!this.form.hidden) this.input.focus();
  }

  async begin() {
    this.problem.say("");
    this.send.disabled = true;
    try {
      const job = await request("POST", "ui/datasets/fetching", { reference: this.input.value });
      this.mine.add(job.id);
      this.jobs = [job, ...this.jobs];
      this.input.value = "";
    } catch (error) { this.problem.say(error.message); }
    this.send.disabled = false;
    this.follow();
  }

  /** Look at what is on its way, for as long as there is something. */
  async follow() {
    clearTimeout(this.timer);
    try {
      const { jobs } = await request("GET", "ui/datasets/fetching");
      const ended = this.jobs.filter((job) => !jobs.some((other) => other.id === job.id));
      this.jobs = jobs;
      this.draw();
      for (const job of ended) await this.tell(job.id);
    } catch { /* the chat's own banner tells that the server is away */ }
    clearTimeout(this.timer);
    if (this.jobs.length && this.element.checkVisibility()) this.timer = setTimeout(() => this.follow(), LOOK_MS);
  }

  async tell(id) {
    const job = await request("GET", `ui/jobs/${id}`);
    if (job.status === "done") await this.onDone(job.result.name, this.mine.has(id));
    else if (this.mine.has(id)) this.problem.say(job.error || "The download was cancelled. What was fetched is kept, and the same file goes on from there.");
  }

  draw() {
    const signature = JSON.stringify(this.jobs);
    if (signature === this.drawn || this.progress.querySelector("button:active")) return; // a pressed button must live until it is let go
    this.drawn = signature;
    this.progress.replaceChildren(...this.jobs.map((job) => this.row(job)));
  }

  row(job) {
    const share = job.total ? Math.min(1, job.done / job.total) : null;
    const rests = job.status === "interrupted";
    const words = [job.title, rests ? (job.paused ? "paused" : "interrupted") : job.place ? `waiting, place ${job.place}` : "", job.total ? `${size(job.done)} of ${size(job.total)}` : ""];
    const make = (verb, text) => button(text, () => this.act(job.id, verb), { disabled: job.stopping, "aria-label": `${text} ${job.title}` });
    return h("div", { class: "train-upload" }, h("span", { text: words.filter(Boolean).join(" · ") }),
      h("progress", { max: "1", ...(share === null ? {} : { value: String(share) }), "aria-label": `Progress of ${job.title}` }), rests ? make("resume", "Resume") : null, make("cancel", "Cancel"));
  }

  async act(id, verb) {
    try { await request("POST", `ui/jobs/${id}/${verb}`, {}); } catch (error) { report(error); }
    this.follow();
  }
}
