// How the page is where somebody comes back to it: the settings open as they were, the cursor in the box, and what other tabs changed.

import { emit, listen, state, toggleDrawer } from "./page.js";

const DRAWER_KEY = "paddock.drawer";
const BOXES = Object.freeze({ chat: "#message-text", notebook: ".notebook-text" });
const WIDE = matchMedia("(min-width: 1180px)"); // where the settings stand beside the page and cover nothing
const FOCUS_DELAY_MS = 80; // an area that has just been opened is shown a frame later, at its first time some more
const FOCUS_TRIES = 25;

// ---- the settings

function keepDrawer() {
  let open = document.body.matches(".drawer-open");
  if (!open && WIDE.matches && localStorage.getItem(DRAWER_KEY) === "open") {
    toggleDrawer(true);
    open = true;
  }
  new MutationObserver(() => {
    if (document.body.matches(".drawer-open") === open) return;
    open = !open;
    if (open) localStorage.setItem(DRAWER_KEY, "open"); else localStorage.removeItem(DRAWER_KEY);
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
}

// ---- the cursor

/** Into the box of the area, unless the person goes along the tabs with the keyboard or is at work somewhere. */
function focusBox(area, tries = FOCUS_TRIES) {
  if (state.area !== area || !BOXES[area] || !tries) return;
  const box = document.querySelector(BOXES[area]);
  if (!box?.checkVisibility()) { setTimeout(() => focusBox(area, tries - 1), FOCUS_DELAY_MS); return; }
  const now = document.activeElement;
  const free = !now || now === document.body || !now.checkVisibility() || (now.matches('[role="tab"]') && !now.matches(":focus-visible"));
  if (free) box.focus({ preventScroll: true });
}

// ---- other tabs of this browser

function followOtherTabs() {
  const channel = new BroadcastChannel("paddock");
  let heard = false; // what another tab told is not told again
  channel.addEventListener("message", () => { heard = true; emit("conversations-changed"); heard = false; });
  listen("conversations-changed", () => { if (!heard) channel.postMessage("conversations-changed"); });
}

keepDrawer();
followOtherTabs();
if (matchMedia("(hover: hover)").matches) listen("area", (area) => setTimeout(() => focusBox(area), FOCUS_DELAY_MS));
