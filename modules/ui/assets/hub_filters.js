// What searched models must be like: author, task, licence, size, and whether this machine could hold them.

import { h } from "./dom.js";

const TASKS = [["", "Any task"], ["text-generation", "Text generation"], ["image-text-to-text", "Images and text"], ["text2text-generation", "Text to text"], ["feature-extraction", "Embeddings"]];
const LICENCES = [["", "Any licence"], ...["apache-2.0", "mit", "llama3.1", "llama3.2", "gemma", "cc-by-4.0", "cc-by-nc-4.0", "bsd-3-clause"].map((name) => [name, name]), ["other", "other"]];
const SIZES = [["", "Any size"], ["0-1", "Up to 1 B parameters"], ["1-4", "1 to 4 B"], ["4-9", "4 to 9 B"], ["9-20", "9 to 20 B"], ["20-80", "20 to 80 B"], ["80-0", "Above 80 B"]];

export class HubFilters {
  constructor(onChange) {
    this.author = h("input", { type: "text", "aria-label": "Author", placeholder: "Author", autocomplete: "off", maxlength: "96", spellcheck: "false" });
    this.task = select("Task", TASKS);
    this.licence = select("Licence", LICENCES);
    this.size = select("Size", SIZES);
    this.here = h("input", { type: "checkbox" });
    this.summary = h("summary", { text: "Filters" });
    this.element = h("details", { class: "hub-filters" }, this.summary,
      h("div", { class: "hub-search" }, this.author, this.task, this.licence, this.size, h("label", {}, this.here, " Runs on this machine")));
    const changed = () => { const count = this.count(); this.summary.textContent = count ? `Filters (${count})` : "Filters"; onChange(); };
    for (const part of [this.author, this.task, this.licence, this.size, this.here]) part.addEventListener("change", changed);
    this.author.addEventListener("keydown", (event) => { if (event.key === "Enter") this.author.blur(); });
  }

  /** How many are set. */
  count() {
    return [this.author.value.trim(), this.task.value, this.licence.value, this.size.value, this.here.checked].filter(Boolean).length;
  }

  /** As the server takes them. */
  values() {
    const [least, most] = this.size.value.split("-").map((billions) => Number(billions || 0) * 1e9);
    return { author: this.author.value.trim(), task: this.task.value, licence: this.licence.value, least_parameters: least, most_parameters: most || 0, runs_here: this.here.checked };
  }
}

export function select(label, options) {
  return h("select", { "aria-label": label }, ...options.map(([value, text]) => h("option", { value, text })));
}
