// Documents of a message: shown as chips, opened as the text that was read from them; and the pin that keeps a message in the prompt.

import { openDialog } from "./dialog.js";
import { copyText, flash, h, icon, iconButton, number } from "./dom.js";
import { report, request } from "./page.js";

const SHOWN_CHARACTERS = 200000;

/** What a person should know of a file, in few words. */
export function fileInWords(file) {
  return [file.kind === "text" || file.kind === "pasted text" ? "" : file.kind, file.note, `${number(file.characters)} characters`].filter(Boolean).join(" · ");
}

export async function openFile(id) {
  let file;
  try { file = await request("GET", `ui/files/${id}`); } catch (error) { report(error); return; }
  const copy = iconButton("copy", "Copy the text", async () => {
    try { await copyText(file.text); flash(copy, "check", "copy"); } catch (error) { report(error); }
  });
  const cut = file.text.length > SHOWN_CHARACTERS ? ` · the first ${number(SHOWN_CHARACTERS)} are shown` : "";
  openDialog(file.name, [
    h("p", { class: "file-about" }, h("span", { text: `${fileInWords(file)}${cut} · this is what the model reads` }), copy),
    h("pre", { class: "file-text", tabindex: "0", text: file.text.slice(0, SHOWN_CHARACTERS) }),
  ]);
}

/** A row of HEADS (message_parts.js). */
export const FILES = Object.freeze({
  key: (message) => (message.files ?? []).map((file) => file.id).join(" "),
  draw: (message) => h("div", { class: "message-files", role: "list", "aria-label": "Attached files" }, ...message.files.map((file) => h("div", { role: "listitem", class: "file-chip" },
    h("button", { type: "button", class: "file-open", title: "Show what was read", on: { click: () => openFile(file.id) } },
      icon("file"), h("span", { class: "file-name", text: file.name }), h("small", { text: fileInWords(file) }))))),
});

/** A row of TOOLS (message_parts.js): pressing it again takes the pin off. */
export function pinTool(message, actions) {
  const pinned = Boolean(message.pinned);
  return iconButton("pin", "Pin: stays in the prompt when older messages are left out", () => actions.act("pin", { message_id: message.id, pinned: !pinned }),
    { "aria-pressed": String(pinned), class: "icon-button message-pin" });
}
