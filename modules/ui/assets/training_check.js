// Steps 4 and 5: a look at what would be learned before anything is, and the start.

import { h, number } from "./dom.js";
import { emit, listen, request, state } from "./page.js";
import { asRun, change, draft, missing } from "./training_draft.js";
import { Examination } from "./training_examination.js";
import { button, duration, problemBox, step } from "./training_fields.js";
import { collectOptions } from "./training_options.js";

const LOOK_MS = 700;
const ACTIVE = ["queued", "running"];

export class TrainingCheck {
  constructor(onStarted) {
    Object.assign(this, { onStarted, timer: 0, looking: "", busy: false });
    this.problem = problemBox();
    this.checkButton = button("Check", () => this.check(), { id: "training-check" });
    this.trainButton = button("Train", () => this.start(), { kind: "primary", id: "training-start" });
    this.progress = h("div", { class: "train-upload", role: "status" });
    this.old = h("p", { class: "model-note warn", hidden: true, text: "Something has been changed since this check. Check again to see what that does." });
    this.examination = new Examination();
    this.element = h("div", { class: "train-pair" },
      step(4, "Check", "Shows what would be learned, token by token, and tries two steps to tell time and memory. Nothing is trained.",
        h("div", { class: "train-buttons start" }, this.checkButton), this.progress, this.old, this.examination.element),
      step(5, "Train", "The run goes on when you leave this page, and can be paused and resumed.", this.problem.element, h("div", { class: "train-buttons start" }, this.trainButton)));
    document.addEventListener("visibilitychange", () => this.follow());
    listen("area", () => this.follow());
    listen("training-draft", ({ names }) => { if (!names.includes("check")) this.drawOld(); });
    this.follow();
  }

  /** The run as it is meant now, or null after what is wrong has been shown. */
  async asked() {
    this.problem.say("");
    for (const named of ["base", "name", "prompts"]) emit("training-mark", { field: named, message: "" });
    const lack = missing();
    if (lack) { this.tell(lack.message, lack.field); return null; }
    const { options, problem } = await collectOptions();
    if (!options) { this.tell(problem, "options"); return null; }
    return asRun(options);
  }

  /** A sentence where the buttons are, and at the field it is about. */
  tell(message, named = "") {
    this.problem.say(message);
    const [first] = (named ?? "").split(".");
    if (["base", "name", "continue_from", "prompts", "template"].includes(first)) emit("training-mark", { field: first, message });
  }

  async once(work) {
    if (this.busy) return;
    this.busy = true;
    for (const control of [this.checkButton, this.trainButton]) control.disabled = true;
    try { await work(); } catch (error) { this.tell(error.message, error.details?.field); } finally {
      this.busy = false;
      this.drawButtons(this.job);
    }
  }

  check() {
    return this.once(async () => {
      const run = await this.asked();
      if (!run) return;
      const { job } = await request("POST", "ui/training/check", run);
      this.examination.show(null);
      change({ check: { id: job, run: JSON.stringify(run) } }, this);
      await this.follow();
    });
  }

  start() {
    return this.once(async () => {
      const run = await this.asked();
      if (!run) return;
      const { job } = await request("POST", "ui/training/start", run);
      await this.onStarted(job);
    });
  }

  /** Look how the check stands that was asked for last, also after a reload. */
  async follow() {
    clearTimeout(this.timer);
    const id = draft.check?.id;
    if (!id || document.hidden || state.area !== "training") return;
    if (this.looking === id && !ACTIVE.includes(this.job?.status)) return; // it has ended and is shown
    let found;
    try { found = await request("GET", `ui/training/checks/${id}`); } catch (error) {
      if (error.status === 404) { change({ check: null }, this); this.progress.replaceChildren(); } else this.timer = setTimeout(() => this.follow(), 5 * LOOK_MS);
      return;
    }
    if (draft.check?.id !== id) return;
    this.looking = id;
    this.job = found.job;
    this.draw(found);
    if (ACTIVE.includes(found.job.status)) this.timer = setTimeout(() => this.follow(), LOOK_MS);
  }

  draw({ job, examination }) {
    const share = job.total ? Math.min(1, (job.done ?? 0) / job.total) : null;
    const words = job.status === "queued" ? (job.place ? `Waiting, place ${job.place}` : "Waiting") : [job.metrics?.phase ?? "Looking", job.total ? `${number(Math.round(job.done ?? 0))} of ${number(Math.round(job.total))} ${job.unit}` : "", job.eta_s ? `about ${duration(job.eta_s)} left` : ""].filter(Boolean).join(" · ");
    if (ACTIVE.includes(job.status)) {
      this.progress.replaceChildren(h("span", { text: words }), h("progress", share === null ? { "aria-label": "Check" } : { max: "1", value: share, "aria-label": "Check" }), button("Cancel", () => this.cancel(), { "aria-label": "Cancel the check" }));
    } else if (job.status === "done") this.progress.replaceChildren();
    else this.progress.replaceChildren(h("span", { class: "model-note bad", text: job.error || (job.status === "cancelled" ? "The check was cancelled." : "The check was interrupted. Check again.") }));
    this.examination.show(examination);
    this.drawOld();
    this.drawButtons(job);
  }

  drawButtons(job) {
    this.checkButton.disabled = this.busy || ACTIVE.includes(job?.status);
    this.trainButton.disabled = this.busy;
  }

  async drawOld() {
    const before = draft.check?.run;
    if (!before || !draft.shown) { this.old.hidden = true; return; }
    const then = JSON.parse(before);
    const now = asRun(then.options);
    const same = ["base", "dataset", "held_out", "template", "continue_from"].every((name) => JSON.stringify(now[name]) === JSON.stringify(then[name]));
    this.old.hidden = same && sameOptions(then.options);
  }

  async cancel() {
    try { await request("POST", `ui/jobs/${draft.check.id}/cancel`, {}); } catch (error) { this.tell(error.message); }
    this.follow();
  }
}

/** Whether the form still shows the options of the check; what is text in the form is compared as such. */
function sameOptions(options) {
  return Object.entries(options).every(([name, value]) => {
    const shown = draft.shown[name];
    return typeof value === "object" || shown === undefined || shown === null || String(shown) === String(value);
  });
}
