// Folders of other programs whose models are used where they lie: those in use, those found on this machine, and one to type.

import { askInPlace, h } from "./dom.js";
import { listen, refreshModels, request, state } from "./page.js";

export class ModelFolders {
  constructor() {
    this.drawn = "";
    this.list = h("div", {});
    this.input = h("input", { type: "text", "aria-label": "Path of a folder with models", placeholder: "/path/to/models", autocomplete: "off", spellcheck: "false", maxlength: "4000" });
    this.problem = h("p", { class: "model-note bad", role: "alert", hidden: true });
    const form = h("form", { class: "model-form" }, this.input, h("button", { type: "submit", class: "small-button", text: "Add folder" }), this.problem);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await this.act("add", { path: this.input.value })) this.input.value = "";
    });
    this.element = h("section", { class: "model-folders", "aria-label": "Models of other programs" },
      h("header", { class: "list-head" }, h("h2", { text: "Models of other programs" })),
      h("p", { class: "model-note", text: "Used where they lie, beside your own: the cache of the Hugging Face client, LM Studio, Ollama, or any folder of this machine. Nothing is ever written there." }),
      this.list, form);
    listen("area", (area) => { if (area === "models") this.refresh(); });
    if (state.area === "models") this.refresh();
  }

  async refresh() {
    let rows;
    try { ({ rows } = await request("GET", "ui/model-folders")); } catch { return; } // the chat's own banner tells that the server is away
    const signature = JSON.stringify(rows);
    if (signature === this.drawn || this.list.querySelector(".ask")) return;
    this.drawn = signature;
    this.list.replaceChildren(...rows.map((row) => this.row(row)));
  }

  row(row) {
    const tools = h("div", { class: "model-tools" });
    const button = (text, act) => tools.append(h("button", { type: "button", class: "small-button", text, "aria-label": `${text}: ${row.path}`, on: { click: act } }));
    if (!row.tag) button("Use its models", () => this.act("add", { path: row.path }));
    else if (!row.is_setting) button("Remove", async () => {
      if (await askInPlace(tools, "Take this folder out of the list? Its files stay.", "Remove")) await this.act("remove", { tag: row.tag });
    });
    const facts = row.tag ? `names begin with ${row.tag}:${row.is_setting ? " · from the settings" : ""}` : "found on this machine, not in use";
    return h("div", { class: "bin-row", data: { path: row.path } },
      h("div", { class: "model-about" }, h("strong", { text: `${row.title} — ${row.path}` }),
        h("p", { class: "model-note", text: facts }), row.problem ? h("p", { class: "model-note bad", text: row.problem }) : null), tools);
  }

  async act(verb, body) {
    this.problem.hidden = true;
    try {
      await request("POST", `ui/model-folders/${verb}`, body);
    } catch (error) {
      this.problem.textContent = error.message;
      this.problem.hidden = false;
      return false;
    }
    await Promise.all([this.refresh(), refreshModels()]);
    return true;
  }
}
