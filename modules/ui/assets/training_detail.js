// What an opened run shows: live curves, texts written on the way, the proof, the log, commands for other machines, settings, notes.

import { copyText, flash, h, iconButton, number } from "./dom.js";
import { size } from "./job_list.js";
import { report, request } from "./page.js";
import { Chart, smoothed } from "./training_chart.js";
import { button, short } from "./training_fields.js";
import { ProofCard } from "./training_proof.js";
import { AdapterUse } from "./training_use.js";

const NOISY = 24; // steps from which the loss gets a smooth line beside its own
const SAMPLES_SHOWN = 12;

export class RunDetail {
  constructor(run, { onClone, onRemove }) {
    Object.assign(this, { id: run.id, rows: [], known: 0, started: null, asking: false, seen: "", args: null, drawnSamples: "", closed: false, active: true });
    this.loss = new Chart("Loss");
    this.rate = new Chart("Learning rate", { zero: true });
    this.speed = new Chart("Tokens per second", { zero: true, show: (value) => number(Math.round(value)) });
    this.memory = new Chart("Memory", { zero: true, show: (bytes) => (bytes ? size(bytes) : "0") });
    this.waits = h("p", { class: "side-note", text: "The curves begin with the first step." });
    this.use = new AdapterUse();
    this.proof = new ProofCard();
    this.samples = fold("Sample texts written on the way", h("div", { class: "train-texts" }));
    this.log = fold("Log", h("pre", { class: "train-log", tabindex: "0" }));
    this.commands = fold("Commands for the other machines", h("div", { class: "train-commands" }));
    this.settings = fold("Settings of this run", h("dl", { class: "train-settings" }));
    this.notes = h("textarea", { rows: "2", "aria-label": `Notes on ${run.name}`, placeholder: "Notes", maxlength: "4000", on: { change: () => this.saveNotes() } });
    this.notes.value = run.notes ?? "";
    const remove = button("Remove", () => onRemove(remove), { "aria-label": `Remove ${run.name}` });
    this.clone = button("Clone with changes", () => { if (this.args) onClone(this.args); }, { "aria-label": `Clone ${run.name} with changes` });
    this.tools = h("div", { class: "train-buttons" }, this.clone, remove);
    this.removeButton = remove;
    this.element = h("div", { class: "train-detail" }, this.proof.element, this.use.element, this.waits,
      h("div", { class: "train-charts" }, this.loss.element, this.rate.element, this.speed.element, this.memory.element),
      this.samples.element, this.commands.element, this.log.element, this.settings.element, this.notes, this.tools);
    this.draw();
  }

  close() {
    this.closed = true;
    this.use.close();
  }

  /** The list has looked again; ask for more of this one while it changes. */
  async update(run, before) {
    this.active = ["queued", "running"].includes(run.status);
    this.removeButton.hidden = this.active;
    const seen = JSON.stringify([run.status, run.ended_s, run.started_s, run.verdict]);
    const moves = run.status === "running";
    if ((seen === this.seen && !moves) || this.asking) return;
    this.asking = true;
    try {
      if (run.started_s !== this.started) this.forget(run.started_s); // a resumed run writes its last steps anew
      await this.fetch(run);
      this.seen = seen;
    } catch (error) { if (!before) report(error); } finally { this.asking = false; }
  }

  forget(started) {
    Object.assign(this, { started, rows: [], known: 0 });
  }

  async fetch(run) {
    let found = await request("GET", `ui/training/runs/${this.id}?after=${this.known}`);
    if (found.rows < this.known) {
      this.forget(this.started);
      found = await request("GET", `ui/training/runs/${this.id}?after=0`);
    }
    if (this.closed) return;
    this.rows.push(...found.curve);
    this.known = found.rows;
    this.args = found.args;
    this.draw();
    this.drawTexts(found);
    this.proof.show(found.proof);
    this.use.show(run, found.args);
  }

  draw() {
    const points = (name) => this.rows.filter((row) => row[name] !== undefined && row[name] !== null).map((row) => [row.step, row[name]]);
    const loss = points("loss");
    const noisy = loss.length >= NOISY;
    this.waits.hidden = this.rows.length > 0 || !this.active;
    this.loss.set([
      { name: "Loss, each step", kind: "train", points: noisy ? loss : [], faint: true },
      { name: "Loss", kind: "train", points: noisy ? smoothed(loss) : loss },
      { name: "Held-out loss", kind: "held", points: points("held_out_loss"), dots: true },
    ]);
    this.rate.set([{ name: "Learning rate", kind: "train", points: points("learning_rate") }]);
    this.speed.set([{ name: "Tokens per second", kind: "train", points: points("tokens_per_s") }]);
    this.memory.set([{ name: "Memory", kind: "train", points: points("memory_bytes") }]);
  }

  drawTexts({ samples, log, commands, args }) {
    const newest = [...samples].reverse().slice(0, SAMPLES_SHOWN);
    const signature = JSON.stringify([newest, commands]);
    this.samples.element.hidden = !newest.length;
    this.commands.element.hidden = !commands.length;
    this.log.element.hidden = !log.length;
    this.log.body.textContent = log.join("\n");
    if (signature === this.drawnSamples) return;
    this.drawnSamples = signature;
    this.samples.body.replaceChildren(...newest.map((row) => h("div", { class: "train-text" },
      h("span", { class: "badge quiet", text: `step ${number(row.step)}` }), h("p", { class: "train-asked", text: row.prompt }), h("p", { text: row.text || "(nothing)" }))));
    this.commands.body.replaceChildren(h("p", { class: "model-note", text: "Start one of these on each other machine, in Paddock's folder, with the same base model and data there." }),
      ...commands.map((line) => {
        const copy = iconButton("copy", "Copy the command", async () => { await copyText(line); flash(copy, "check", "copy"); });
        return h("div", { class: "train-command" }, h("code", { text: line }), copy);
      }));
    const plain = { base: args.base, data: args.dataset?.name, format: args.dataset?.format, held_out: args.held_out?.name, template: args.template || "the model's own", begin_from: args.continue_from, ...args.options };
    this.settings.body.replaceChildren(...Object.entries(plain).filter(([, value]) => !isEmpty(value)).flatMap(([name, value]) => [h("dt", { text: optionWords(name) }), h("dd", { text: valueWords(value) })]));
  }

  async saveNotes() {
    try { await request("POST", `ui/training/runs/${this.id}/notes`, { text: this.notes.value }); } catch (error) { report(error); }
  }
}

function fold(title, body) {
  return { body, element: h("details", { class: "train-fold", hidden: title !== "Settings of this run" }, h("summary", { text: title }), body) };
}

function isEmpty(value) {
  return value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length);
}

/** `learning_rate` as people read it. */
export function optionWords(name) {
  const words = name.replaceAll("_", " ");
  return words.slice(0, 1).toUpperCase() + words.slice(1);
}

export function valueWords(value) {
  if (isEmpty(value)) return "–";
  if (value === true) return "on";
  if (value === false) return "off";
  return typeof value === "number" ? short(value) : Array.isArray(value) ? value.join(", ") : String(value);
}
