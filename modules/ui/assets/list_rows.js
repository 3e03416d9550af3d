// Lists that are drawn anew while somebody uses them: what must not be disturbed, and forms inside rows.

/** Whether somebody is in the middle of something in a list. */
export function isBusy(list) {
  return Boolean(list.querySelector(".model-form, .ask, .more-menu[open], button:active"));
}

/** Open a form in a row of a list, in place of one that is open. */
export function openForm(list, name, library, make) {
  const find = () => [...list.children].find((element) => element.dataset.name === name);
  find().querySelector(".model-form")?.remove();
  const form = make(name, library, () => {
    form.remove();
    library.onChange();
    find()?.querySelector(".more-menu summary")?.focus();
  });
  find().append(form);
  form.elements[0].focus();
}

/** What has the focus in a list that is about to be drawn anew, as a text that finds it again. */
export function focused(list) {
  return list.contains(document.activeElement) ? identity(document.activeElement) : "";
}

export function refocus(list, held) {
  if (held) [...list.querySelectorAll("[data-name] :is(button, summary, input)")].find((element) => held === identity(element))?.focus();
}

function identity(element) {
  return `${element.closest("[data-name]")?.dataset.name} ${element.ariaLabel ?? element.textContent}`;
}
