// Private conversations: the server has them in memory alone, under ids that say so. They end with the page that opened them, which says it before.

import { h, icon } from "./dom.js";
import { conversationInAddress, emit, listen, openConversation, report, request, sayLeft } from "./page.js";

export const PRIVATE_TITLE = "Private conversation";
const open = new Set(); // in this page, oldest first

/** Whether a conversation is kept nowhere. */
export function isPrivate(id) {
  return Boolean(id?.startsWith("p"));
}

/** Those that this page has open. */
export function privateConversations() {
  return [...open];
}

export async function newPrivateConversation() {
  try {
    const { id } = await request("POST", "ui/conversations", { private: true });
    openConversation(id);
    emit("conversations-changed");
  } catch (error) { report(error); }
}

/** Nothing of it stays, not even in the bin. */
export async function endPrivateConversation(id) {
  open.delete(id);
  await request("POST", `ui/conversations/${id}/forget`, {});
}

/** The server is about to end, and they with it, as the person was told: the browser need not ask. */
export function releasePrivate() {
  open.clear();
}

/** The line above a private conversation. */
export function privateBanner() {
  const banner = h("div", { class: "private-banner", role: "note", hidden: true }, icon("veiled"),
    h("span", {}, h("strong", { text: "Private. " }), "Kept in memory only, in no file. It is gone when this page is closed or loaded again, or when the server stops."));
  const show = (id) => {
    if (isPrivate(id)) open.add(id);
    banner.hidden = !isPrivate(id);
    document.body.classList.toggle("private-chat", isPrivate(id));
  };
  listen("conversation", show);
  show(conversationInAddress());
  return banner;
}

function hasWords() {
  return [...open].some((id) => id !== conversationInAddress() || document.querySelector("#chat .messages .message"));
}

window.addEventListener("beforeunload", (event) => { if (hasWords()) event.preventDefault(); });
window.addEventListener("pagehide", () => {
  for (const id of open) sayLeft(`ui/conversations/${id}/forget`);
  open.clear();
});
