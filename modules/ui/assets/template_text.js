// A box for a template's text: numbered lines, one of them marked where something is wrong. Lines are never wrapped, so that numbers stay beside them.

import { h } from "./dom.js";

export class TemplateText {
  constructor(onInput) {
    this.numbers = h("div", { class: "tpl-numbers", "aria-hidden": "true" });
    this.box = h("textarea", { class: "tpl-text", id: "template-text", wrap: "off", spellcheck: "false", autocapitalize: "off", autocomplete: "off", "aria-label": "Template text", "aria-describedby": "template-error" });
    this.element = h("div", { class: "tpl-code" }, this.numbers, this.box);
    this.line = 0;
    this.box.addEventListener("input", () => { this.count(); onInput(); });
    this.box.addEventListener("scroll", () => { this.numbers.scrollTop = this.box.scrollTop; });
    this.box.addEventListener("keydown", (event) => this.onKey(event));
  }

  get value() { return this.box.value; }

  set value(text) {
    if (this.box.value !== text) this.box.value = text;
    this.count();
  }

  set readOnly(on) { this.box.readOnly = on; }

  /** One number for each line; drawn anew only when there are more or fewer. */
  count() {
    const lines = this.box.value.split("\n").length;
    if (this.numbers.children.length !== lines) this.numbers.replaceChildren(...Array.from({ length: lines }, (_, i) => h("span", { text: String(i + 1) })));
    this.mark(this.line);
    this.numbers.scrollTop = this.box.scrollTop;
  }

  mark(line) {
    this.line = line;
    this.numbers.querySelector(".bad")?.classList.remove("bad");
    this.numbers.children[line - 1]?.classList.add("bad");
    this.box.setAttribute("aria-invalid", String(line > 0));
  }

  /** Select a line and bring it into sight. */
  goTo(line) {
    const lines = this.box.value.split("\n");
    const begin = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
    this.box.focus();
    this.box.setSelectionRange(begin, begin + (lines[line - 1]?.length ?? 0));
    const height = this.numbers.children[0]?.offsetHeight ?? 20;
    this.box.scrollTop = Math.max(0, (line - 4) * height);
    this.box.scrollLeft = 0;
  }

  /** A new line begins as far to the right as the one before. */
  onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing || this.box.readOnly) return;
    const before = this.box.value.slice(0, this.box.selectionStart);
    const indent = /^[ \t]*/.exec(before.slice(before.lastIndexOf("\n") + 1))[0];
    if (!indent) return;
    event.preventDefault();
    document.execCommand("insertText", false, `\n${indent}`); // keeps the browser's own undo
  }
}
