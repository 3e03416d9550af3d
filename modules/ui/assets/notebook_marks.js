// How the text of a notebook becomes tokens: whether it begins with the token for that, and what is written like a special token.

import { h } from "./dom.js";
import { Drop } from "./notebook_drop.js";

const MARKS = Object.freeze([
  ["add_bos", "Begin with the token that marks a beginning, where the model has one"],
  ["parse_special", "What is written like a special token, as <|im_end|>, is one"],
]);

export class NotebookMarks {
  /** `settings` are those of the open notebook; both are on unless somebody turns them off. */
  constructor(settings) {
    const button = h("button", { type: "button", class: "small-button", text: "Special tokens", title: "How the text becomes tokens" });
    this.boxes = MARKS.map(([name, text]) => {
      const box = h("input", { type: "checkbox", on: { change: () => settings.edit({ [name]: box.checked }) } });
      return { name, box, row: h("label", {}, box, h("span", { text })) };
    });
    this.drop = new Drop(button, "How the text becomes tokens", () => {
      for (const { name, box } of this.boxes) box.checked = settings.values[name] !== false;
    });
    this.drop.panel.classList.add("notebook-marks");
    this.drop.panel.append(...this.boxes.map(({ row }) => row));
    this.element = this.drop.element;
  }
}
