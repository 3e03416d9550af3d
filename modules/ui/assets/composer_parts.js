// What stands left of the box: a row is a function that receives the composer and returns an element. Others add their row here and their part elsewhere.
// A composer has `conversation` (an id, or null), `running`, `text` (the box), `setText(text)` and `showProblem(error)`.

import { textFromNotebook } from "./notebook_chat.js";
import { castChip } from "./characters.js";
import { composerMenu } from "./composer_menu.js";
import { versionsChoice } from "./side_by_side.js";

export const PARTS = Object.freeze([
  composerMenu,
  castChip,
  versionsChoice,
  textFromNotebook,
]);
