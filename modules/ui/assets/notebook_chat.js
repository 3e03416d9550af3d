// Between chat and notebook: a text becomes a message that is not sent yet, and a conversation becomes a notebook.

import { chooseInPlace, h, iconButton, plural } from "./dom.js";
import { keepDraft } from "./drafts.js";
import { emit, listen, openArea, openConversation, report, request, state, toast } from "./page.js";
import { isPrivate } from "./private_chat.js";

const FORMS = Object.freeze([
  ["dialogue", "As plain text", "Each message with who speaks"],
  ["prompt", "As the model sees it", "With all marks that the chat template writes; the model goes on with the last message where it ends"],
]);

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
    else keepDraft(id, text);
  });
  return h("span", { hidden: true });
}

/** Below a message: the conversation up to here as a new notebook. */
export function toNotebook(message) {
  if (isPrivate(state.conversation?.id)) return null; // a notebook is kept
  const make = async (tools) => {
    const conversation = state.conversation.id;
    const form = await chooseInPlace(tools, "Open in a notebook", FORMS);
    if (!form) return;
    try {
      const { id, dropped = 0, images = 0 } = await request("POST", "ui/notebooks", { conversation_id: conversation, message_id: message.id, form });
      emit("open-notebook", id);
      openArea("notebook");
      const lacking = [dropped && `${plural(dropped, "oldest message")}, for which the context has no room`, images && plural(images, "image")].filter(Boolean);
      if (lacking.length) toast(`The text is without ${lacking.join(" and ")}.`);
    } catch (error) { report(error); }
  };
  return iconButton("book", "Open in a notebook: the conversation up to here as one text", ({ currentTarget }) => make(currentTarget.parentElement));
}
