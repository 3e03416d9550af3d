// What can be done with a model or an adapter as a file: a small menu, and the forms that open in its row.

import { askInPlace, copyText, h } from "./dom.js";
import { state } from "./page.js";

/** The menu of a row. `open` opens a form in it; `more` are further items, as [text, what it does]. */
export function modelMenu(name, library, open, more = []) {
  const item = (text, act) => h("button", { type: "button", class: "menu-item", text, on: { click: () => { close(); act(); } } });
  const items = h("div", { class: "menu", role: "group", "aria-label": `More for ${name}` });
  const pinned = () => Boolean(state.models.models.find((model) => model.name === name)?.pinned);
  const fill = () => items.replaceChildren(...[
    ...more.map(([text, act]) => item(text, act)),
    library.of(name)?.rename_part ? item("Rename", () => open(renameForm)) : null,
    item("Note", () => open(noteForm)),
    library.hasPins ? item(pinned() ? "Unpin" : "Pin", () => library.act(name, "pin", { pinned: !pinned() })) : null,
    item("Verify", () => library.verify(name)),
    item("Open folder", () => library.openFolder(name)),
    library.of(name)?.repo ? item("Check for an update", () => library.checkUpdate(name)) : null,
    library.of(name)?.read_only ? h("p", { class: "model-note", text: library.of(name).read_only }) : item("Delete", () => remove()),
  ].filter(Boolean));
  const summary = h("summary", { class: "small-button", "aria-label": `More for ${name}`, text: "More", on: { click: async () => {
    fill();
    if (library.of(name)) return;
    await library.refresh(); // what is known of a model comes after its row
    if (!items.contains(document.activeElement)) fill();
  } } });
  const menu = h("details", { class: "more-menu" }, summary, items);
  const close = () => { menu.open = false; };
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    event.preventDefault();
    event.stopPropagation();
    close();
    summary.focus();
  });
  menu.addEventListener("focusout", (event) => { if (event.relatedTarget && !menu.contains(event.relatedTarget)) close(); });
  menu.addEventListener("toggle", () => {
    const outside = (event) => { if (!menu.contains(event.target)) { close(); document.removeEventListener("pointerdown", outside); } };
    if (menu.open) document.addEventListener("pointerdown", outside);
  });
  async function remove() {
    const others = library.of(name)?.deletes ?? [];
    const question = others.length ? `Put ${name} with all of its folder into the bin, also ${others.join(", ")}?` : `Put ${name} into the bin?`;
    if (await askInPlace(menu.parentElement, question, "Delete")) await library.act(name, "delete");
    library.onChange();
  }
  return menu;
}

/** What was found out about something and stays in its row until it is dismissed. */
export function updateNews(name, library) {
  const news = [placeNews(name, library), hubNews(name, library)].filter(Boolean);
  return news.length ? h("div", {}, ...news) : null;
}

/** Where it lies, to be copied: on another machine no folder can be opened. */
function placeNews(name, library) {
  const folder = library.places.get(name);
  if (!folder) return null;
  return h("div", { class: "model-news", role: "status" }, h("span", {}, "It lies in ", h("code", { text: folder })),
    h("button", { type: "button", class: "small-button", text: "Copy", on: { click: () => copyText(folder) } }),
    h("button", { type: "button", class: "small-button", text: "Dismiss", on: { click: () => library.tellPlace(name, "") } }));
}

/** What a look at the hub found, with the choice to have both versions. */
function hubNews(name, library) {
  const update = library.updates.get(name);
  if (!update) return null;
  if (update.asking) return h("p", { class: "model-note", role: "status", text: "Asking the hub…" });
  const hide = h("button", { type: "button", class: "small-button", text: "Dismiss", on: { click: () => library.forgetUpdate(name) } });
  const changed = [...update.changed, ...update.removed.map((file) => `${file} (removed)`)];
  const sentence = !update.commit ? "This is the newest version."
    : !changed.length ? `${update.repo} has a newer commit, but the files of this model are the same.`
      : `${update.repo} has a newer commit, ${update.commit.slice(0, 12)}: these files changed: ${changed.slice(0, 10).join(", ")}${changed.length > 10 ? ` and ${changed.length - 10} more` : ""}.`;
  const both = update.changed.length ? h("button", { type: "button", class: "small-button primary", text: "Download beside this one", on: { click: () => library.downloadUpdate(name, update) } }) : null;
  return h("div", { class: "model-news", role: "status" }, h("span", { text: sentence }), both, hide);
}

function renameForm(name, library, close) {
  const input = h("input", { type: "text", "aria-label": `New name of ${name}`, maxlength: "100", autocomplete: "off", spellcheck: "false" });
  input.value = library.of(name)?.rename_part ?? "";
  return form(name, input, "Rename", close, async () => Boolean(await library.act(name, "rename", { new_name: input.value })), library);
}

function noteForm(name, library, close) {
  const input = h("textarea", { "aria-label": `Note about ${name}`, maxlength: "2000", rows: "3", placeholder: "What it is good for" });
  input.value = library.of(name)?.note ?? "";
  return form(name, input, "Keep", close, async () => Boolean(await library.act(name, "note", { note: input.value })), library);
}

function form(name, input, verb, close, save, library) {
  const problem = h("p", { class: "model-note bad", role: "alert", hidden: true });
  const element = h("form", { class: "model-form" }, input,
    h("button", { type: "submit", class: "small-button primary", text: verb }), h("button", { type: "button", class: "small-button", text: "Cancel", on: { click: () => close() } }), problem);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await save()) { close(); return; }
    problem.textContent = library.said.get(name) ?? ""; // what was typed stays
    problem.hidden = false;
    library.said.delete(name);
  });
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); close(); }
  });
  return element;
}
