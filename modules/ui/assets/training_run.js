// One run: how it stands, what may be done with it; opened, its curves, texts, proof and settings.

import { askInPlace, h, number } from "./dom.js";
import { size } from "./job_list.js";
import { emit, report, request } from "./page.js";
import { takeOver } from "./training_draft.js";
import { button, duration, short } from "./training_fields.js";
import { RunDetail } from "./training_detail.js";

const WORDS = { failed: "Failed", cancelled: "Cancelled", done: "Done" };
const PHASES = { proof: "Measuring what changed" }; // others are words already

export class RunCard {
  constructor(run, { onChoose, onOpen }) {
    Object.assign(this, { id: run.id, run, onOpen, detail: null, drawn: "" });
    this.box = h("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, on: { change: () => onChoose(this.box.checked) } });
    this.title = h("button", { type: "button", class: "train-run-title", "aria-expanded": "false", on: { click: () => this.open(!this.detail) } }, h("strong", { text: run.name }));
    this.state = h("span", { class: "badge" });
    this.facts = h("p", { class: "job-facts" });
    this.bar = h("progress", { max: "1", "aria-label": `Progress of ${run.name}` });
    this.tools = h("span", { class: "train-tools" });
    this.news = h("div", {});
    this.body = h("div", {});
    this.element = h("article", { class: "train-run", data: { id: run.id, name: run.name } },
      h("header", {}, this.box, this.title, this.state, h("span", { class: "grow" }), this.tools), this.bar, this.facts, this.news, this.body);
  }

  update(run) {
    const before = this.run;
    this.run = run;
    const signature = JSON.stringify(run);
    if (signature !== this.drawn && !this.tools.querySelector("button:active")) {
      this.drawn = signature;
      this.draw(run);
    }
    if (this.detail) this.detail.update(run, before);
  }

  draw(run) {
    const active = ["queued", "running"].includes(run.status);
    this.element.dataset.status = run.status;
    this.state.textContent = stateInWords(run);
    this.state.className = `badge ${run.status === "failed" || run.verdict === "red" ? "bad" : run.status === "done" && run.verdict !== "amber" ? "" : run.verdict === "amber" ? "amber" : "quiet"}`;
    const share = run.total ? Math.min(1, (run.done ?? 0) / run.total) : null;
    this.bar.hidden = !["running", "interrupted"].includes(run.status);
    if (share === null) this.bar.removeAttribute("value"); else this.bar.value = share;
    if (run.status === "interrupted" && share === null) this.bar.hidden = true;
    this.facts.textContent = facts(run);
    this.news.replaceChildren(...[run.error ? h("p", { class: "model-note bad", text: run.error }) : "", run.warning ? h("p", { class: "model-note warn", text: run.warning }) : ""].filter(Boolean));
    this.drawTools(run, active);
  }

  drawTools(run, active) {
    const verbs = run.status === "running" && !run.stopping
      ? [["pause", "Pause"], ...(run.finishing ? [] : [["finish", "Stop and keep"]]), ["cancel", "Cancel"]]
      : active && !run.stopping ? [["pause", "Pause"], ["cancel", "Cancel"]] : run.status === "interrupted" ? [["resume", "Resume"], ["cancel", "Cancel"]]
          : ["failed", "cancelled"].includes(run.status) ? [["resume", "Try again"]] : [];
    const wanted = JSON.stringify(verbs);
    if (wanted === this.verbs || this.tools.querySelector(".ask")) return;
    this.verbs = wanted;
    const held = this.tools.contains(document.activeElement);
    this.tools.replaceChildren(...verbs.map(([verb, text]) => {
      const control = button(text, () => this.act(verb, control), { "aria-label": `${text} ${run.name}`, "data-verb": verb });
      return control;
    }));
    if (held) (this.tools.querySelector("button") ?? this.title).focus();
  }

  async act(verb, control) {
    if (verb === "cancel") {
      const others = [...this.tools.children].filter((one) => one !== control);
      for (const one of others) one.hidden = true;
      const sure = await askInPlace(control, "End it? What it learned is lost.", "End it");
      for (const one of others) one.hidden = false;
      if (!sure) { control.focus(); return; }
    }
    try { await request("POST", `ui/training/runs/${this.id}/${verb}`, {}); } catch (error) { report(error); }
    emit("training-changed");
  }

  open(is) {
    if (is === Boolean(this.detail)) return;
    this.title.setAttribute("aria-expanded", String(is));
    this.element.classList.toggle("open", is);
    if (is) {
      this.detail = new RunDetail(this.run, { onClone: (args) => this.clone(args), onRemove: (control) => this.remove(control) });
      this.body.replaceChildren(this.detail.element);
      this.detail.update(this.run, null);
    } else {
      this.detail.close();
      this.detail = null;
      this.body.replaceChildren();
    }
    this.onOpen(is);
  }

  clone(args) {
    const [, stem, count] = args.name.match(/^(.*?)(?:-(\d+))?$/);
    takeOver({ ...args, name: `${stem}-${Number(count ?? 1) + 1}` });
    document.querySelector("#training-setup")?.scrollIntoView({ behavior: "smooth", block: "start" });
    document.querySelector("#training-name")?.focus({ preventScroll: true });
  }

  async remove(control) {
    if (!(await askInPlace(control, "Remove this run with its curves and checkpoints? The adapter stays.", "Remove"))) return;
    try { await request("DELETE", `ui/training/runs/${this.id}`); } catch (error) { report(error); }
    document.querySelector("#training-runs-title").focus(); // the button that had the focus goes
    emit("training-changed");
  }
}

function stateInWords(run) {
  if (run.status === "queued") return run.place ? `Waiting, place ${run.place}` : "Waiting";
  if (run.status === "running") return run.stopping ? "Stopping" : run.finishing ? "Ending, it is kept" : PHASES[run.metrics?.phase] ?? (run.metrics?.phase || (run.done === null ? "Starting" : "Training"));
  if (run.status === "interrupted") return run.paused ? "Paused" : "Interrupted";
  return WORDS[run.status] ?? run.status;
}

function facts(run) {
  const parts = [run.base ? `${run.base} learns ${run.dataset}` : ""];
  if (run.total) parts.push(`${run.unit === "steps" || !run.unit ? "step" : run.unit} ${number(Math.round(run.done ?? 0))} of ${number(Math.round(run.total))}`);
  if (run.status === "running" && run.eta_s) parts.push(`about ${duration(run.eta_s)} left`);
  if (run.loss !== null && run.loss !== undefined) parts.push(`loss ${short(run.loss)}`);
  if (run.held_out_loss !== null && run.held_out_loss !== undefined) parts.push(`held-out loss ${short(run.held_out_loss)}`);
  const { tokens_per_s: speed, memory_bytes: memory } = run.metrics ?? {};
  if (run.status === "running" && speed) parts.push(`${number(Math.round(speed))} tokens/s`);
  if (run.status === "running" && memory) parts.push(size(memory));
  if (run.ended_s && run.started_s && run.status === "done") parts.push(`took ${duration(run.ended_s - run.started_s)}`);
  return parts.filter(Boolean).join(" · ");
}
