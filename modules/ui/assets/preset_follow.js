// A chat in which nothing was said yet takes the preset last used with the model that the person changes to, and says so.

import { emit, listen, loadedModel, report, request, shortName, state, toast } from "./page.js";

/** Begin to follow; once for the page. */
export function followModel() {
  let seen = null; // not known before the first news
  listen("model", async () => {
    const before = seen;
    seen = loadedModel();
    if (before === null || !seen || seen === before || !isUntouched()) return;
    try { take(await request("GET", "ui/presets/of-model")); } catch (error) { report(error); }
  });
}

function isUntouched() {
  return state.area === "chat" && Boolean(state.conversation) && !document.querySelector("#chat .messages > .message.user");
}

function take({ model, preset }) {
  const { id, settings } = state.conversation ?? {};
  if (preset === null || model !== loadedModel() || !isUntouched() || settings.preset === preset) return;
  emit("settings-edited", { scope: "chat", key: id, settings: { preset, params: {} } });
  toast(`Preset “${preset || "Neutral"}”, as last used with ${shortName(model)}.`);
}
