// What stands above and below the text of a message besides what every message has: one row per part, each in a module of its own.

import { FILES, pinTool } from "./message_files.js";

import { toNotebook } from "./notebook_chat.js";
import { speakerHead } from "./speaker.js";
import { mapTool } from "./tree_map.js";

/**
 * Above the text. A row has `key(message)`, what it shows as one string (empty: nothing is shown), and `draw(message, actions)`, its element.
 * It is drawn again only when its key changes, so what a person opened in it stays open.
 */
export const HEADS = Object.freeze([
  FILES,
  speakerHead,
]);

/** Buttons below the text: `(message, actions)` gives an element or null. `actions.act(verb, body)` posts to ui/conversations/ID/VERB. */
export const TOOLS = Object.freeze([
  pinTool,
  toNotebook,
  mapTool,
]);

/** The heads of one message, kept between its updates. */
export class Heads {
  constructor(actions) {
    this.actions = actions;
    this.element = document.createElement("div");
    this.element.className = "heads";
    this.element.hidden = true;
    this.keys = [];
    this.parts = [];
  }

  show(message) {
    const keys = HEADS.map((row) => row.key(message));
    if (keys.every((key, place) => key === this.keys[place])) return;
    this.parts = keys.map((key, place) => (!key ? null : key === this.keys[place] ? this.parts[place] : HEADS[place].draw(message, this.actions)));
    this.keys = keys;
    this.element.replaceChildren(...this.parts.filter(Boolean));
    this.element.hidden = !this.element.children.length;
  }
}

export function tools(message, actions) {
  return TOOLS.map((make) => make(message, actions)).filter(Boolean);
}
