// A dialog over the page: the browser's own, so that the focus stays in it and goes back where it was.

import { h, iconButton } from "./dom.js";

/** Open a dialog with a heading; `extra` are further attributes. It is gone when it is closed. */
export function openDialog(title, children, extra = {}) {
  const close = iconButton("close", "Close", () => dialog.close());
  const heading = h("h2", { text: title });
  const dialog = h("dialog", { class: "sheet", "aria-label": title, ...extra }, h("div", { class: "sheet-head" }, heading, close), ...children);
  dialog.addEventListener("keydown", (event) => { if (event.key === "Escape") event.stopPropagation(); }); // it closes the dialog and stops no reply
  closesFromOutside(dialog);
  dialog.addEventListener("close", () => {
    document.body.append(...dialog.querySelectorAll("#toasts")); // notices outlive it
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A press beside a dialog closes it; a selection that is drawn out of it does not. */
export function closesFromOutside(dialog) {
  let outside = false;
  dialog.addEventListener("pointerdown", (event) => { outside = event.target === dialog; });
  dialog.addEventListener("click", (event) => { if (outside && event.target === dialog) dialog.close(); });
}

/** Whether a dialog is open: keys of the page mean nothing then. */
export function dialogIsOpen() {
  return document.querySelector("dialog[open]") !== null;
}
