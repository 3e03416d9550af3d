// Where a request waits, in words.
import { plural } from "./dom.js";

/** "3 others are before you, about 40 s"; place 1 is next, and an unknown wait is left out. */
export function waitingWords(place, seconds) {
  const before = place === 1 ? "You are next" : place === 2 ? "1 other is before you" : `${plural(place - 1, "other")} are before you`;
  return seconds === null || seconds === undefined ? before : `${before}, about ${about(seconds)}`;
}

/** A time that is guessed, no finer than the guess is. */
function about(seconds) {
  if (seconds < 10) return `${Math.max(1, Math.ceil(seconds))} s`;
  if (seconds < 100) return `${Math.ceil(seconds / 5) * 5} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
