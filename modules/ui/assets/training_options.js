// Between the options form (stock components) and the views: fills the form, asks what it holds, keeps what is typed.

import { change, draft } from "./training_draft.js";
import { listen } from "./page.js";

const ANSWER_MS = 20000;
const SHOWN = -1; // the form says so when it shows what it was asked to show
const EDITED = 0; // and so after an edit
const LOOKED = -2; // and so when it was looked at once more
const LOOK_MS = 500; // after the last edit: of edits in quick succession the answers may come in another order, and what the form holds then is what counts
const waiting = new Map(); // question → resolve
let ask = null; // set when the form is there
let asked = 0;

/** What the form holds now: {options, problem}; `options` is null when something in it is wrong. */
export async function collectOptions() {
  if (!ask) return { options: null, problem: "The options have not come yet. Wait a moment, then try again." };
  const question = (asked += 1);
  return new Promise((resolve) => {
    waiting.set(question, resolve);
    setTimeout(() => resolve({ options: null, problem: "The options could not be read. Check that Paddock is still running, then try again." }), ANSWER_MS);
    ask(question);
  }).finally(() => waiting.delete(question));
}

export function mount(element, { props, watch, trigger }) {
  let timer = 0;
  let look = 0;
  const closeForm = (is) => {
    clearTimeout(timer);
    const form = document.querySelector("#training-options");
    if (form) form.inert = is;
  };
  /** What is typed before the answer comes would be written over, so nothing can be. */
  const show = (what) => {
    closeForm(true);
    timer = setTimeout(() => closeForm(false), ANSWER_MS);
    trigger("show", what);
  };
  ask = (question) => trigger("collect", { question });
  listen("training-options", (options) => show({ options }));
  watch("value", () => {
    if (!props.value) return;
    const { question, options, problem, shown } = JSON.parse(props.value);
    if (question === SHOWN) closeForm(false);
    if (question === EDITED) {
      clearTimeout(look);
      look = setTimeout(() => trigger("collect", { question: LOOKED }), LOOK_MS);
    }
    change({ shown });
    waiting.get(question)?.({ options, problem });
  });
  element.replaceChildren();
  element.removeAttribute("aria-busy");
  if (draft.shown) show({ shown: draft.shown });
}
