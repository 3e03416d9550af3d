// Who speaks in a message: picture and name above its text. Nothing is shown where nobody in particular speaks.

import { characters, profiles } from "./cards.js";
import { h, icon } from "./dom.js";
import { listen, state } from "./page.js";

/** Whose card a message belongs to, and the name to show. */
function speakerOf({ role, speaker }) {
  const { character = "", profile = "" } = state.conversation?.settings ?? {};
  const [cards, file] = role === "assistant" ? [characters, character] : role === "user" ? [profiles, profile] : [null, ""];
  if (speaker) return { cards, file: file && cards.title(file) === speaker ? file : "", name: speaker };
  return { cards, file, name: file };
}

/** A round picture, or the first letter of the name. */
export function portrait(cards, file, name) {
  const address = file ? cards.picture(file) : "";
  if (address) return h("img", { class: "portrait", src: address, alt: "" });
  return h("span", { class: "portrait", "aria-hidden": "true" }, name ? name.slice(0, 1).toUpperCase() : icon("person"));
}

function fill(element) {
  const { message } = element;
  const { cards, file, name } = speakerOf(message);
  const shown = message.speaker || (file ? cards.title(file) : name);
  const picture = portrait(cards, file, shown);
  const large = picture.localName === "img"
    ? h("a", { href: picture.src, target: "_blank", rel: "noopener", "aria-label": `Picture of ${shown}` }, picture) : picture;
  element.replaceChildren(large, h("span", { class: "speaker-name", text: shown }));
}

/** A row of HEADS in message_parts.js. */
export const speakerHead = Object.freeze({
  key(message) {
    const { file, name } = speakerOf(message);
    return name && `${name}\n${file}`;
  },
  draw(message) {
    const element = h("div", { class: "speaker" });
    element.message = message;
    fill(element);
    for (const cards of [characters, profiles]) cards.load().catch(() => {}); // the name of the file stands there until it is known
    return element;
  },
});

listen("cards", () => { for (const element of document.querySelectorAll(".message .speaker")) fill(element); });
