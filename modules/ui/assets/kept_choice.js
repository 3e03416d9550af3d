// A list to choose from that this browser remembers: it stands as it was left, also after a reload.

/** Begin with what was chosen last, where that can still be chosen, and remember what is chosen from now on. */
export function keptChoice(select, key) {
  const before = localStorage.getItem(key);
  if ([...select.options].some((option) => option.value === before)) select.value = before;
  select.addEventListener("change", () => localStorage.setItem(key, select.value));
  return select;
}
