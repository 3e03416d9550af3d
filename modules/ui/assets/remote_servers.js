// Other servers whose models can be used: add one, try it, see how its addresses are, load its models. Names and texts of servers are set as text.

import { askInPlace, h, icon, number, plural } from "./dom.js";
import { listen, refreshModels, report, request, state, toast } from "./page.js";
import { remoteBadge } from "./remote_row.js";

const LOOK_MS = 2000;
const NONE_MS = 12000; // without any there is only one to be seen that another page adds
const SHOWN = 8; // models of a server that are shown without a filter
const KINDS = [["auto", "Recognise it"], ["vllm", "vLLM"], ["sglang", "SGLang"], ["llama-server", "llama-server"], ["ollama", "Ollama"], ["tgi", "TGI"], ["paddock", "Paddock"], ["openai", "OpenAI-compatible"]];
const WORDS = { up: "answers", down: "does not answer", refused: "refuses", unknown: "not asked yet" };

class RemoteServers {
  constructor(element, trigger) {
    Object.assign(this, { trigger, rows: new Map(), timer: 0 });
    this.list = h("div", { class: "model-rows" });
    this.none = h("p", { class: "side-note", text: "No server is added yet. Add one by its address, like http://gpu-box:8000, and test it." });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.form = this.buildForm();
    element.replaceChildren(h("section", { class: "hub remote-servers", "aria-label": "Other servers" },
      h("header", { class: "list-head" }, h("h2", { text: "Other servers" })),
      h("p", { class: "model-note", text: "Models of vLLM, SGLang, llama-server, Ollama, TGI, another Paddock, or any server that speaks OpenAI's API. What you send to such a model leaves this machine, unless its server runs here." }),
      this.none, this.list, this.form));
    element.removeAttribute("aria-busy");
    listen("area", () => this.follow());
    listen("model", () => { for (const row of this.rows.values()) row.drawModels(); });
    document.addEventListener("visibilitychange", () => this.follow());
    this.follow();
  }

  /** Look again and again while somebody sees it. */
  async follow() {
    clearTimeout(this.timer);
    if (document.hidden || state.area !== "models") return;
    try { this.draw((await request("GET", "ui/remote")).servers); } catch { /* the chat's own banner tells that the server is away */ }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.follow(), this.rows.size ? LOOK_MS : NONE_MS);
  }

  draw(servers) {
    this.none.hidden = servers.length > 0;
    for (const [name, row] of this.rows) if (!servers.some((server) => server.name === name)) { row.element.remove(); this.rows.delete(name); }
    for (const server of servers) {
      if (!this.rows.has(server.name)) {
        const row = new ServerRow(server, this.trigger, () => this.follow());
        this.rows.set(server.name, row);
        this.list.append(row.element);
      }
      this.rows.get(server.name).update(server);
    }
  }

  buildForm() {
    const field = (label, input, note = "") => h("label", { class: "remote-field" }, h("span", { text: label }), input, note ? h("span", { class: "model-note", text: note }) : null);
    this.name = h("input", { type: "text", maxlength: "40", placeholder: "gpu-box", autocomplete: "off" });
    this.urls = h("textarea", { rows: "2", placeholder: "http://gpu-box:8000", spellcheck: "false", autocomplete: "off" });
    this.key = h("input", { type: "password", autocomplete: "off", placeholder: "None" });
    this.kind = h("select", {}, ...KINDS.map(([value, text]) => h("option", { value, text })));
    this.aliases = h("textarea", { rows: "2", placeholder: "qwen = Qwen/Qwen3-8B, qwen3:8b", spellcheck: "false", autocomplete: "off" });
    this.tested = h("div", { role: "status" });
    const test = h("button", { type: "button", class: "small-button", text: "Test connection", on: { click: () => this.send(test, "test") } });
    const add = h("button", { type: "submit", class: "small-button primary", text: "Add" });
    const form = h("form", { class: "remote-form", on: { submit: (event) => { event.preventDefault(); this.send(add, "add"); } } },
      field("Name", this.name), field("Addresses, one a line", this.urls, "Several addresses serve the same models: the least busy one answers, and another one when it fails."),
      field("Key", this.key, "Kept readable by you only, sent to these addresses, and never shown again."), field("Kind", this.kind),
      field("Shared names", this.aliases, "Only where addresses call the same model differently: your name = their names, one model a line."),
      this.problem, this.tested, h("div", { class: "remote-buttons" }, test, add));
    return h("details", { class: "hub-card" }, h("summary", { text: "Add a server" }), form);
  }

  values() {
    const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
    const aliases = Object.fromEntries(lines(this.aliases.value).map((line) => {
      const [alias, names = ""] = line.split(/=(.*)/s);
      return [alias.trim(), names.split(",").map((name) => name.trim()).filter(Boolean)];
    }));
    return { name: this.name.value.trim(), urls: lines(this.urls.value), key: this.key.value || null, kind: this.kind.value, aliases };
  }

  async send(button, verb) {
    this.problem.hidden = true;
    this.tested.replaceChildren(verb === "test" ? h("p", { class: "model-note", text: "Asking…" }) : "");
    button.disabled = true;
    try {
      const answer = await request("POST", `ui/remote/${verb}`, this.values());
      if (verb === "test") this.tested.replaceChildren(...answer.addresses.map((address) => addressLine(address)), modelWords(answer));
      else this.added();
    } catch (error) {
      this.tested.replaceChildren();
      this.problem.replaceChildren(h("span", { text: error.message })); // what was typed stays
      this.problem.hidden = false;
    }
    button.disabled = false;
  }

  added() {
    toast(`${this.name.value.trim()} is added. Load one of its models.`);
    for (const input of [this.name, this.urls, this.key, this.aliases]) input.value = "";
    this.kind.value = "auto";
    this.form.open = false;
    this.follow();
    refreshModels();
  }
}

/** One server: built once, then told what is new, so that nothing is taken from under somebody's finger. */
class ServerRow {
  constructor(server, trigger, onRemoved) {
    Object.assign(this, { server, trigger, onRemoved, drawn: "" });
    this.addresses = h("div", { class: "remote-addresses" });
    this.notes = h("div", {});
    this.search = h("input", { type: "search", placeholder: "Filter models", "aria-label": `Filter models of ${server.name}` });
    this.search.addEventListener("input", () => this.drawModels());
    this.filter = h("label", { class: "search" }, icon("search"), this.search);
    this.models = h("ul", { class: "hub-choices", "aria-label": `Models of ${server.name}` });
    const tools = h("div", { class: "model-tools" }, h("button", { type: "button", class: "small-button", text: "Remove", "aria-label": `Remove ${server.name}`, on: { click: () => this.remove(tools) } }));
    const host = server.addresses.map((address) => address.host).join(", ");
    this.element = h("article", { class: "model-row remote-server", data: { name: server.name } },
      h("div", { class: "model-about" }, h("h2", {}, h("span", { text: server.name }), remoteBadge({ host, leaves: server.leaves }), server.has_key ? h("span", { class: "badge quiet", text: "Key kept" }) : ""), this.addresses, this.notes),
      tools, h("div", { class: "remote-models" }, this.filter, this.models));
  }

  update(server) {
    this.server = server;
    this.addresses.replaceChildren(...server.addresses.map((address) => addressLine(address)));
    const open = server.key_is_open ? "The key goes there unencrypted (http): anybody on the way can read it. Use https, or a network you trust." : "";
    this.notes.replaceChildren(open ? h("p", { class: "model-note bad", text: open }) : "", server.models.length ? "" : modelWords(server));
    this.drawModels();
  }

  drawModels() {
    const { models, name } = this.server;
    const loaded = state.models?.loaded.map((card) => card.name) ?? [];
    const wanted = this.search.value.trim().toLowerCase();
    const found = models.filter((model) => model.name.toLowerCase().includes(wanted));
    const shown = wanted ? found.slice(0, 100) : found.slice(0, SHOWN);
    const signature = JSON.stringify([shown, found.length, loaded, state.models?.loading?.name]);
    this.filter.hidden = models.length <= SHOWN;
    if (signature === this.drawn || this.models.querySelector("button:active")) return;
    this.drawn = signature;
    const held = this.models.contains(document.activeElement) ? document.activeElement.dataset.act : ""; // a drawing must not take the focus
    const more = found.length - shown.length;
    this.models.replaceChildren(...shown.map((model) => this.model(model, `remote/${name}/${model.name}`, loaded)),
      more > 0 ? h("li", { class: "model-note", text: `and ${number(more)} more: filter by name` }) : "");
    if (held) this.models.querySelector(`[data-act="${CSS.escape(held)}"]`)?.focus();
  }

  model(model, full, loaded) {
    const isLoaded = loaded.includes(full);
    const verb = isLoaded ? "Unload" : "Load";
    const act = () => { this.trigger(`${verb.toLowerCase()}_model`, { name: full }); setTimeout(refreshModels, 250); };
    const button = h("button", { type: "button", class: isLoaded ? "small-button" : "small-button primary", text: verb, "aria-label": `${verb} ${model.name} of ${this.server.name}`, disabled: Boolean(state.models?.loading), data: { act: full }, on: { click: act } });
    return h("li", { class: "remote-model" }, h("span", { text: model.name }), isLoaded ? h("span", { class: "badge", text: "Loaded" }) : "",
      model.context_length ? h("span", { class: "model-note", text: `${number(model.context_length)} context` }) : "", h("span", { class: "grow" }), button);
  }

  async remove(tools) {
    const { name, has_key: key } = this.server;
    if (!await askInPlace(tools, `Remove ${name}${key ? " and its key" : ""}?`, "Remove")) return;
    try {
      await request("POST", "ui/remote/remove", { name });
      toast(`${name} is removed.`);
    } catch (error) { report(error); }
    this.onRemoved();
    refreshModels();
  }
}

function addressLine(address) {
  const kind = KINDS.find(([value]) => value === address.kind)?.[1] ?? "";
  const facts = address.state === "up" ? [kind, plural(address.models, "model"), address.latency_s === null ? "" : `${Math.round(address.latency_s * 1000)} ms`, address.busy ? plural(address.busy, "reply").replace("replys", "replies") : ""] : [address.detail];
  return h("p", { class: "remote-address", data: { state: address.state } }, h("span", { class: "lamp" }), h("strong", { text: address.host }),
    h("span", { text: [WORDS[address.state], ...facts].filter(Boolean).join(" · ") }));
}

function modelWords({ models, addresses }) {
  if (models.length) return h("p", { class: "model-note", text: `Models: ${models.slice(0, 5).map((model) => model.name).join(", ")}${models.length > 5 ? ` and ${models.length - 5} more` : ""}` });
  const isUp = addresses.some((address) => address.state === "up");
  return h("p", { class: "model-note", text: isUp ? "It lists no model; load one there." : "Its models are listed as soon as an address answers." });
}

export function mount(element, { trigger }) {
  return new RemoteServers(element, trigger);
}
