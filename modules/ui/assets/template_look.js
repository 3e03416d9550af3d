// How a template writes a conversation, token by token, and what the doctor says: asked for a moment after each change.

import { h, number, plural } from "./dom.js";
import { conversationInAddress, report, request, shortName, toast } from "./page.js";
import { button, fill, later, tick } from "./training_fields.js";

const KEY = "paddock.templates.look"; // a view of this browser
const OPEN_CONVERSATION = "(open)";
const MARKS = { ok: "✓", note: "i", problem: "!" };
const LEVELS = { ok: "Right", note: "Note", problem: "Problem" };

export class TemplateLook {
  /** `actions`: edited() → {text, stop} or null, showError(error or null), goToStop(), chosen(model). */
  constructor(actions) {
    this.actions = actions;
    Object.assign(this, { sample: "", asTokens: true, ...JSON.parse(localStorage.getItem(KEY) ?? "{}"), model: null, asked: 0, shown: null });
    this.select = h("select", { id: "template-sample", "aria-label": "Conversation to look at", on: { change: () => { this.sample = this.select.value; this.keep(); this.look(); } } });
    this.tokens = tick("Tokens", this.asTokens, (on) => { this.asTokens = on; this.keep(); this.draw(); }, { id: "template-tokens" });
    this.count = h("span", { class: "tpl-count", role: "status" });
    this.text = h("div", { class: "tpl-written", id: "template-written", role: "region", "aria-label": "The text that the model reads", tabindex: "0" });
    this.notes = h("div", { class: "tpl-notes" });
    this.findings = h("ul", { class: "tpl-findings", id: "template-findings", "aria-label": "What the doctor found" });
    this.fits = h("div", { class: "tpl-fits", role: "status" });
    this.tried = h("div", { class: "tpl-tried", role: "status" });
    this.find = button("Which templates fit?", () => this.findFitting(), { id: "template-fitting" });
    this.trying = button("Write 20 tokens", () => this.tryOut(), { id: "template-try" });
    this.element = h("div", { class: "tpl-look" },
      h("section", { "aria-label": "Preview" }, h("div", { class: "tpl-bar" }, h("h2", { text: "Preview" }), this.select, this.tokens, h("span", { class: "grow" }), this.count), this.text, this.notes),
      h("section", { "aria-label": "Template doctor" }, h("div", { class: "tpl-bar" }, h("h2", { text: "Doctor" }), h("span", { class: "grow" }), this.find, this.trying), this.findings, this.fits, this.tried));
    this.lookSoon = later(() => this.look(), 250);
  }

  keep() {
    localStorage.setItem(KEY, JSON.stringify({ sample: this.sample, asTokens: this.asTokens }));
  }

  show({ samples, model }) {
    if (JSON.stringify(model) !== JSON.stringify(this.model)) { this.fits.replaceChildren(); this.tried.replaceChildren(); }
    this.model = model;
    this.find.disabled = this.trying.disabled = !model;
    const own = conversationInAddress() ? [[OPEN_CONVERSATION, "The open conversation"]] : [];
    if (!own.length && this.sample === OPEN_CONVERSATION) this.sample = "";
    fill(this.select, [...samples.map((name) => [name, name]), ...own], this.sample || samples[0]);
  }

  async look() {
    const edited = this.actions.edited();
    if (!edited) return;
    const mine = ++this.asked;
    const which = this.sample === OPEN_CONVERSATION ? { conversation: conversationInAddress() ?? "" } : { sample: this.sample };
    let shown;
    try { shown = await request("POST", "ui/templates/look", { ...edited, ...which }); } catch (error) { shown = { error: { message: error.message, line: null }, findings: [], notes: [], variables: [], tokens: null, text: "" }; }
    if (mine !== this.asked) return; // it was typed on meanwhile
    this.shown = shown;
    this.draw();
    this.actions.showError(shown.error);
  }

  draw() {
    const { shown } = this;
    if (!shown) return;
    this.text.classList.toggle("old", Boolean(shown.error));
    if (!shown.error) this.text.replaceChildren(...(this.asTokens && shown.tokens ? shown.tokens.map(token) : [shown.text]));
    this.count.textContent = shown.error ? "" : shown.count === null ? `${number([...shown.text].length)} characters` : plural(shown.count, "token");
    const notes = [...shown.notes];
    if (shown.cut) notes.push("The conversation is long: only its beginning is shown and counted.");
    if (!this.model && !shown.error) notes.push("No model is loaded on this machine, so there are no tokens and the doctor sees less.");
    if (shown.variables?.length) notes.push(`The template can be given: ${shown.variables.join(", ")}.`);
    this.notes.replaceChildren(...notes.map((text) => h("p", { class: "model-note", text })));
    const order = { problem: 0, note: 1, ok: 2 };
    const found = shown.findings === null ? [{ level: "note", sentence: "The examination took longer than its limit of 6 s; nothing is known.", fix: "" }] : [...shown.findings].sort((one, other) => order[one.level] - order[other.level]);
    const isFirst = (finding, place) => found.findIndex((one) => one.fix === finding.fix) === place; // one button for one cure
    this.findings.replaceChildren(...found.map((finding, place) => this.finding(isFirst(finding, place) ? finding : { ...finding, fix: "" })));
  }

  finding({ level, sentence, fix }) {
    const cure = { another: () => button("Find one that fits", () => this.findFitting(), { disabled: !this.model }), stop: () => button("Set a stop string", () => this.actions.goToStop()) }[fix];
    return h("li", { class: level }, h("span", { class: "tpl-mark", role: "img", "aria-label": LEVELS[level], text: MARKS[level] }), h("span", { class: "tpl-sentence", text: sentence }), cure?.());
  }

  async findFitting() {
    this.find.disabled = true;
    this.fits.replaceChildren(h("p", { class: "model-note", text: "Examining all prompt templates…" }));
    try {
      const { templates } = await request("GET", "ui/templates/fitting");
      this.fits.replaceChildren(h("p", { class: "model-note", text: templates.length ? `Without a problem for ${shortName(this.model.name)}; press to use one for it:` : `No prompt template here is without a problem for ${shortName(this.model.name)}.` }),
        h("div", { class: "tpl-chips" }, ...templates.map((row) => button(row.same ? `${row.name} · writes what the model's own does` : row.name, () => this.choose(row.name)))));
    } catch (error) { this.fits.replaceChildren(h("p", { class: "model-note bad", text: error.message })); }
    this.find.disabled = !this.model;
  }

  async choose(template) {
    try {
      const { model } = await request("PUT", "ui/templates/choice", { template });
      toast(template ? `“${template}” is used for ${shortName(model.name)} from now on.` : `${shortName(model.name)} uses its own template again.`);
      this.actions.chosen(model);
    } catch (error) { report(error); }
  }

  async tryOut() {
    const edited = this.actions.edited();
    if (!edited) return;
    this.trying.disabled = true;
    this.tried.replaceChildren(h("p", { class: "model-note", text: "The model is writing…" }));
    try {
      const tried = await request("POST", "ui/templates/try", edited);
      const verdict = tried.stopped
        ? `It ended its reply by itself, after ${plural(tried.tokens, "token")}.`
        : tried.stopped === null ? `It was still thinking after ${tried.limit} tokens, so nothing is known of how its replies end.`
        : `It did not end its reply within ${tried.limit} tokens. A short answer mostly ends sooner: where it goes on as another speaker, the end of a turn does not fit.`;
      this.tried.replaceChildren(h("p", { class: "tpl-asked", text: tried.asked }), h("pre", { class: "tpl-answer", text: tried.text }), h("p", { class: `model-note ${tried.stopped ? "good" : "warn"}`, text: verdict }));
    } catch (error) { this.tried.replaceChildren(h("p", { class: "model-note bad", text: error.message })); }
    this.trying.disabled = !this.model;
  }
}

/** A token as it is written; line breaks are shown and made. */
function token([text, ids, special], place) {
  const shown = text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t");
  return h("span", { class: special ? "tpl-token special" : `tpl-token ${place % 2 ? "odd" : ""}`, title: `${special ? "Special token" : ids.length > 1 ? "Tokens" : "Token"} ${ids.join(", ")}`, text: shown });
}
