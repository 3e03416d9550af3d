// Conversations as files: moving in from other programs with a report of what became of them, and taking one along in several forms.

import { openDialog } from "./dialog.js";
import { h, iconButton, plural } from "./dom.js";
import { RequestError, address, emit, openConversation } from "./page.js";

const FORMS = [
  ["json", "Paddock (JSON)", "with all versions, receipts and files"],
  ["markdown", "Markdown", "to read"],
  ["openai", "OpenAI messages (JSONL)", "to train or test with"],
  ["sharegpt", "ShareGPT (JSON)", "to train with"],
];
const SOURCES = "Files of Paddock, ChatGPT and Claude (also the archive as it came), SillyTavern and text-generation-webui, OpenAI messages, ShareGPT, chats in Markdown";

/** The button that imports. Files that are dropped on the sidebar are taken as well. */
export function importButton() {
  const input = h("input", { type: "file", accept: ".json,.jsonl,.zip,.md,.markdown,.txt,application/json,application/zip,text/markdown,text/plain", multiple: true, hidden: true, "aria-label": "Files of conversations" });
  input.addEventListener("change", () => { importFiles([...input.files]); input.value = ""; });
  const button = iconButton("download", "Import conversations", () => input.click(), { class: "icon-button import-button", title: `Import conversations: ${SOURCES}` });
  watchDrops();
  return h("span", { class: "import" }, button, input);
}

function watchDrops() {
  const side = document.querySelector("#side");
  if (!side || side.dataset.takesFiles) return;
  side.dataset.takesFiles = "yes";
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  side.addEventListener("dragover", (event) => { if (holdsFiles(event)) { event.preventDefault(); side.classList.add("taking"); } });
  side.addEventListener("dragleave", (event) => { if (!side.contains(event.relatedTarget)) side.classList.remove("taking"); });
  side.addEventListener("drop", (event) => {
    side.classList.remove("taking");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    importFiles([...event.dataTransfer.files]);
  });
}

/** Bring files in one after the other and say what became of each. */
export async function importFiles(files) {
  if (!files.length) return;
  const stop = new AbortController();
  const told = h("div", { class: "import-report", role: "status" });
  const dialog = openDialog("Import conversations", [told]);
  dialog.addEventListener("close", () => stop.abort());
  const opened = [];
  for (const file of files) {
    if (stop.signal.aborted) return;
    const line = h("p", { class: "import-reading" }, h("span", { text: `Reading ${file.name}…` }), h("progress"));
    told.append(line);
    try {
      const report = await sendFile(file, stop.signal);
      line.replaceWith(...reportParts(file.name, report));
      opened.push(...report.conversations);
    } catch (error) {
      if (stop.signal.aborted) return;
      line.replaceWith(h("p", { class: "import-problem", text: error.message }));
    }
    emit("conversations-changed");
  }
  if (opened.length) {
    const open = h("button", { type: "button", class: "small-button primary", text: opened.length === 1 ? "Open it" : "Open the first", on: { click: () => { dialog.close(); openConversation(opened[0].id); } } });
    dialog.append(h("div", { class: "sheet-buttons" }, open));
    open.focus();
  }
}

async function sendFile(file, signal) {
  let response;
  try {
    response = await fetch(address(`ui/conversations/import-file?name=${encodeURIComponent(file.name.slice(0, 200))}`), { method: "POST", body: file, signal });
  } catch {
    throw new RequestError(`${file.name} could not be sent. Check that Paddock is still running and that the file can be read, then choose it again.`, "Unreachable", 0, {});
  }
  const data = await response.json().catch(() => ({}));
  if (response.ok) return data;
  throw new RequestError(data.error?.message ?? `The server answered ${response.status}. Try again.`, data.error?.type ?? "", response.status, {});
}

/** "41 conversations imported from ChatGPT, 2 refused", and which and why. */
function reportParts(name, { imported, empty, refused, formats, conversations, refusals }) {
  const from = formats.length ? ` from ${formats.join(", ")}` : "";
  const sentence = [`${plural(imported, "conversation")} imported${from}`, refused ? `${refused} refused` : "", empty ? `${empty} without a message left out` : ""].filter(Boolean).join(", ");
  const parts = [h("p", {}, h("strong", { text: name }), h("span", { text: `: ${sentence}.` }))];
  if (conversations.length > 1) {
    const rest = imported - conversations.length;
    const items = [...conversations.map((row) => row.title), ...(rest > 0 ? [`and ${rest} more`] : [])];
    parts.push(h("details", {}, h("summary", { text: "Which ones" }), h("ul", {}, ...items.map((text) => h("li", { text })))));
  }
  if (refusals.length) {
    const rest = refused - refusals.length;
    const items = [...refusals.map((row) => h("li", { text: row.reason })), ...(rest > 0 ? [h("li", { text: `and ${rest} more` })] : [])];
    parts.push(h("ul", { class: "import-refused", "aria-label": "Refused" }, ...items));
  }
  return parts;
}

/** The button of a conversation in the list that opens the forms to take it along in. */
export function exportMenu(row) {
  const items = FORMS.map(([form, title, what]) => h("a", {
    class: "menu-item", role: "menuitem", href: address(`ui/conversations/${row.id}/export?form=${form}`), download: "", "aria-label": `Export as ${title}`, on: { click: () => menu.hidePopover() },
  }, h("span", { text: title }), h("small", { text: what })));
  const menu = h("div", { class: "export-menu", popover: "auto", role: "menu", "aria-label": "Forms to take it along in" }, ...items);
  const button = iconButton("download", "Export", () => { document.body.append(menu); menu.showPopover(); }, { "aria-haspopup": "menu" });
  menu.addEventListener("toggle", (event) => {
    if (event.newState !== "open") {
      if (document.activeElement === document.body || menu.contains(document.activeElement)) {
        button.closest("li")?.querySelector(".title")?.focus(); // first: only with the focus inside is the button shown
        button.focus();
      }
      menu.remove();
      return;
    }
    const place = button.getBoundingClientRect();
    menu.style.left = `${Math.min(place.left, innerWidth - menu.offsetWidth - 8)}px`;
    menu.style.top = `${Math.min(place.bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
    items[0].focus();
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.stopPropagation(); // it closes the menu and stops no reply
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
  });
  return h("span", { class: "export" }, button); // the menu lies in the page: the row's buttons go when the pointer leaves the row
}
