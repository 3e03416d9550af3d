// What is copied of a message has its formulas as they were written, not as their letters happen to stand.

import { h } from "./dom.js";

const written = (math) => (math.getAttribute("display") === "block" ? `$$${math.getAttribute("alttext")}$$` : `$${math.getAttribute("alttext")}$`);

/** What is selected, with formulas in the writing they came in; null where none is among it. */
function withSources(range) {
  const inside = range.commonAncestorContainer;
  const around = (inside.nodeType === Node.ELEMENT_NODE ? inside : inside.parentElement)?.closest("math[alttext]");
  if (around) return document.createTextNode(written(around));
  const copied = range.cloneContents();
  const formulas = copied.querySelectorAll("math[alttext]");
  for (const math of formulas) math.replaceWith(written(math));
  return formulas.length ? copied : null;
}

document.addEventListener("copy", (event) => {
  const selection = document.getSelection();
  if (!selection?.rangeCount || selection.isCollapsed || event.target.closest?.("input, textarea")) return;
  const copied = withSources(selection.getRangeAt(0));
  if (!copied) return;
  const holder = h("div", { class: "off-screen" });
  holder.append(copied);
  document.body.append(holder); // only what is laid out has line breaks between its blocks
  event.clipboardData.setData("text/plain", holder.innerText);
  holder.remove();
  event.preventDefault();
});
