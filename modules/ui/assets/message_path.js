// The messages of the path shown, as elements in their order, as far back as they were read. A change touches what it is about and nothing else.

import { h } from "./dom.js";
import { MessageView } from "./message.js";
import { SideBySide } from "./side_by_side.js";

const NEAR = "1500px 0px"; // from the window: where messages get what belongs to them besides their text
const HUSH_MS = 500;
const TOGETHER = 20; // older messages that are laid out and drawn as one: each thing that can come into sight by itself costs time in every frame
const HEIGHT = 130; // of a message that was never in sight, in pixels

export class MessagePath {
  constructor(list, scroll, actions) {
    Object.assign(this, { list, scroll, actions });
    this.views = new Map(); // by id; one that is being edited may be shown no longer and still be here
    this.path = []; // ids, first message first
    this.together = []; // ids of the versions to choose from, in place of the last message
    this.early = new Map(); // messages that changed before they were read
    this.beside = new SideBySide(actions);
    this.near = new IntersectionObserver((entries) => this.come(entries), { root: scroll.scroller, rootMargin: NEAR });
    list.addEventListener("focusin", (event) => this.views.get(event.target.closest(".message")?.dataset.id)?.come());
  }

  clear() {
    this.views.clear();
    this.early.clear();
    this.path = [];
    this.together = [];
    this.near.disconnect();
    this.beside.clear();
    this.list.replaceChildren();
  }

  /** How many messages are known before this one, which a snapshot begins with; what else is known of the path is not this one's. */
  keptBefore(message) {
    this.early.clear();
    return message ? this.path.indexOf(message.parent_id) + 1 : 0;
  }

  /** How many messages there are up to this one. */
  keptAfter(id) {
    return id === null ? 0 : this.path.indexOf(id) + 1;
  }

  elementOf(id) {
    return this.path.includes(id) ? this.views.get(id).element : null;
  }

  lastReceipt() {
    const last = this.path.findLast((id) => this.views.get(id).message.receipt);
    return this.views.get(last)?.message.receipt;
  }

  change(messages) {
    for (const message of messages) {
      if (this.views.has(message.id)) this.viewOf(message);
      else this.early.set(message.id, message);
    }
  }

  /** The first `kept` messages stay, others follow; of versions to choose from the last one is one. */
  put({ kept, added, together }) {
    const first = Math.max(0, Math.min(kept, this.path.length - 1)); // the last one stood among versions to choose from, or will
    const gone = [...this.path.slice(kept), ...this.together];
    this.together = together.map((message) => message.id);
    this.path = [...this.path.slice(0, kept), ...added.map((message) => message.id)];
    for (const message of [...added, ...together]) this.viewOf(message);
    const wanted = new Set([...this.path.slice(Math.max(0, kept - 1)), ...this.together]);
    const put = () => {
      for (const id of this.path.slice(Math.max(0, first - 1))) this.takeOut(this.views.get(id).element);
      for (const id of gone) if (!wanted.has(id)) this.drop(id);
      this.arrange(first);
      this.showTogether();
    };
    if (added.length > 2) this.quietly(put); else put();
  }

  /** A message that is shown no longer; while it is being edited it stays. */
  drop(id) {
    const view = this.views.get(id);
    if (!view) return;
    view.isAside = true;
    if (!view.element.matches(".editing")) this.forget(id);
  }

  forget(id) {
    const view = this.views.get(id);
    if (!view) return;
    this.takeOut(view.element);
    view.element.remove();
    this.views.delete(id);
  }

  /** Put the elements in order, from a place of the path on. */
  arrange(first) {
    const path = this.together.length ? this.path.slice(first, -1) : this.path.slice(first);
    let place = first ? this.views.get(this.path[first - 1]).element.nextElementSibling : this.list.firstElementChild;
    for (const id of path) {
      const { element } = this.views.get(id);
      if (element === place) place = place.nextElementSibling;
      else this.list.insertBefore(element, place);
    }
  }

  /** Versions to choose from, in columns below the others. */
  showTogether() {
    if (!this.together.length) { this.beside.clear(); return; }
    this.beside.show(this.together.map((id) => this.views.get(id)));
    if (this.list.lastElementChild !== this.beside.element) this.list.append(this.beside.element);
  }

  /** Older messages: those that are not here yet come before the first one, of the others what changed is shown. */
  prepend(messages) {
    const known = new Set(this.path);
    const newest = messages.map((message) => this.early.get(message.id) ?? message);
    const added = newest.filter((message) => !known.has(message.id)).map((message) => this.viewOf(message, false));
    for (const message of newest) if (known.has(message.id) && !isSame(message, this.views.get(message.id).message)) this.viewOf(message);
    this.early.clear();
    if (!added.length) return;
    const groups = [];
    for (let end = added.length; end > 0; end -= TOGETHER) groups.unshift(this.group(added.slice(Math.max(0, end - TOGETHER), end)));
    this.quietly(() => this.scroll.keeping(() => this.list.prepend(...groups)));
    this.path = [...added.map((view) => view.id), ...this.path];
  }

  /** Older messages in one element, which is out of sight as a whole. */
  group(views) {
    const element = h("div", { class: "older" }, ...views.map((view) => view.element), h("i", { hidden: true })); // none of them is the last child
    Object.assign(element.style, { contentVisibility: "auto", containIntrinsicSize: `auto ${views.length * HEIGHT}px` });
    for (const view of views) view.element.style.contentVisibility = "visible";
    this.near.observe(element);
    return element;
  }

  /** A message that is to stand by itself again, and all that were put together with it. */
  takeOut(element) {
    const group = element.closest(".older");
    if (!group) return;
    this.near.unobserve(group);
    this.comeAll(group);
    for (const message of group.querySelectorAll(":scope > .message")) message.style.contentVisibility = "";
    group.lastElementChild.remove();
    group.replaceWith(...group.children);
  }

  comeAll(group) {
    for (const { dataset } of group.querySelectorAll(":scope > .message")) this.views.get(dataset.id)?.come();
  }

  /** The view of a message as the server has it now. */
  viewOf(message, isNear = true) {
    let view = this.views.get(message.id);
    if (!view) { view = new MessageView(message, this.actions, isNear); this.views.set(message.id, view); }
    const together = this.together.includes(message.id);
    view.isAside = false;
    if (view.message === message && view.together === together) return view;
    view.together = together;
    view.update(message);
    return view;
  }

  /** Above their texts: what depends on the settings. */
  showHeads() {
    for (const view of this.views.values()) view.heads.show(view.message);
  }

  /** Messages that come near the window. */
  come(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.near.unobserve(target);
      this.comeAll(target);
    }
  }

  /** Change the list without having it read aloud: these messages are not new. */
  quietly(change) {
    this.list.setAttribute("aria-live", "off");
    change();
    clearTimeout(this.hushed);
    this.hushed = setTimeout(() => this.list.setAttribute("aria-live", "polite"), HUSH_MS);
  }
}

function isSame(message, other) {
  return JSON.stringify(message) === JSON.stringify(other);
}
