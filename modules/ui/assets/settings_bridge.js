// Between the settings drawer (stock components) and the views. It is told whose settings are open and hands edits to their owner: only what
// was edited, so that what another window or view stored meanwhile stays.

import { h } from "./dom.js";
import { emit, listen, loadedModel, state, toggleDrawer } from "./page.js";
import { followModel } from "./preset_follow.js";
import { asText, editsBetween, withEdits } from "./settings_edits.js";
import { SettingsTyped } from "./settings_typed.js";

const ECHO_MS = 3000;
const TYPED_MS = 400; // after the last key; what was typed is stored within a second also while typing goes on
const TYPED_LATEST_MS = 800;
const LOOK_MS = 500; // after an edit: of edits in quick succession the answers may come in another order, and what the form holds then is what counts
const FORMS_KEPT = 8; // an answer about an earlier form may still come
const TYPED_IN = '#drawer textarea, #drawer input[type="text"]';

let acting = []; // the samplers that take part with the values shown
let apart = {}; // of the parameters whose value is not neutral: the neutral one

export function actingSamplers() {
  return acting;
}

export function apartFromNeutral() {
  return apart;
}

class SettingsBridge {
  constructor(element, { props, watch, trigger }) {
    Object.assign(this, { props, trigger, shown: "", model: "", answered: 0, asked: 0, drawn: false, isFilled: false, waits: false });
    this.known = new Map(); // scope → {key, settings} as last shown by a view or edited here
    this.forms = new Map(); // number of a showing → {key, settings, read}: what it shows, and how the form was last read
    this.edited = { key: "", at: 0 };
    this.late = new Map(); // scope → what came while something was edited here
    this.typed = new SettingsTyped(); // what is not stored yet
    this.saved = h("span", { class: "settings-saved", role: "status" });
    watch("value", () => { if (props.value) this.heard(JSON.parse(props.value)); });
    this.follow();
    if (state.conversation) this.news({ scope: "chat", key: state.conversation.id, settings: state.conversation.settings });
    element.replaceChildren(h("h2", { text: "Settings" }), this.saved, h("button", { type: "button", class: "drawer-close", text: "Done", on: { click: () => toggleDrawer(false) } }));
    element.removeAttribute("aria-busy");
  }

  follow() {
    listen("settings", (told) => this.news(told));
    listen("settings-edited", (told) => this.otherEdit(told));
    listen("settings-saved", ({ key, problem }) => this.tell(key, problem ? "Not saved" : "Saved"));
    listen("drawer-opened", () => { this.knowAgain(); if (this.isFilled) this.show(); else this.showAgain(); });
    listen("drawer-meant", () => this.draw());
    listen("settings-part-drawn", () => { this.drawn = true; this.knowAgain(); this.show(); });
    listen("area", () => this.show());
    listen("model", () => {
      const present = JSON.stringify([loadedModel(), state.models?.loaded?.[0]?.template]);
      if (present === this.model) return;
      this.model = present; // what is said of presets and offered of its template is about the model
      this.showAgain();
    });
    listen("templates-changed", () => this.showAgain());
    followModel();
    document.addEventListener("input", ({ target }) => { if (target.matches?.(TYPED_IN)) this.isTyped(target); }, { capture: true });
    document.addEventListener("focusout", ({ target }) => { if (target.closest?.("#system-prompt")) this.keepTyped(); }, { capture: true });
    window.addEventListener("pagehide", () => this.keepTyped({ leaving: true }));
  }

  get scope() { return state.area === "notebook" ? "notebook" : "chat"; }

  /** Ask the form to show what is open. */
  show() {
    this.keepTyped();
    const current = this.known.get(this.scope);
    if (!current || !document.body.classList.contains("drawer-open")) return;
    if (!this.drawn) { this.draw(); return; } // it comes back here
    const wanted = identity(current);
    this.waits = false;
    if (wanted === this.shown) return;
    if (this.typed.isWaiting && this.forms.get(this.answered)?.key === current.key) {
      this.waits = true; // until what was typed is read; what cannot be read stays in its box
      this.read();
      return;
    }
    this.keepTyped({ leaving: true });
    if (this.forms.get(this.asked)?.key !== current.key) this.saved.textContent = "";
    this.shown = wanted;
    this.asked += 1;
    this.forms.set(this.asked, { ...current, read: null });
    this.forms.delete(this.asked - FORMS_KEPT);
    this.trigger("show", { ...current, asked: this.asked });
  }

  /** Have the form drawn, which is not done before somebody wants it. */
  draw() {
    if (!this.drawn) this.trigger("draw", {});
  }

  /** The same settings, where what can be chosen is another by now. */
  showAgain() {
    this.shown = "";
    this.show();
  }

  // ---- what others say

  /** As the server has them. The echo of an edit may be older than what is typed now, so it waits. */
  news({ scope, key, settings }) {
    if (this.edited.key === key && Date.now() - this.edited.at < ECHO_MS) {
      this.late.set(scope, { key, settings });
      this.lookLater();
      return;
    }
    this.late.delete(scope);
    this.know(scope, key, settings);
    this.show();
  }

  /** For those who show them too, in the drawer. */
  know(scope, key, settings) {
    this.known.set(scope, { key, settings });
    emit("settings-known", { scope, key, settings });
  }

  /** Views that were drawn later than the first news came. */
  knowAgain() {
    for (const [scope, { key, settings }] of [...this.known]) this.know(scope, key, settings);
  }

  lookLater() {
    clearTimeout(this.lateTimer);
    this.lateTimer = setTimeout(() => {
      for (const [scope, { key, settings }] of [...this.late]) {
        if (this.known.get(scope)?.key === key) this.news({ scope, key, settings });
        else this.late.delete(scope);
      }
    }, Math.max(0, this.edited.at + ECHO_MS - Date.now()));
  }

  /** Edited by another view: shown at once. By this one: nothing new, and what nobody has checked (`leaving`) comes back from the server. */
  otherEdit({ scope, key, settings, leaving }) {
    const current = this.known.get(scope);
    if (current?.key !== key || leaving) return;
    this.edited = { key, at: Date.now() };
    this.know(scope, key, { ...current.settings, ...settings });
    this.show();
  }

  // ---- what the form says

  heard({ key, asked, acting: names, apart: neutral, shown, settings }) {
    const form = this.forms.get(asked);
    if (form && shown) form.read = shown;
    if (shown && asked < this.answered) { this.showAgain(); return; } // an older answer came later and stands in the form now
    if (shown) {
      this.answered = asked;
      this.typed.keepOnly(form); // another one's boxes hold something else now
      this.isFilled = true;
      document.querySelector("#drawer")?.setAttribute("data-filled", ""); // before, it shows values that are nobody's
    }
    if (names) {
      [acting, apart] = [names, neutral];
      emit("samplers-acting");
    }
    if (!settings || !form?.read) return;
    if (settings.params) this.typed.areRead(form); // else one of them cannot be read
    const edits = editsBetween(form.read, settings);
    form.read = { ...form.read, ...settings };
    if (edits) {
      clearTimeout(this.looking);
      this.looking = setTimeout(() => this.read(), LOOK_MS);
      if (form.key === key) this.edit(form, edits);
    }
    if (this.waits && !this.typed.isWaiting) this.show();
  }

  /** Something was edited in a form: told with the whole of what is known, stored as the edits alone. */
  edit(form, edits, leaving = false) {
    const { key } = form;
    const scope = key.startsWith("notebook/") ? "notebook" : "chat";
    const isShown = identity(form) === this.shown;
    const isOpen = this.known.get(scope)?.key === key;
    const settings = withEdits(isOpen ? this.known.get(scope).settings : form.settings, edits);
    form.settings = withEdits(form.settings, edits);
    if (isShown) this.shown = identity(form);
    this.edited = { key, at: Date.now() };
    this.tell(key, "Saving…");
    emit("settings-edited", { scope, key, settings, edits, leaving });
  }

  tell(key, words) {
    if (this.known.get(this.scope)?.key === key) this.saved.textContent = words;
  }

  // ---- what is typed

  /** The form is read when typing pauses; the system prompt goes without it, so that it is stored also when the page goes. */
  isTyped(box) {
    const form = this.forms.get(this.answered);
    if (!form) return;
    this.edited = { key: form.key, at: Date.now() };
    this.typed.note(form, box);
    this.typedSince ??= Date.now();
    clearTimeout(this.typedTimer);
    const wait = Math.min(TYPED_MS, Math.max(0, this.typedSince + TYPED_LATEST_MS - Date.now()));
    this.typedTimer = setTimeout(() => {
      this.typedSince = null;
      this.keepTyped();
      if (!box.closest("#system-prompt")) this.read();
    }, wait);
  }

  /** Have the form read. */
  read() {
    this.typed.areAsked();
    this.trigger("typed", {});
  }

  /** Store the system prompt that was typed; where page or form go (`leaving`) parameters too, which otherwise come when it is read. */
  keepTyped({ leaving = false } = {}) {
    for (const [form, edits] of this.typed.take(leaving)) this.edit(form, edits, leaving);
  }
}

/** What tells whether the form shows this; adapters have a view of their own. */
function identity({ key, settings: { adapters, ...shownHere } }) {
  return asText([key, shownHere]);
}

export function mount(element, component) {
  return new SettingsBridge(element, component);
}
