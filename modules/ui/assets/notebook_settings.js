// How a notebook is written on: kept with it on the server. What a browser of before kept is taken over once.

import { emit, report, request } from "./page.js";
import { withEdits } from "./settings_edits.js";

const BEFORE_KEY = "paddock.notebook.settings";
const DEFAULTS = Object.freeze({ preset: "Balanced", params: Object.freeze({ max_tokens: 256 }) });

export class NotebookSettings {
  /** `current()` is the open notebook's id. */
  constructor(current) {
    this.current = current;
    this.values = structuredClone(DEFAULTS);
    this.edits = 0;
    this.otherTabs = new BroadcastChannel("paddock.notebook-settings");
    this.otherTabs.addEventListener("message", ({ data: { id, values } }) => {
      if (id !== this.current()) return;
      this.values = values;
      this.tell();
    });
  }

  /** As the server has them. */
  show(values) {
    if (this.saving) return; // what is being saved is newer
    const before = localStorage.getItem(BEFORE_KEY);
    if (before) localStorage.removeItem(BEFORE_KEY);
    this.values = Object.keys(values).length ? values : structuredClone(DEFAULTS);
    if (before && !Object.keys(values).length) this.edit(parsed(before));
    this.tell();
  }

  /** Tell the settings drawer. */
  tell() {
    emit("settings", { scope: "notebook", key: "notebook", settings: this.values });
  }

  /** Settings that are replaced, or edits of single entries (settings_edits.js). */
  async edit(settings, edits = { settings }) {
    this.values = withEdits(this.values, edits);
    const edit = this.edits += 1;
    const id = this.current();
    this.otherTabs.postMessage({ id, values: this.values });
    const save = () => request("PUT", "ui/notebook/settings", { id, settings: this.values }).then(() => emit("settings-saved", { key: "notebook" }));
    this.saving = (this.saving ?? Promise.resolve()).then(save).catch((error) => { emit("settings-saved", { key: "notebook", problem: error.message }); report(error); });
    await this.saving;
    if (edit === this.edits) this.saving = null;
  }
}

function parsed(text) {
  try { return JSON.parse(text) ?? {}; } catch { return {}; }
}
