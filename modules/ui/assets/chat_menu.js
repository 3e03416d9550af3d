// The menu beside New chat: a private one, what holds for all chats (kept on the server), how messages look (kept in this browser), and a restart.

import { accountsEntry } from "./accounts.js";
import { lookChoice } from "./chat_looks.js";
import { h, icon } from "./dom.js";
import { report, request } from "./page.js";
import { newPrivateConversation } from "./private_chat.js";
import { restartPaddock } from "./restart.js";

class ChatMenu {
  constructor() {
    this.choices = h("div", { role: "group", class: "of-all", "aria-label": "For all chats" });
    this.summary = h("summary", { class: "icon-button", "aria-label": "More about chats", title: "More about chats" }, icon("chevron"));
    this.element = h("details", { class: "chat-menu" }, this.summary, h("div", { class: "chat-menu-items" },
      h("button", { type: "button", class: "chat-choice", on: { click: () => { this.close(); newPrivateConversation(); } } },
        icon("veiled"), h("span", { text: "Private chat" }), h("span", { class: "menu-hint", text: "Kept nowhere; gone when this page is closed or loaded again." })),
      h("hr"), this.choices, h("hr"), lookChoice(), ...accountsEntry(() => this.close()), h("hr"),
      h("button", { type: "button", class: "chat-choice of-all", on: { click: () => { this.close(); restartPaddock(); } } },
        icon("retry"), h("span", { text: "Restart Paddock" }), h("span", { class: "menu-hint", text: "Reads its settings anew; asks before." }))));
    this.element.addEventListener("toggle", () => this.toggled());
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    this.outside = (event) => { if (!this.element.contains(event.target)) this.close(); };
  }

  toggled() {
    document[this.element.open ? "addEventListener" : "removeEventListener"]("pointerdown", this.outside);
    if (this.element.open) request("GET", "ui/chat-preferences").then((told) => this.show(told)).catch(report);
  }

  onKey(event) {
    if (event.key !== "Escape" || !this.element.open) return;
    event.preventDefault();
    event.stopPropagation();
    this.close();
    this.summary.focus();
  }

  close() {
    this.element.open = false;
  }

  /** The choices as the server has them; a change is kept at once. */
  show({ choices }) {
    this.choices.replaceChildren(...choices.map(({ name, title, description, value }) => {
      const box = h("input", { type: "checkbox" });
      const saved = h("span", { class: "saved", role: "status" });
      box.checked = value;
      box.addEventListener("change", () => this.change(name, box, saved));
      return h("label", { class: "chat-choice" }, box, h("span", { text: title }), saved, h("span", { class: "menu-hint", text: description }));
    }));
  }

  async change(name, box, saved) {
    try {
      await request("PATCH", "ui/chat-preferences", { [name]: box.checked });
      saved.textContent = "Saved";
    } catch (error) {
      box.checked = !box.checked;
      report(error);
    }
  }
}

export function chatMenu() {
  return new ChatMenu().element;
}
