// The map of a conversation: every message as a box, each below the one it follows, versions beside each other. Choosing one shows its path.

import { openDialog } from "./dialog.js";
import { h, iconButton, plural } from "./dom.js";
import { conversationInAddress, emit, report, request } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [190, 50, 16, 18];
const NAMES = { user: "You", assistant: "Reply", system: "System" };

/** Below a message that has versions: the button that opens the map. */
export function mapTool(message) {
  return message.version?.count > 1 ? iconButton("map", "Map of all versions", () => openMap(message.id)) : null;
}

export async function openMap(from = null) {
  const id = conversationInAddress();
  if (!id) return;
  try {
    const { messages, shown } = await request("GET", `ui/conversations/${id}/tree`);
    const show = async (message) => {
      dialog.close();
      try {
        await request("POST", `ui/conversations/${id}/select`, { message_id: message.id });
        emit("show-message", message.id);
      } catch (error) { report(error); }
    };
    const note = messages.length ? `${plural(messages.length, "message")}. Choose one to show the conversation through it.` : "There are no messages yet.";
    const map = h("div", { class: "tree-scroll", tabindex: "0", role: "group", "aria-label": "Messages" }, drawMap(messages, new Set(shown), show));
    const dialog = openDialog("Map of the conversation", [h("p", { class: "side-note", text: note }), map], { class: "sheet tree-sheet" });
    const there = map.querySelector(`[data-id="${from ?? shown.at(-1)}"]`);
    there?.scrollIntoView({ block: "center", inline: "center" });
    there?.focus({ preventScroll: true });
  } catch (error) { report(error); }
}

/** Where each message stands: `depth` from the top, `column` from the left. The oldest version goes straight on, others beside all that is there. */
export function layOut(messages) {
  const children = new Map();
  const places = new Map();
  for (const message of messages) {
    if (!children.has(message.parent_id)) children.set(message.parent_id, []);
    children.get(message.parent_id).push(message);
  }
  let columns = 0;
  const waiting = [...children.get(null) ?? []].reverse().map((message) => [message, 0, null]);
  while (waiting.length) {
    const [message, depth, beside] = waiting.pop();
    const column = beside ?? columns++;
    const versions = children.get(message.parent_id);
    places.set(message.id, { depth, column, version: versions.indexOf(message) + 1, versions: versions.length });
    const below = children.get(message.id) ?? [];
    for (let place = below.length - 1; place >= 0; place--) waiting.push([below[place], depth + 1, place ? null : column]);
  }
  return { places, columns };
}

function drawMap(messages, shown, show) {
  const { places, columns } = layOut(messages);
  const deepest = Math.max(0, ...[...places.values()].map((place) => place.depth));
  const x = (place) => place.column * (WIDTH + GAP_X);
  const y = (place) => place.depth * (HEIGHT + GAP_Y);
  const [width, height] = [columns * (WIDTH + GAP_X), (deepest + 1) * (HEIGHT + GAP_Y)];
  const boxes = messages.filter((message) => places.has(message.id)).map((message) => {
    const place = places.get(message.id);
    const name = NAMES[message.role] ?? message.role;
    const version = place.versions > 1 ? `${place.version}/${place.versions}` : "";
    const isShown = shown.has(message.id);
    const box = h("button", {
      type: "button", class: `tree-box ${message.role}${isShown ? " shown" : ""}`, data: { id: message.id }, "aria-current": isShown ? "true" : null,
      "aria-label": `${name}${version && `, version ${place.version} of ${place.versions}`}: ${message.words}`, on: { click: () => show(message) },
    }, h("span", { class: "tree-name" }, h("span", { text: name }), h("span", { text: version })), h("span", { class: "tree-words", text: message.words || "…" }));
    box.style.translate = `${x(place)}px ${y(place)}px`;
    return box;
  });
  const map = h("div", { class: "tree-map" }, lines(messages, places, shown, { x, y, width, height }), ...boxes);
  Object.assign(map.style, { width: `${width}px`, height: `${height}px` });
  return map;
}

/** Lines from each message to those that follow it; of the path shown they come last, to lie on top. */
function lines(messages, places, shown, { x, y, width, height }) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ width, height, "aria-hidden": "true" })) svg.setAttribute(name, value);
  const drawn = messages.filter((message) => places.has(message.id) && places.has(message.parent_id));
  for (const message of drawn.sort((one, other) => shown.has(one.id) - shown.has(other.id))) {
    const [from, to] = [places.get(message.parent_id), places.get(message.id)];
    const [left, top] = [x(from) + 20, y(from) + HEIGHT];
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", from.column === to.column ? `M${left} ${top}V${y(to)}` : `M${left} ${top}v${GAP_Y / 2}H${x(to) + 20}V${y(to)}`);
    if (shown.has(message.id)) path.setAttribute("class", "shown");
    svg.append(path);
  }
  return svg;
}
