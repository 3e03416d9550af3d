// A data set of one's own conversations: which replies, what is blacked out, what is left out as a duplicate; then written under a name.

import { h, number, plural } from "./dom.js";
import { request, toast } from "./page.js";
import { button, field, later, problemBox, tick } from "./training_fields.js";
import { sampleCard } from "./training_mapping.js";

const ALONE = "pairs"; // cannot stand in one file with the others
const SHOWN = 3;

export class ConversationSamples {
  constructor(onWritten) {
    Object.assign(this, { onWritten, choices: null, chosen: new Set(), kept: new Set(), asked: 0 });
    this.problem = problemBox();
    this.preview = later(() => this.look());
    this.choiceRows = h("fieldset", { class: "train-ticks" });
    this.findings = h("fieldset", { class: "train-ticks" });
    this.count = h("p", { class: "train-recognised", role: "status" });
    this.samples = h("div", { class: "train-samples", role: "region", "aria-label": "Samples of my conversations" });
    this.names = field("conversations-names", "More names to black out", h("input", { type: "text", maxlength: "2000", autocomplete: "off", on: { input: () => this.preview() } }), "Separate them with commas. Names that you told a model are found by themselves.");
    this.name = field("conversations-name", "Name of the data set", h("input", { type: "text", maxlength: "80", autocomplete: "off", value: "my-conversations" }), "It is written into the folder of data sets.");
    this.write = button("Write the data set", () => this.save(), { kind: "primary" });
    this.element = h("section", { class: "train-conversations", "aria-label": "From my conversations", hidden: true },
      h("h3", { text: "From my conversations" }), this.problem.element, this.choiceRows, this.findings, this.count, this.samples,
      h("div", { class: "train-grid" }, this.names.element, this.name.element), h("div", { class: "train-buttons" }, button("Close", () => this.toggle(this.opener)), this.write));
  }

  toggle(opener) {
    this.opener = opener;
    this.element.hidden = !this.element.hidden;
    opener.setAttribute("aria-expanded", String(!this.element.hidden));
    if (this.element.hidden) opener.focus();
    else this.open();
  }

  async open() {
    this.problem.say("");
    try { this.choices = (await request("GET", "ui/datasets/conversations")).choices; } catch (error) { this.problem.say(error.message); return; }
    if (!this.chosen.size) for (const choice of this.choices.filter((row) => row.count).slice(0, 1)) this.chosen.add(choice.value);
    this.drawChoices();
    await this.look();
  }

  drawChoices() {
    const focus = document.activeElement?.closest("[data-choice]")?.dataset.choice;
    this.choiceRows.replaceChildren(h("legend", { text: "Learn from" }), ...this.choices.map((choice) => {
      const label = tick(`${choice.title} (${number(choice.count)})`, this.chosen.has(choice.value), (on) => this.choose(choice.value, on), { disabled: !choice.count });
      label.dataset.choice = choice.value;
      return label;
    }));
    if (focus) this.choiceRows.querySelector(`[data-choice="${CSS.escape(focus)}"] input`)?.focus();
  }

  choose(value, on) {
    if (on) for (const other of [...this.chosen]) if (value === ALONE || other === ALONE) this.chosen.delete(other);
    if (on) this.chosen.add(value); else this.chosen.delete(value);
    this.drawChoices();
    this.preview();
  }

  get asking() {
    const names = this.names.control.value.split(",").map((name) => name.trim()).filter(Boolean);
    return { choose: [...this.chosen], redact: this.kinds().filter((kind) => !this.kept.has(kind)), names };
  }

  /** All kinds that were seen: they are blacked out unless the person takes the tick away. */
  kinds() {
    return (this.found?.findings ?? []).map((row) => row.kind);
  }

  async look() {
    const mine = ++this.asked;
    const nothing = !this.chosen.size;
    this.write.disabled = true;
    if (nothing) {
      this.found = null;
      this.findings.replaceChildren();
      this.samples.replaceChildren();
      this.count.textContent = this.choices?.some((row) => row.count) ? "Choose what to learn from." : "There is nothing to learn from yet. Chat first: choose between versions of a reply, edit one, or give it a thumb.";
      return;
    }
    try {
      let found = await request("POST", "ui/datasets/conversations/preview", this.asking);
      this.found = found;
      // What was not known before is blacked out as well
      if (JSON.stringify(this.asking.redact) !== JSON.stringify(this.lastRedact ?? [])) found = await request("POST", "ui/datasets/conversations/preview", this.asking);
      if (mine !== this.asked) return;
      this.lastRedact = this.asking.redact;
      this.found = found;
      this.problem.say("");
      this.draw();
    } catch (error) { if (mine === this.asked) this.problem.say(error.message); }
  }

  draw() {
    const { found } = this;
    const images = found.with_images ? ` ${plural(found.with_images, "reply")} with images left out, since texts alone are learned.`.replace("replys", "replies") : "";
    const twice = [found.exact ? `${number(found.exact)} the same as an earlier one` : "", found.near ? `${number(found.near)} nearly the same` : ""].filter(Boolean).join(", ");
    this.count.textContent = `${plural(found.count, "sample")}${found.pairs ? `, ${number(found.pairs)} of them preference pairs` : ""}.${twice ? ` Left out: ${twice}.` : ""}${images}`;
    this.write.disabled = !found.count;
    const focus = document.activeElement?.closest("[data-kind]")?.dataset.kind;
    this.findings.replaceChildren(...(found.findings.length ? [h("legend", { text: "Black out what looks personal" })] : []), ...found.findings.map((row) => {
      const label = tick(`${row.title} (${number(row.count)})`, !this.kept.has(row.kind), (on) => {
        if (on) this.kept.delete(row.kind); else this.kept.add(row.kind);
        this.preview();
      });
      label.append(h("span", { class: "model-note", text: `for example ${row.examples.slice(0, SHOWN).join(", ")}` }));
      label.dataset.kind = row.kind;
      return label;
    }));
    if (focus) this.findings.querySelector(`[data-kind="${CSS.escape(focus)}"] input`)?.focus();
    this.samples.replaceChildren(...found.samples.slice(0, SHOWN).map(sampleCard));
  }

  async save() {
    this.name.mark("");
    this.write.disabled = true;
    try {
      const { name } = await request("POST", "ui/datasets/conversations", { name: this.name.control.value.trim(), ...this.asking });
      toast(`${name} is written.`);
      this.toggle(this.opener);
      this.onWritten(name);
    } catch (error) {
      if (error.details?.field === "name") this.name.mark(error.message); else this.problem.say(error.message);
    } finally { this.write.disabled = !this.found?.count; }
  }
}
