// The table of measured perplexities: sorted by any column, comments written in place.

import { askInPlace, h, iconButton, number } from "./dom.js";
import { address, report, request } from "./page.js";

const SORT_KEY = "paddock.perplexity.sort";
const adapters = (row) => row.adapters.map((adapter) => `${adapter.name} × ${adapter.scale}`).join(", ");
export const places = (value) => (value >= 1e5 ? value.toExponential(2) : Number(value.toPrecision(value >= 100 ? 5 : 4)).toLocaleString("en-US", { maximumFractionDigits: 3 }));
/** A name that may be broken where its parts end. */
const breakable = (name) => name.split(/(?<=[/_.-])/).flatMap((part) => [part, h("wbr")]).slice(0, -1);
// Name, what it is sorted by, whether it is a number
const COLUMNS = [
  ["Model, adapters", (row) => `${row.model} ${adapters(row)}`], ["Text", (row) => row.text], ["Perplexity", (row) => row.perplexity, true], ["Bits/byte", (row) => row.bits_per_byte, true],
  ["Window", (row) => row.window, true], ["Stride", (row) => row.stride, true], ["Date", (row) => row.created_s], ["Comment", (row) => row.comment],
];

export class PerplexityTable {
  /** `onChange` is called after a row was changed or deleted. */
  constructor(onChange) {
    const [name, down] = JSON.parse(sessionStorage.getItem(SORT_KEY) ?? '["Date", true]');
    Object.assign(this, { onChange, rows: [], marked: new Set(), name, down, drawn: "" });
    this.head = h("tr");
    this.body = h("tbody");
    this.empty = h("p", { class: "model-note", text: "Nothing was measured yet." });
    this.scroll = h("div", { class: "ppl-table", tabindex: "0", role: "region", "aria-label": "Measured perplexities" }, h("table", {}, h("thead", {}, this.head), this.body));
    this.order = h("select", { on: { change: () => this.sort(...JSON.parse(this.order.value)) } },
      ...COLUMNS.map(([title, , isNumber]) => h("option", { value: JSON.stringify([title, title === "Date"]), text: title === "Date" ? "newest first" : isNumber ? `${title}, lowest first` : title })));
    this.download = h("a", { class: "small-button", text: "Download as CSV", download: "perplexity.csv", href: address("ui/perplexity/table.csv").href });
    this.element = h("section", { class: "ppl-results", "aria-label": "Results" },
      h("div", { class: "ppl-head" }, h("h3", { text: "Results" }), h("label", { class: "ppl-sort" }, "Sort by", this.order), this.download), this.empty, this.scroll);
    this.show([]);
  }

  show(rows) {
    this.rows = rows;
    this.draw();
  }

  /** Make rows stand out. */
  mark(ids) {
    this.marked = new Set(ids);
    this.draw();
  }

  sort(name, down = this.name === name && !this.down) {
    Object.assign(this, { name, down });
    sessionStorage.setItem(SORT_KEY, JSON.stringify([name, down]));
    this.draw();
  }

  draw() {
    const signature = JSON.stringify([this.rows, [...this.marked], this.name, this.down]);
    if (signature === this.drawn || this.body.querySelector("input:focus, .ask, button:active")) return; // what is being written stays
    this.drawn = signature;
    const focused = this.scroll.contains(document.activeElement) ? document.activeElement.dataset.act : "";
    this.empty.hidden = this.rows.length > 0;
    this.scroll.hidden = this.download.hidden = this.order.parentElement.hidden = !this.rows.length;
    this.head.replaceChildren(...COLUMNS.map(([title, , isNumber]) => h("th", { scope: "col", class: isNumber ? "n" : "", "aria-sort": title === this.name ? (this.down ? "descending" : "ascending") : null },
      h("button", { type: "button", text: title, data: { act: `sort ${title}` }, on: { click: () => this.sort(title) } }))), h("th", { scope: "col" }, h("span", { class: "off-screen", text: "Delete" })));
    const [, by] = COLUMNS.find(([title]) => title === this.name) ?? COLUMNS[6];
    const compared = (one, other) => (typeof by(one) === "number" ? by(one) - by(other) : by(one).localeCompare(by(other))) * (this.down ? -1 : 1);
    this.body.replaceChildren(...[...this.rows].sort(compared).map((row) => this.row(row)));
    this.order.value = [...this.order.options].map((option) => option.value).find((value) => JSON.parse(value)[0] === this.name) ?? "";
    if (focused) this.scroll.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
  }

  row(row) {
    const cell = (label, text, more = {}) => h("td", { ...more, data: { label } }, ...(text === "" ? [] : breakable(text)));
    const when = new Date(row.created_s * 1000).toLocaleString("en-CA", { dateStyle: "short", timeStyle: "short", hourCycle: "h23" }).split(", ");
    const exact = `${row.perplexity} ± ${row.deviation.toPrecision(2)}, over ${number(row.tokens)} tokens and ${number(row.bytes)} bytes, in ${row.seconds.toFixed(1)} s`;
    const options = Object.entries(row.options).map(([name, value]) => `${name} ${value}`).join(", ");
    const remove = iconButton("trash", `Delete the row of ${row.model}`, () => this.remove(row, remove), { "data-act": `delete ${row.id}` });
    return h("tr", { class: this.marked.has(row.id) ? "fresh" : "", data: { id: row.id } },
      h("th", { scope: "row", title: row.notes.join(" ") }, ...breakable(row.model), row.adapters.length ? h("small", {}, ...breakable(`+ ${adapters(row)}`)) : null, options ? h("small", {}, ...breakable(options)) : null),
      cell("Text", row.text, { class: "wide text", title: `SHA-256 ${row.text_sha256}` }),
      h("td", { class: "n", title: exact, data: { label: "Perplexity" } }, places(row.perplexity), h("small", { text: `± ${places(Number(row.deviation.toPrecision(2)))}` })),
      cell("Bits/byte", row.bits_per_byte.toFixed(4), { class: "n" }), cell("Window", number(row.window), { class: "n" }), cell("Stride", number(row.stride), { class: "n" }),
      h("td", { class: "date", data: { label: "Date" } }, when[0], " ", h("small", { text: when[1] })),
      h("td", { class: "wide" }, this.comment(row)), h("td", { class: "tools" }, remove));
  }

  comment(row) {
    const box = h("input", { type: "text", maxlength: "500", value: row.comment, placeholder: "Comment", autocomplete: "off", "aria-label": `Comment on ${row.model}`, data: { act: `comment ${row.id}` } });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); event.preventDefault(); box.value = row.comment; }
      if (event.key === "Enter" || event.key === "Escape") box.blur();
    });
    box.addEventListener("blur", async () => {
      if (box.value === row.comment) { this.draw(); return; }
      try { await request("POST", `ui/perplexity/rows/${row.id}/comment`, { text: box.value }); } catch (error) { report(error); }
      this.onChange();
    });
    return box;
  }

  async remove(row, control) {
    if (!(await askInPlace(control, "Delete this row?", "Delete"))) return;
    try { await request("DELETE", `ui/perplexity/rows/${row.id}`); } catch (error) { report(error); }
    this.onChange();
  }
}
