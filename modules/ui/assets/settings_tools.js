// Above the parameters of the drawer: find one by a word, see what differs from the preset and take it back, and what from neutral, import a preset file.
// The form's own components are marked and hidden by rules of a style sheet, so that nothing of ours is put into them.

import { h, icon } from "./dom.js";
import { emit, listen, state, toast } from "./page.js";
import { apartFromNeutral } from "./settings_bridge.js";
import { button, later } from "./training_fields.js";

const NAME = /^[a-z][a-z0-9_]*$/;
const FILE_LIMIT = 200000;
const MOST_TRIES = 50;
const STEPS_MS = 60; // until an opened group has drawn its fields

export function mount(element, { trigger }) {
  const known = new Map(); // scope → settings
  const opened = new Set(); // groups that the search opened
  let reasons = new Map(); // parameter that does not reach the model → why
  let marked = new Map(); // parameter with a mark → what it means
  const scope = () => (state.area === "notebook" ? "notebook" : "chat");
  const rules = document.head.appendChild(h("style", { id: "settings-marks" }));
  const found = document.head.appendChild(h("style", { id: "settings-found" }));

  const search = h("input", { type: "search", id: "settings-search", placeholder: "Find a parameter", "aria-label": "Find a parameter", autocomplete: "off" });
  const none = h("p", { class: "settings-none", role: "status", hidden: true });
  const chips = h("div", { class: "settings-changes", role: "group", "aria-label": "Differs from the preset" });
  const legend = h("p", { class: "settings-legend", hidden: true, text: "● differs from the preset · ○ differs from neutral, so it does something" });
  const file = h("input", { type: "file", class: "off-screen", accept: ".yaml,.yml", "aria-label": "Preset file", tabindex: "-1" });
  const refusals = h("p", { class: "settings-refused", role: "status", hidden: true });
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    file.value = "";
    if (!chosen) return;
    if (chosen.size > FILE_LIMIT) { toast(`“${chosen.name}” has ${chosen.size.toLocaleString("en-US")} bytes; a preset has at most 200,000.`, "error"); return; }
    trigger("import_preset", { name: chosen.name, text: await chosen.text() });
  });
  element.replaceChildren(h("div", { class: "settings-tools" }, chips, legend, refusals,
    h("div", { class: "settings-row" }, search, button("Import a preset", () => file.click(), { id: "preset-import" }), file), none));
  element.removeAttribute("aria-busy");

  // ---- what differs

  function showChanges() {
    const params = known.get(scope())?.params ?? {};
    const names = Object.keys(params).filter((name) => NAME.test(name));
    const ignored = state.models?.loaded?.[0]?.ignores ?? {};
    const apart = Object.keys(apartFromNeutral()).filter((name) => NAME.test(name));
    const signature = JSON.stringify([params, ignored, apartFromNeutral()]);
    if (chips.dataset.drawn === signature) return;
    chips.dataset.drawn = signature;
    chips.hidden = !names.length;
    legend.hidden = !names.length && !apart.length;
    chips.replaceChildren(h("span", { class: "settings-label", text: "Differs from the preset:" }), ...names.map((name) => {
      const label = `${words(name)} ${short(params[name])}`;
      return h("button", { type: "button", class: "settings-chip", data: { name }, "aria-label": `Take ${words(name)} back to the preset`, title: "Back to the preset", on: { click: () => trigger("reset", { name }) } }, h("span", { text: label }), icon("undo"));
    }));
    const refused = Object.entries(ignored).filter(([name]) => NAME.test(name));
    refusals.hidden = !refused.length;
    refusals.textContent = refused.length ? `${[...new Set(refused.map(([, reason]) => reason))].join(" ")} Grey: ${refused.map(([name]) => words(name)).join(", ")}.` : "";
    rules.textContent = [
      ...[...new Set([...names, ...apart])].map((name) => `#drawer .field-${name} { --mark: " ${names.includes(name) ? "●" : ""}${apart.includes(name) ? "○" : ""}" / ""; }`),
      ...refused.map(([name]) => `#drawer .field-${name} { opacity: .45; cursor: not-allowed; } #drawer .field-${name} > * { pointer-events: none; }`),
    ].join("\n");
    reasons = new Map(refused);
    marked = new Map([...new Set([...names, ...apart])].map((name) => [name, markInWords(name, names.includes(name), apart.includes(name))]));
    for (const block of document.querySelectorAll("#drawer [class*='field-']")) describe(block);
  }

  /** A title says what a mark means. What does not reach the model cannot be changed by the keyboard either, and says why. */
  function describe(block) {
    const name = fieldOf(block);
    const title = reasons.get(name) ?? marked.get(name) ?? "";
    for (const part of block.children) if (part.inert !== reasons.has(name)) part.inert = reasons.has(name); // the block itself shows its title
    if (block.title === title) return;
    if (title) block.title = title;
    else block.removeAttribute("title");
  }

  for (const event of ["focusin", "pointerover"]) { // also of a group that was opened since
    document.addEventListener(event, ({ target }) => {
      const block = target.closest?.("#drawer [class*='field-']");
      if (block) describe(block);
    });
  }

  listen("settings-known", ({ scope: name, settings }) => { known.set(name, settings); showChanges(); });
  listen("samplers-acting", showChanges);
  listen("area", showChanges);
  listen("model", showChanges);
  listen("drawer-opened", () => { chips.dataset.drawn = ""; showChanges(); });

  // ---- search

  function openGroups(wanted) {
    for (const group of document.querySelectorAll("#drawer .settings-group")) {
      const head = group.querySelector("button.label-wrap");
      if (!head) continue;
      const isOpen = head.classList.contains("open");
      if (wanted && !isOpen) { opened.add(group); head.click(); }
      if (!wanted && isOpen && opened.has(group)) head.click();
    }
    if (!wanted) opened.clear();
  }

  function find() {
    const parts = asked();
    openGroups(parts.length > 0);
    if (!parts.length) { found.textContent = ""; none.hidden = true; return; }
    setTimeout(() => look(parts), STEPS_MS);
  }

  function asked() {
    return search.value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  /** Hide what is not meant; a part that draws itself is looked at again once it has. */
  function look(parts, tries = 0) {
    if (asked().join() !== parts.join()) return;
    if (tries < MOST_TRIES && document.querySelector("#drawer .settings-group [aria-busy='true']")) setTimeout(() => look(parts, tries + 1), STEPS_MS);
    const blocks = [...document.querySelectorAll("#drawer .settings-group [class*='field-']")];
    const hits = new Set(blocks.filter((block) => { const text = `${fieldOf(block).replaceAll("_", " ")} ${block.textContent}`.toLowerCase(); return parts.every((part) => text.includes(part)); }).map(fieldOf));
    const shown = [...hits].map((name) => `.field-${name}`).join(", ");
    found.textContent = hits.size
      ? `#drawer .settings-group [class*="field-"]:not(${shown}), #drawer .settings-group:not(:has(${shown})) { display: none !important; }`
      : "#drawer .settings-group { display: none !important; }";
    none.hidden = hits.size > 0;
    none.textContent = hits.size ? "" : `No parameter is about “${search.value.trim()}”.`;
  }
  search.addEventListener("input", later(find, 120));
  search.addEventListener("keydown", (event) => { if (event.key === "Escape" && search.value) { event.stopPropagation(); search.value = ""; find(); } });
  emit("settings-part-drawn");
}

function fieldOf(block) {
  return [...block.classList].find((name) => name.startsWith("field-"))?.slice(6) ?? "";
}

function words(name) {
  const text = name.replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}

function markInWords(name, fromPreset, fromNeutral) {
  const neutral = apartFromNeutral()[name];
  const value = neutral === "" || neutral === null || (Array.isArray(neutral) && !neutral.length) ? "empty" : neutral === false ? "off" : short(neutral ?? "");
  return [fromPreset && "Differs from the preset.", fromNeutral && `Differs from neutral, which is ${value}.`].filter(Boolean).join(" ");
}

function short(value) {
  const text = typeof value === "string" ? value : Array.isArray(value) ? value.join(", ") : JSON.stringify(value);
  return text.length > 24 ? `${text.slice(0, 24)}…` : text;
}
