// Places in a text that two write on. The page counts UTF-16 units and the server characters; here is what leads from one to the other.

/** Place in characters of a place in units. */
export function toPoints(text, units) {
  return Array.from(text.slice(0, units)).length;
}

/** Place in units of a place in characters. */
export function toUnits(text, points) {
  return Array.from(text).slice(0, points).join("").length;
}

/** Length in units of the last so many characters. */
export function tailUnits(text, points) {
  return points ? Array.from(text).slice(-points).join("").length : 0;
}

/** What has come to `base` at the place with so much behind it; null if `text` is something else. */
export function grownPart(base, text, behind) {
  const place = base.length - behind;
  if (text.length < base.length || !text.startsWith(base.slice(0, place)) || !text.endsWith(base.slice(place))) return null;
  return text.slice(place, text.length - behind);
}

/** How many units stand behind a place after an edit: what was typed behind it counts. */
export function behindAfterEdit(before, after, behind) {
  const place = before.length - behind;
  let same = 0;
  while (same < before.length && same < after.length && before[same] === after[same]) same += 1;
  return same > place ? Math.max(0, behind + after.length - before.length) : Math.min(behind, after.length);
}
