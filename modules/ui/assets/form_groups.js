// What stands in a closed group of a form is made when the group is first opened, and within two frames Gradio puts in the values that it knows,
// over what was typed until then. So nothing can be typed until it has.

const BOXES = "input, textarea";
const FRAMES = 4;
const LIMIT_MS = 2000; // whatever happens, a form can be used

document.addEventListener("click", ({ target }) => {
  const content = target.closest?.(".settings-group > .label-wrap")?.parentElement.querySelector(":scope > [data-testid='accordion-content']");
  if (!content || content.querySelector(BOXES)) return; // opened before
  const end = performance.now() + LIMIT_MS;
  let left = FRAMES;
  content.inert = true;
  requestAnimationFrame(function look(now) {
    if (content.querySelector(BOXES)) left -= 1;
    if (left && now < end) requestAnimationFrame(look);
    else content.inert = false;
  });
}, true);
