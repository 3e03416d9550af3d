// What was typed into templates and not saved yet, kept in this browser: a reload, a closed tab or a look at another template loses nothing.

const KEY = "paddock.templates";
export const FIELDS = ["name", "description", "text", "stop"];

function stored() {
  try {
    const { open = "", drafts = {} } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return { open, drafts };
  } catch { return { open: "", drafts: {} }; }
}

/** Writes only its own part, so that another tab's drafts stay. */
function change(how) {
  const all = stored();
  how(all);
  localStorage.setItem(KEY, JSON.stringify(all));
}

export const drafts = {
  all: () => stored().drafts,
  get: (key) => stored().drafts[key] ?? null,
  put: (key, draft) => change((all) => { all.drafts[key] = draft; }),
  drop: (key) => change((all) => { delete all.drafts[key]; }),
  get open() { return stored().open; },
  set open(key) { change((all) => { all.open = key; }); },
};

export function isSame(one, other) {
  return FIELDS.every((field) => JSON.stringify(one[field]) === JSON.stringify(other[field]));
}

/** Stop strings as lines and back; a line break inside one is written \n. */
export function toLines(stop) {
  return stop.map((text) => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")).join("\n");
}

export function fromLines(lines) {
  return lines.split("\n").filter((line) => line.trim()).map((line) => line.replace(/\\(n|\\)/g, (_, letter) => (letter === "n" ? "\n" : "\\")));
}
