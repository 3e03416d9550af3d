// The mark of a footnote leads to its note in the same text.

document.addEventListener("click", (event) => {
  const mark = event.target.closest?.(".footnote-mark");
  if (!mark) return;
  const notes = [...mark.closest(".markdown").querySelectorAll(".footnote")];
  const note = notes.find((one) => one.querySelector(".footnote-label").textContent === mark.textContent);
  note?.focus(); // which brings it into view
});
