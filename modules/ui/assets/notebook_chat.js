// Between chat and notebook: a text becomes a message that is not sent yet, and a conversation becomes a notebook.

import { h, iconButton } from "./dom.js";
import { emit, listen, openArea, openConversation, report, request, state } from "./page.js";

/** A new conversation with a text in its box. */
export async function sendToChat(text) {
  if (!text.trim()) { report({ message: "There is no text to send to the chat yet." }); return; }
  try {
    const { id } = await request("POST", "ui/conversations", {});
    emit("text-for-chat", { id, text });
    openConversation(id);
    openArea("chat");
    emit("conversations-changed");
  } catch (error) { report(error); }
}

/** In the composer: takes texts that are sent to the chat. */
export function textFromNotebook(composer) {
  listen("text-for-chat", ({ id, text }) => {
    if (composer.conversation === id) composer.setText([composer.text.value, text].filter(Boolean).join("\n\n"));
    else localStorage.setItem(`paddock.draft.${id}`, text);
  });
  return h("span", { hidden: true });
}

/** Below a message: the conversation up to here as a new notebook. */
export function toNotebook(message) {
  const make = async () => {
    try {
      const { id } = await request("POST", "ui/notebooks", { conversation_id: state.conversation.id, message_id: message.id });
      emit("open-notebook", id);
      openArea("notebook");
    } catch (error) { report(error); }
  };
  return iconButton("book", "Open in a notebook: the conversation up to here as one text", make);
}
