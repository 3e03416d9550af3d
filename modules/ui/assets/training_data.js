// Step 1: the data. Uploaded, picked from the list, or made of one's own conversations; then how it is read.

import { askInPlace, h, iconButton, number, plural } from "./dom.js";
import { size } from "./job_list.js";
import { address, emit, listen, report, request, toast } from "./page.js";
import { ConversationSamples } from "./training_conversations.js";
import { change, draft } from "./training_draft.js";
import { DatasetFetch } from "./training_fetch.js";
import { button, problemBox, step } from "./training_fields.js";
import { DataMapping } from "./training_mapping.js";

const FORMATS = { messages: "Chat", sharegpt: "Chat (ShareGPT)", instruction: "Questions with answers", text: "Plain text", preference: "Preference pairs", feedback: "Answers marked good or bad" };
const KINDS = ".json,.jsonl,.csv,.parquet,.txt";

export class TrainingData {
  constructor() {
    this.rows = null;
    this.problem = problemBox();
    this.file = h("input", { type: "file", id: "training-upload", class: "off-screen", accept: KINDS, multiple: true, on: { change: () => this.upload([...this.file.files]) } });
    this.progress = h("div", { class: "train-upload", role: "status" });
    this.list = h("div", { class: "train-datasets", role: "radiogroup", "aria-label": "Data sets" });
    this.conversations = new ConversationSamples((name) => this.choose(name, true));
    this.mapping = new DataMapping();
    this.own = button("From my conversations", () => this.conversations.toggle(this.own), { "aria-expanded": "false" });
    this.fetch = new DatasetFetch((name, mine) => this.arrived(name, mine));
    this.hub = button("From the hub", () => this.fetch.toggle(this.hub), { "aria-expanded": "false" });
    this.drop = h("div", { class: "train-drop" },
      h("p", {}, h("label", { for: "training-upload", class: "small-button primary", text: "Upload a file" }), this.file, h("span", { class: "train-or", text: "or drop one here" }), this.own, this.hub),
      h("p", { class: "model-note", text: "JSON, JSONL, CSV, Parquet or plain text: chats, questions with answers, preference pairs, or texts. It stays on this machine." }), this.progress, this.fetch.element);
    this.dropHere();
    this.element = step(1, "Data", "", this.drop, this.problem.element, this.conversations.element, this.list, this.mapping.element);
    this.element.dataset.field = "dataset";
    listen("training-draft", ({ by, names }) => { if (by !== this && names.includes("dataset")) this.draw(); });
    listen("datasets-changed", () => this.refresh());
  }

  /** Look at the folder; also when another page or a person has put something there. */
  async refresh() {
    try { this.rows = (await request("GET", "ui/datasets")).datasets; } catch (error) { this.problem.say(error.message); return; }
    emit("training-datasets", this.rows);
    this.draw();
    this.fetch.follow();
  }

  draw() {
    if (!this.rows) return;
    const chosen = draft.dataset?.name ?? "";
    const gone = chosen && !this.rows.some((row) => row.name === chosen);
    if (!this.list.querySelector(".ask")) {
      const held = document.activeElement?.closest(".train-dataset") ? document.activeElement.dataset.act : "";
      this.list.replaceChildren(...(this.rows.length ? this.rows.map((row) => this.row(row, chosen)) : [h("p", { class: "side-note", text: "There is no data yet. Upload a file of examples, or let Paddock make one of your conversations." })]));
      if (held) this.list.querySelector(`[data-act="${CSS.escape(held)}"]`)?.focus();
    }
    this.problem.say(gone ? `The data set “${chosen}” is no longer in the folder. Choose another one, or upload it again.` : "");
    this.mapping.show(gone ? null : draft.dataset);
  }

  row(row, chosen) {
    const input = h("input", { type: "radio", name: "training-dataset", value: row.name, data: { act: `choose ${row.name}` }, on: { change: () => this.choose(row.name) } });
    input.checked = row.name === chosen;
    const facts = [FORMATS[row.format] ?? "", size(row.bytes), row.files > 1 ? plural(row.files, "file") : "", new Date(row.changed_s * 1000).toLocaleDateString("en-CA")];
    const element = h("div", { class: "train-dataset", data: { name: row.name } },
      h("label", {}, input, h("span", {}, h("strong", { text: row.name }), h("span", { class: "model-note", text: facts.filter(Boolean).join(" · ") }), row.problem ? h("span", { class: "model-note bad", text: row.problem }) : null)));
    const remove = iconButton("trash", `Delete ${row.name}`, () => this.remove(row, remove), { "data-act": `delete ${row.name}` });
    element.append(remove);
    return element;
  }

  /** Take a data set; how it is read is asked of the server unless it was chosen before. */
  async choose(name, fresh = false) {
    this.problem.say("");
    if (fresh) await this.refresh();
    if (draft.dataset?.name !== name || fresh) change({ dataset: { name, format: "", columns: {} } }, this);
    this.draw();
  }

  /** A file from the hub is there: a folder of one file is called like the folder. */
  async arrived(name, mine) {
    await this.refresh();
    const row = this.rows?.find((each) => each.name === name) ?? this.rows?.find((each) => each.name === name.split("/")[0]);
    toast(`${row?.name ?? name} is downloaded and verified.`);
    if (row && mine) await this.choose(row.name);
  }

  async remove(row, control) {
    if (!(await askInPlace(control, `Delete ${row.name}? Adapters that learned from it stay.`, "Delete"))) return;
    const chosen = draft.dataset?.name === row.name ? draft.dataset : null;
    if (chosen) change({ dataset: null }); // first: nothing may ask for it any more
    try {
      await request("POST", "ui/datasets/delete", { name: row.name });
    } catch (error) {
      if (chosen) change({ dataset: chosen });
      report(error);
    }
    await this.refresh();
  }

  // ---- upload

  dropHere() {
    const over = (is) => (event) => { event.preventDefault(); this.drop.classList.toggle("over", is); };
    for (const [name, is] of [["dragover", true], ["dragleave", false]]) this.drop.addEventListener(name, over(is));
    this.drop.addEventListener("drop", (event) => { over(false)(event); this.upload([...event.dataTransfer.files]); });
  }

  async upload(files) {
    let last = "";
    for (const file of files) {
      try { last = await this.send(file); } catch (error) { this.problem.say(`${file.name} was not uploaded. ${error.message}`); break; }
    }
    this.progress.replaceChildren();
    this.file.value = "";
    if (!last) return;
    toast(files.length > 1 ? `${number(files.length)} files are uploaded.` : `${last} is uploaded.`);
    await this.choose(last, true);
  }

  send(file) {
    const bar = h("progress", { max: "1", value: "0", "aria-label": `Upload of ${file.name}` });
    const words = h("span", { text: `${file.name}, 0 of ${size(file.size)}` });
    const sending = new XMLHttpRequest(); // fetch tells nothing of its progress
    this.progress.replaceChildren(words, bar, button("Cancel", () => sending.abort()));
    this.problem.say("");
    return new Promise((resolve, reject) => {
      sending.upload.addEventListener("progress", ({ loaded, total }) => { bar.value = total ? loaded / total : 0; words.textContent = `${file.name}, ${size(loaded)} of ${size(total)}`; });
      sending.addEventListener("load", () => {
        let data = {};
        try { data = JSON.parse(sending.responseText); } catch { /* the status says it */ }
        if (sending.status === 200) resolve(data.name);
        else reject(new Error(data.error?.message ?? `The server answered ${sending.status}. Try again.`));
      });
      sending.addEventListener("error", () => reject(new Error("The server does not answer, or the file changed meanwhile. Try again.")));
      sending.addEventListener("abort", () => reject(new Error("It was cancelled.")));
      sending.open("POST", address(`ui/datasets/upload?name=${encodeURIComponent(file.name)}`));
      sending.setRequestHeader("content-type", "application/octet-stream");
      sending.send(file);
    });
  }
}
