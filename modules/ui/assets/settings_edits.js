// What changed between two readings of the settings form, so that only that is stored and an edit elsewhere stays.

const IN_ENTRIES = Object.freeze(["params", "template_variables"]); // of these single entries change

/** The same value with the keys of its objects in order, so that equal settings compare equal. */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

export function asText(value) {
  return JSON.stringify(sorted(value));
}

const same = (one, other) => asText(one) === asText(other);

/** `{settings, within}`: what is replaced, and entries that are put or dropped; null where nothing changed. */
export function editsBetween(before, after) {
  const settings = {};
  const within = {};
  for (const name of Object.keys(after)) {
    const isAfresh = name === "params" && before.preset !== after.preset; // they are counted from another preset
    if (same(before[name], after[name]) && !isAfresh) continue;
    if (before[name] && IN_ENTRIES.includes(name) && !isAfresh) within[name] = entriesBetween(before[name], after[name]);
    else settings[name] = after[name];
  }
  return Object.keys(settings).length + Object.keys(within).length ? { settings, within } : null;
}

function entriesBetween(before, after) {
  const put = Object.fromEntries(Object.entries(after).filter(([name, value]) => !same(before[name], value)));
  return { put, drop: Object.keys(before).filter((name) => !(name in after)) };
}

/** Settings with the edits in them. */
export function withEdits(values, { settings = {}, within = {} }) {
  const after = { ...values, ...settings };
  for (const [name, { put, drop }] of Object.entries(within)) {
    const kept = Object.entries(after[name] ?? {}).filter(([entry]) => !drop.includes(entry));
    after[name] = { ...Object.fromEntries(kept), ...put };
  }
  return after;
}
