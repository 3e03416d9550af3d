// What the views share: requests with the server's own error sentences, one event target, the theme, the areas, the model's state.

import { h, icon, iconButton } from "./dom.js";

const BASE = new URL("./", document.baseURI); // right below a reverse proxy's path too
const THEME_KEY = "paddock.theme";
const SIDE_KEY = "paddock.side";
const AREA_KEY = "paddock.area"; // of this tab, so that a reload stays where it was
const NARROW = matchMedia("(max-width: 860px)"); // where the list of conversations lies over the page

/** Events between the views: "conversation", "conversations-changed", "area", "model", "settings" and others; each is told where it is emitted. */
const bus = new EventTarget();
export const state = { area: "chat", models: null, conversation: null };

export function emit(name, detail) {
  bus.dispatchEvent(new CustomEvent(name, { detail }));
}

export function listen(name, handler) {
  bus.addEventListener(name, (event) => handler(event.detail));
}

export class RequestError extends Error {
  constructor(message, kind, status, details) {
    super(message);
    Object.assign(this, { kind, status, details });
  }
}

export function address(path) {
  return new URL(path.replace(/^\//, ""), BASE);
}

/** One JSON request. Throws `RequestError` whose message is a sentence for the person. `keepalive`: sent also when the page goes. */
export async function request(method, path, body, { keepalive = false } = {}) {
  let response;
  try {
    response = await fetch(address(path), {
      method,
      keepalive,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new RequestError("The server does not answer. Check that Paddock is still running, then try again.", "Unreachable", 0, {});
  }
  const data = await response.json().catch(() => ({}));
  if (response.ok) return data;
  const error = data.error ?? {};
  if (error.code === "not_logged_in") emit("logged-out");
  throw new RequestError(error.message ?? `The server answered ${response.status}. Try again.`, error.type ?? "", response.status, error.details ?? {});
}

/** Tell the server that this page leaves: the only kind of request that a closing tab still sends. */
export function sayLeft(path) {
  navigator.sendBeacon(address(path));
}

/** An event stream that comes back by itself: `handlers` by event name, `onLost(true|false)` tells about the connection. */
export class Stream {
  constructor(path, handlers, onLost) {
    Object.assign(this, { path, handlers, onLost, source: null, wait: 500, timer: 0, closed: false });
    this.onVisible = () => this.followVisibility();
    document.addEventListener("visibilitychange", this.onVisible);
    this.open();
  }

  open() {
    if (this.closed || this.source) return;
    this.source = new EventSource(address(this.path));
    for (const [name, handler] of Object.entries(this.handlers)) {
      this.source.addEventListener(name, (event) => { this.alive(); handler(JSON.parse(event.data)); });
    }
    this.source.addEventListener("ping", () => this.alive());
    this.source.addEventListener("error", () => this.lost());
  }

  alive() {
    this.wait = 500;
    this.onLost(false);
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.lost(), 30000); // a ping comes every 10 s
  }

  lost() {
    this.pause();
    if (this.closed) return;
    this.onLost(true);
    this.timer = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(this.wait * 2, 8000);
  }

  pause() {
    clearTimeout(this.watchdog);
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** A hidden page gives its connection back: a browser has six for one server. */
  followVisibility() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => this.pause(), 15000);
    else if (!this.source) this.open();
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.onVisible);
    clearTimeout(this.hiding);
    this.pause();
  }
}

/** Take a notice away after `ms`, not while somebody points at it or has the focus in it. */
function leaveAfter(item, ms) {
  const goes = () => (item.matches(":hover, :focus-within") ? setTimeout(goes, 1000) : item.remove());
  setTimeout(goes, ms);
}

/** A short notice at the bottom that goes away by itself; `action` is a button in it, `{ text, run }`, and needs time to be thought about. */
export function toast(message, kind = "info", action = null) {
  const box = document.querySelector("#toasts") ?? h("div", { id: "toasts", role: "status", "aria-live": "polite" });
  const over = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body; // nothing outside of an open dialog can be pressed
  if (box.parentElement !== over) over.append(box);
  const press = () => { item.remove(); action.run(); };
  const item = h("div", { class: `toast ${kind}` }, h("span", { text: message }), action && h("button", { type: "button", class: "undo", text: action.text, on: { click: press } }));
  item.append(iconButton("close", "Dismiss", () => item.remove()));
  box.append(item);
  leaveAfter(item, (action ? 10000 : 3000) + message.length * 60);
}

export function report(error) {
  toast(error.message ?? String(error), "error");
}

// ---- areas: Chat, Notebook, Models

export function openArea(name) {
  document.querySelector(`#area-${name}-button`)?.click();
}

/** Follow which area is chosen. The tabs may be drawn later than this runs, and anew, so the page as a whole is watched. */
function watchAreas() {
  const update = () => {
    const chosen = document.querySelector('#areas [role="tab"][aria-selected="true"]');
    if (!chosen) return;
    const area = chosen.id.replace(/^area-|-button$/g, "") || "chat";
    document.body.dataset.area = area;
    if (area === state.area) return;
    state.area = area;
    sessionStorage.setItem(AREA_KEY, area);
    emit("area", area);
  };
  new MutationObserver(update).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
  update();
  const before = sessionStorage.getItem(AREA_KEY);
  const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
  if (reloaded && before && before !== state.area) openWhenDrawn(before);
}

function openWhenDrawn(area) {
  const isThere = () => Boolean(document.querySelector(`#area-${area}-button`));
  if (isThere()) { openArea(area); return; }
  const watch = new MutationObserver(() => {
    if (!isThere()) return;
    watch.disconnect();
    openArea(area);
  });
  watch.observe(document.body, { subtree: true, childList: true });
}

// ---- which conversation is open is in the address

export function conversationInAddress() {
  return new URL(location.href).searchParams.get("c");
}

export function openConversation(id, { replace = false } = {}) {
  const url = new URL(location.href);
  url.searchParams.set("c", id);
  history[replace ? "replaceState" : "pushState"]({}, "", url);
  document.body.classList.remove("side-open");
  if (!replace && state.area !== "chat") openArea("chat"); // a replaced address is nobody's wish to go there
  emit("conversation", id);
}

export async function newConversation() {
  try {
    const { id } = await request("POST", "ui/conversations", { begin: true });
    openConversation(id);
    emit("conversations-changed");
  } catch (error) { report(error); }
}

// ---- light and dark

export function currentTheme() {
  return document.body.classList.contains("dark") ? "dark" : "light";
}

export function toggleTheme() {
  localStorage.setItem(THEME_KEY, currentTheme() === "dark" ? "light" : "dark");
  applyTheme();
}

function applyTheme() {
  const wanted = localStorage.getItem(THEME_KEY) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  if (document.body.classList.contains("dark") !== (wanted === "dark")) document.body.classList.toggle("dark", wanted === "dark");
  document.documentElement.style.colorScheme = wanted;
  emit("theme", wanted);
}

// ---- the model's state, asked for while somebody looks

let asking = 0;
export async function refreshModels() {
  clearTimeout(asking);
  try {
    if (!document.hidden) {
      state.models = await request("GET", "ui/models");
      emit("model", state.models);
    }
  } catch { /* the stream's own banner tells that the server is away */ }
  clearTimeout(asking);
  asking = setTimeout(refreshModels, state.models?.loading ? 1000 : state.area === "models" ? 2000 : 8000);
}

/** Name of the first loaded model, or "". */
export function loadedModel() {
  return state.models?.loaded?.[0]?.name ?? "";
}

/** The model that answers, in words: loaded, asleep, or none. */
export function modelInWords() {
  const asleep = state.models?.asleep?.[0];
  const { host, leaves } = state.models?.loaded?.[0] ?? {};
  const where = host ? (leaves ? " · leaves this machine" : " · another program here") : "";
  return shortName(loadedModel()) + where || (asleep ? `${shortName(asleep)} (asleep)` : "No model loaded");
}

/** A model's name without its folder and ending; one of another server says so. */
export function shortName(name) {
  const [, server, model] = name.match(/^remote\/([^/]+)\/(.+)$/) ?? [];
  if (server) return `${shortName(model)} at ${server}`;
  return name.replace(/\.gguf$/i, "").split("/").pop();
}

// ---- the frame around the views

function buildFrame() {
  const menu = iconButton("menu", "Conversations", () => toggleSide(), { id: "menu-button" });
  const settings = h("button", { type: "button", id: "settings-button", class: "bar-button", "aria-label": "Settings", "aria-expanded": "false" }, icon("sliders"), h("span", { text: "Settings" }));
  settings.addEventListener("click", () => toggleDrawer());
  settings.addEventListener("pointerenter", () => emit("drawer-meant"));
  const veil = h("div", { id: "veil", on: { click: () => document.body.classList.remove("side-open", "drawer-open") } });
  const skip = h("button", { type: "button", id: "skip", text: "Skip the list", on: { click: () => document.querySelector('#areas [role="tab"][aria-selected="true"]')?.focus() } });
  document.body.prepend(skip);
  document.body.append(menu, settings, veil);
}

/** Show or hide the list of conversations: over the page where that is narrow, else for good. */
export function toggleSide(open = !sideIsOpen()) {
  if (NARROW.matches) { document.body.classList.toggle("side-open", open); return; }
  document.body.classList.toggle("side-hidden", !open);
  localStorage.setItem(SIDE_KEY, open ? "shown" : "hidden");
}

function sideIsOpen() {
  return NARROW.matches ? document.body.matches(".side-open") : !document.body.matches(".side-hidden");
}

export function toggleDrawer(open = !document.body.classList.contains("drawer-open")) {
  document.body.classList.toggle("drawer-open", open);
  document.querySelector("#settings-button")?.setAttribute("aria-expanded", String(open));
  if (open) emit("drawer-opened");
}

/** Whether leaving is about the settings drawer: the person is in it or nowhere, or it covers everything; not about a list that is open in it. */
function drawerIsMeant(element) {
  const drawer = document.querySelector("#drawer");
  if (!drawer || !document.body.matches(".drawer-open") || element.matches?.('[aria-expanded="true"][role="listbox"], [aria-expanded="true"][role="combobox"]')) return false;
  return drawer.contains(element) || element === document.body || drawer.offsetWidth >= innerWidth;
}

/** Close the list that lies over the page, or the settings where the person is in them; whether there was something to leave. */
export function leaveSomething(element) {
  const overPage = document.body.matches(".side-open");
  if (!overPage && !drawerIsMeant(element)) return false;
  if (overPage) document.body.classList.remove("side-open"); else toggleDrawer(false);
  return true;
}

/** A private conversation does not come back when its page is loaded again. */
function leavePrivate() {
  if (!conversationInAddress()?.startsWith("p") || performance.getEntriesByType("navigation")[0]?.type === "navigate") return;
  history.replaceState({}, "", location.pathname);
  setTimeout(() => toast("The private conversation ended when its page was loaded again."), 500);
}

function start() {
  if (document.body.dataset.area) return;
  leavePrivate();
  document.body.dataset.area = "chat";
  applyTheme();
  new MutationObserver(applyTheme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  buildFrame();
  document.body.classList.toggle("side-hidden", localStorage.getItem(SIDE_KEY) === "hidden");
  document.addEventListener("click", (event) => { if (!NARROW.matches && event.target.closest?.(".side-close")) toggleSide(false); });
  watchAreas();
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshModels(); });
  window.addEventListener("popstate", () => emit("conversation", conversationInAddress()));
  refreshModels();
  import("./keys.js"); // it needs this module, so it comes after it
  import("./formula_copy.js");
  import("./footnotes.js");
  import("./form_groups.js");
  import("./page_memory.js");
  import("./people.js");
}

start();
