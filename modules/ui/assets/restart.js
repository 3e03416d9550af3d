// Restart Paddock: asked once, with what it interrupts; then this page waits until the next run answers and loads itself again where it was.

import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { address, report, request, toast } from "./page.js";
import { whyNot } from "./people.js";
import { releasePrivate } from "./private_chat.js";

const LIMIT_MS = 180000; // replies get a few seconds to end, and a large page some to load
const PAUSE_MS = 300;

/** Ask, then restart. */
export async function restartPaddock() {
  if (whyNot()) { toast(whyNot(), "error"); return; }
  let told;
  try { told = await request("GET", "ui/restart"); } catch (error) { report(error); return; }
  const go = h("button", { type: "button", class: "small-button primary", text: "Restart" });
  const stay = h("button", { type: "button", class: "small-button", text: "Cancel" });
  const dialog = openDialog("Restart Paddock?", [
    h("p", { text: "The server ends in good order and starts again as it was started, with its settings read anew. The model is loaded as at any start." }),
    h("ul", {}, ...interrupted(told).map((text) => h("li", { text }))),
    h("div", { class: "sheet-buttons" }, stay, go),
  ], { class: "sheet restart-sheet" });
  stay.addEventListener("click", () => dialog.close());
  go.addEventListener("click", () => begin(dialog, told.run));
  go.focus();
}

/** What a restart ends, in sentences. */
function interrupted({ replies, notebooks, jobs }) {
  const texts = replies + notebooks;
  return [
    texts ? `${texts === 1 ? "One text is" : `${texts} texts are`} being written; what is there is kept, and can be continued.` : "No reply is being written on the page.",
    jobs.length ? `Running: ${jobs.join(", ")}. This stops where it is; Resume goes on with it.` : "No job is running.",
    "Private conversations end: they are kept in memory only.",
    "Programs that use the API wait, or are told that the model was unloaded.",
  ];
}

async function begin(dialog, run) {
  const told = h("p", { role: "status", text: "Restarting…" });
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.replaceChildren(h("div", { class: "sheet-head" }, h("h2", { text: "Restart Paddock" })), told);
  try {
    const { same_address: stays } = await request("POST", "ui/restart", {});
    if (!stays) {
      told.textContent = "Restarting. The settings give Paddock another address now: the terminal in which it was started says it.";
      return;
    }
    await nextRun(run);
    releasePrivate();
    location.reload();
  } catch (error) {
    dialog.close();
    report(error);
  }
}

/** Wait for another run of the server; the old one may still answer for a moment. */
async function nextRun(run) {
  const end = Date.now() + LIMIT_MS;
  while (Date.now() < end) {
    await new Promise((resolve) => { setTimeout(resolve, PAUSE_MS); });
    const answer = await fetch(address("ui/restart"), { signal: AbortSignal.timeout(20000) }).catch(() => null);
    if (answer?.status === 401) return; // the key was changed: the page asks for it
    const told = answer?.ok ? await answer.json().catch(() => ({})) : {};
    if (told.run && told.run !== run) return;
  }
  throw new Error("Paddock did not come back within three minutes. Look at the terminal in which it was started; it says why.");
}
