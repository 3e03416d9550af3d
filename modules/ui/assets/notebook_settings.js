// How a notebook is written on: kept with it on the server. What a browser of before kept is taken over once.

import { emit, report, request } from "./page.js";
import { withEdits } from "./settings_edits.js";

const BEFORE_KEY = "paddock.notebook.settings";
const KEY = "notebook/"; // then the id: whose settings they are, in the drawer
const DEFAULTS = Object.freeze({ preset: "Balanced", params: Object.freeze({ max_tokens: 256 }) });

export class NotebookSettings {
  /** `current()` is the open notebook's id. */
  constructor(current) {
    this.current = current;
    this.values = structuredClone(DEFAULTS);
    this.edits = 0;
    this.of = ""; // which notebook's they are
    this.otherTabs = new BroadcastChannel("paddock.notebook-settings");
    this.otherTabs.addEventListener("message", ({ data: { id, values } }) => {
      if (id !== this.current()) return;
      this.values = values;
      this.tell();
    });
  }

  /** As the server has them. */
  show(values) {
    const id = this.current();
    if (this.saving && id === this.of) return; // what is being saved is newer
    this.of = id;
    const before = localStorage.getItem(BEFORE_KEY);
    if (before) localStorage.removeItem(BEFORE_KEY);
    this.values = Object.keys(values).length ? values : structuredClone(DEFAULTS);
    if (before && !Object.keys(values).length) this.edit(parsed(before));
    this.tell();
  }

  /** Tell the settings drawer. */
  tell() {
    emit("settings", { scope: "notebook", key: KEY + this.current(), settings: this.values });
  }

  /** Settings that are replaced, or edits of single entries (settings_edits.js); `key` is whose they are, which may not be open any more. `leaving`: the page goes. */
  async edit(settings, edits = { settings }, key = KEY + this.current(), { leaving = false } = {}) {
    const edit = this.edits += 1;
    const id = key.slice(KEY.length);
    const before = this.values;
    if (id === this.current()) {
      this.values = withEdits(this.values, edits);
      this.otherTabs.postMessage({ id, values: this.values });
    }
    const save = async () => {
      const answer = await request("PATCH", "ui/notebook/settings", { id, ...edits, at_first: DEFAULTS }, { keepalive: leaving });
      emit("settings-saved", { key });
      return answer.settings;
    };
    const saving = (leaving ? save() : (this.saving ?? Promise.resolve()).then(save)).catch((error) => {
      if (edit === this.edits && id === this.current()) this.values = before; // nothing is written with what was refused
      emit("settings-saved", { key, problem: error.message });
      report(error);
    });
    this.saving = saving;
    const stored = await saving;
    if (edit !== this.edits) return;
    this.saving = null;
    if (stored && id === this.current()) this.show(stored); // with what another browser edited
  }
}

function parsed(text) {
  try { return JSON.parse(text) ?? {}; } catch { return {}; }
}
