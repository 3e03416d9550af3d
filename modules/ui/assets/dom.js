// Building elements. Text is always set as text; the only HTML that enters the page is what the server sanitized (`safeBlock`).

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  plus: "M12 5v14M5 12h14", search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14ZM20 20l-4-4", menu: "M4 7h16M4 12h16M4 17h10",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 2v2M12 20v2M4 12H2M22 12h-2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5",
  moon: "M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5Z", close: "M6 6l12 12M18 6 6 18",
  sliders: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5ZM8 14.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5Z",
  send: "M12 19V5M6 11l6-6 6 6", stop: "M7 7h10v10H7z", down: "M12 5v14M6 13l6 6 6-6", check: "M5 12.5l4.5 4.5L19 7.5",
  copy: "M9 9h10v11H9zM15 9V5H5v11h4", edit: "M4 20l1-4L16.5 4.5l3 3L8 19l-4 1ZM14 7l3 3", trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  retry: "M20 11a8 8 0 1 0-2.3 6.2M20 5v6h-6", forward: "M5 5l8 7-8 7zM19 5v14", undo: "M9 6 4 11l5 5M4 11h10a5 5 0 0 1 0 10h-3",
  redo: "M15 6l5 5-5 5M20 11H10a5 5 0 0 0 0 10h3",
  branch: "M7 4a2 2 0 1 0 0 4 2 2 0 0 0 0-4ZM7 16a2 2 0 1 0 0 4 2 2 0 0 0 0-4ZM17 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4ZM7 8v8M17 10c0 4-6 3-9.5 6.2",
  left: "M14 6l-6 6 6 6", right: "M10 6l6 6-6 6", chevron: "M7 10l5 5 5-5", download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  file: "M7 3h7l5 5v13H7zM14 3v5h5M10 13h6M10 17h4", clip: "M20 11.5 11.8 19.7a5 5 0 0 1-7.1-7.1L13 4.3a3.4 3.4 0 0 1 4.8 4.8l-8.2 8.2a1.7 1.7 0 0 1-2.4-2.4L14.8 7.3",
  book: "M6 4h12v16H6a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2ZM9 4v16M12 9h3M12 13h3",
  veiled: "M3 12s3.5-6 9-6 9 6 9 6-3.5 6-9 6-9-6-9-6ZM4 4l16 16",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 8a1.5 1.5 0 1 0 0 3 1.5 1.5 0 0 0 0-3Z",
  good: "M7.5 10.5v9H4v-9ZM7.5 10.5l3.8-7c1.3 0 2.2 1 2.2 2.3V9h5.2a1.8 1.8 0 0 1 1.8 2.1l-1.1 6.9a1.8 1.8 0 0 1-1.8 1.5H7.5",
  bad: "M7.5 13.5v-9H4v9ZM7.5 13.5l3.8 7c1.3 0 2.2-1 2.2-2.3V15h5.2a1.8 1.8 0 0 0 1.8-2.1L19.4 6a1.8 1.8 0 0 0-1.8-1.5H7.5",
  tag: "M4 4h8l8.5 8.5-8 8L4 12ZM8.5 7.3a1.2 1.2 0 1 0 0 2.4 1.2 1.2 0 0 0 0-2.4Z",
  person: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM4.5 20.5c.9-4.2 4-6 7.5-6s6.6 1.8 7.5 6",
  map: "M10 3h4v4h-4zM4 16h4v4H4zM16 16h4v4h-4zM12 7v5M6 16v-4h12v4",
  pin: "M9 4h6l-1 6 3 3v2H7v-2l3-3-1-6ZM12 15v5", chip: "M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4",
};

/** An element: `attributes` may hold `class`, `text`, `on` (event → handler), `data`, and plain attributes. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows only an icon; its label is spoken and shown as a tip. */
export function iconButton(name, label, onClick, extra = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...extra, on: { click: onClick } }, icon(name));
}

/** HTML that the server sanitized, as one element. */
export function safeBlock(html) {
  const block = h("div", { class: "md-block" });
  block.innerHTML = html;
  return block;
}

/** Replace the blocks from index `first` on; the ones before are not touched. */
export function replaceBlocks(parent, first, blocks) {
  while (parent.children.length > first) parent.lastElementChild.remove();
  parent.append(...blocks.map(safeBlock));
}

export function autoGrow(textarea, limit = 0.4) {
  textarea.style.height = "auto";
  textarea.style.height = `${Math.min(textarea.scrollHeight, window.innerHeight * limit)}px`;
}

export function number(value) {
  return Number(value).toLocaleString("en-US");
}

export function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

/** "Today", "Yesterday", "Previous 7 days" or "Earlier" of a time in seconds. */
export function dayGroup(seconds) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  const age = midnight.getTime() / 1000 - seconds;
  if (age <= 0) return "Today";
  if (age <= 86400) return "Yesterday";
  return age <= 7 * 86400 ? "Previous 7 days" : "Earlier";
}

export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = h("textarea", { class: "off-screen" }); // http on a LAN address has no clipboard API
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return undefined;
}

/** Show on a button for a moment that it has worked. */
export function flash(button, name, back) {
  button.replaceChildren(icon(name));
  button.classList.add("done");
  setTimeout(() => { button.replaceChildren(icon(back)); button.classList.remove("done"); }, 1400);
}

/** Ask in place of an element: the question, a red button and Cancel. Resolves to true or false. */
export async function askInPlace(element, question, action) {
  return await chooseInPlace(element, question, [[true, action]], "danger") === true;
}

/** Offer choices in place of an element, rows of value, words and a hint, and Cancel. Resolves to a value or null. */
export function chooseInPlace(element, question, choices, kind = "") {
  return new Promise((resolve) => {
    const end = (answer) => { row.remove(); element.hidden = false; resolve(answer); };
    const button = (value, text, title, more = "") => h("button", { type: "button", class: `small-button ${more}`.trim(), text, title, on: { click: (e) => { e.stopPropagation(); end(value); } } });
    const buttons = choices.map(([value, text, title]) => button(value, text, title, kind));
    const row = h("div", { class: "ask", role: "group", "aria-label": question }, h("span", { text: question }), ...buttons, button(null, "Cancel"));
    row.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); end(null); } });
    element.hidden = true;
    element.after(row);
    buttons[0].focus();
  });
}
