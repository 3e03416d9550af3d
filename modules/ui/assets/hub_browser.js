// Getting models: search the hub or paste a name or link, see what there is and what fits into memory, download. Names and texts of the hub are set as text.

import { h, icon, iconButton, number, safeBlock } from "./dom.js";
import { HubFilters, select } from "./hub_filters.js";
import { JobList, size } from "./job_list.js";
import { listen, refreshModels, report, request, toast } from "./page.js";

const KINDS = { gguf: "GGUF", folder: "safetensors", adapter: "LoRA adapter", file: "file" };
const SORTS = [["downloads", "Most downloaded"], ["trending", "Trending"], ["likes", "Most liked"], ["updated", "Last updated"], ["created", "Newest"]];
const FITS_AT_ONCE = 4;
const CHOICES_JUDGED = 200;
const LOOK_MS = 5000; // until the speed of this machine is known
const LOOKS_LIKE_A_NAME = /^(https?:\/\/|hf\.co\/|huggingface\.co\/)|^[\w.-]+\/[\w.-]+/;

class HubBrowser {
  constructor(element) {
    this.state = { endpoint: "", offline: false, has_token: false, memory_bytes: 0 };
    this.asked = 0;
    this.text = h("input", { type: "search", "aria-label": "Search models or paste a link", placeholder: "Search, or paste a name like owner/name or a link", autocomplete: "off" });
    this.library = select("Format", [["", "Any format"], ["gguf", "GGUF"], ["safetensors", "safetensors"]]);
    this.sort = select("Order", SORTS);
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.results = h("div", { class: "hub-results", role: "region", "aria-label": "Found models", "aria-live": "polite" });
    this.jobs = new JobList("download", (job) => this.downloaded(job));
    this.token = h("details", { class: "hub-token" });
    const form = h("form", { class: "hub-search", role: "search", on: { submit: (event) => { event.preventDefault(); this.find(); } } },
      h("label", { class: "search" }, icon("search"), this.text), this.library, this.sort, h("button", { type: "submit", class: "small-button primary", text: "Find" }));
    this.filters = new HubFilters(() => this.find());
    element.replaceChildren(h("section", { class: "hub", "aria-label": "Get models" },
      h("header", { class: "list-head" }, h("h2", { text: "Get models" })), form, this.filters.element, this.problem, this.jobs.element, this.results, this.token));
    element.removeAttribute("aria-busy");
    for (const choice of [this.library, this.sort]) choice.addEventListener("change", () => { if (this.text.value.trim() || this.filters.count()) this.find(); });
    listen("area", (area) => { if (area === "models") { this.refreshState(); this.jobs.refresh(); } });
    this.refreshState();
  }

  async refreshState() {
    try { this.state = await request("GET", "ui/hub"); } catch { return; }
    this.drawToken();
    if (this.results.childElementCount) return;
    const { offline, endpoint } = this.state;
    this.say(offline ? "Offline mode is on: nothing is searched or downloaded. Start Paddock without --offline to change that."
      : `Nothing is asked of ${endpoint.replace(/^https?:\/\//, "")} until you search. Downloads are verified, and can be paused and resumed.`);
    this.results.append(this.firstModels());
  }

  /** Suggestions for whoever has not searched yet: the largest that fit into the free memory. */
  firstModels() {
    const { first, memory_bytes: free, offline } = this.state;
    const fitting = (first?.models ?? []).filter((model) => model.needs_gb * 1e9 <= free).slice(-4).reverse();
    if (offline || !fitting.length) return "";
    const row = (model) => h("li", {}, h("button", { type: "button", class: "hub-row", on: { click: () => { this.text.value = model.name; this.open(model.name); } } },
      h("strong", { text: model.name }), h("span", { class: "model-note", text: `${model.about} · needs about ${model.needs_gb} GB` })));
    return h("section", { "aria-label": "Good first models" }, h("p", { class: "side-note", text: `Good first models for ${size(free)} of free memory (list of ${first.dated}):` }),
      h("ul", { class: "hub-rows" }, ...fitting.map(row)));
  }

  say(sentence) {
    this.results.replaceChildren(h("p", { class: "side-note", text: sentence }));
  }

  showProblem(error) {
    this.problem.hidden = !error;
    if (!error) return;
    const url = error.details?.url;
    this.problem.replaceChildren(h("span", { text: error.message }), url ? h("a", { href: url, target: "_blank", rel: "noopener noreferrer", text: "Open its page" }) : "");
  }

  async ask(sentence, work) {
    const mine = ++this.asked;
    this.showProblem(null);
    this.say(sentence);
    this.results.setAttribute("aria-busy", "true");
    try {
      const answer = await work();
      return mine === this.asked ? answer : null;
    } catch (error) {
      if (mine === this.asked) { this.results.replaceChildren(); this.showProblem(error); }
      return null;
    } finally { if (mine === this.asked) this.results.removeAttribute("aria-busy"); }
  }

  find() {
    const text = this.text.value.trim();
    return LOOKS_LIKE_A_NAME.test(text) ? this.open(text) : this.search(text);
  }

  async search(query) {
    const found = await this.ask("Searching…", () => request("POST", "ui/hub/search", { query, library: this.library.value, sort: this.sort.value, ...this.filters.values() }));
    if (!found) return;
    if (found.rows.length) this.results.replaceChildren(h("ul", { class: "hub-rows" }, ...found.rows.map((row) => this.row(row))));
    else this.say(this.filters.count() ? "Nothing found. Try fewer filters, fewer letters of the name, or another format." : "Nothing found. Try fewer letters of the name, or another format.");
  }

  row(row) {
    const facts = [
      row.parameters ? `${short(row.parameters)} parameters` : "", ...row.formats, row.task, row.licence, row.gated ? "gated" : "",
      `${short(row.downloads)} downloads`, `${short(row.likes)} likes`, row.updated ? row.updated.slice(0, 10) : "",
    ].filter(Boolean);
    return h("li", {}, h("button", { type: "button", class: "hub-row", on: { click: () => this.open(row.repo) } },
      h("strong", { text: row.repo }), h("span", { class: "model-note", text: facts.join(" · ") })));
  }

  async open(text) {
    const repo = await this.ask(`Looking into ${text}…`, () => request("POST", "ui/hub/open", { text }));
    if (!repo) return;
    const back = iconButton("left", "Back to the search", () => { this.results.replaceChildren(); if (this.text.value.trim() && !LOOKS_LIKE_A_NAME.test(this.text.value.trim())) this.find(); else this.refreshState(); });
    const facts = [repo.licence ? `licence ${repo.licence}` : "no licence named", repo.task, `${short(repo.downloads)} downloads`, repo.updated ? `updated ${repo.updated.slice(0, 10)}` : ""].filter(Boolean);
    const card = h("details", { class: "hub-card" }, h("summary", { text: "About this model" }), h("div", { class: "markdown" }));
    card.lastElementChild.append(...repo.card.map(safeBlock));
    const ordered = repo.picked >= 0 ? [repo.choices[repo.picked], ...repo.choices.filter((_, index) => index !== repo.picked)] : repo.choices;
    const none = "There is nothing here that Paddock can load: no GGUF and no safetensors file.";
    this.results.replaceChildren(
      h("header", { class: "list-head" }, back, h("h3", { text: repo.repo }), h("span", { class: "grow" })),
      h("p", { class: "model-note", text: facts.join(" · ") }),
      ordered.length ? h("ul", { class: "hub-choices" }, ...ordered.map((choice) => this.choice(repo, choice))) : h("p", { class: "side-note", text: none }),
      repo.card.length ? card : "", refusedFiles(repo.refused));
    this.refine(repo, ordered);
  }

  // The rule of thumb gives way to what the headers say, a few at a time and only while this repository is shown.
  async refine(repo, choices) {
    const mine = this.asked;
    const able = choices.filter((choice) => this.judged(choice) && !choice.problem);
    const waiting = [...able];
    const projector = projectorBytes(repo);
    const rows = new Map([...this.results.querySelectorAll(".hub-choice")].map((row) => [row.dataset.label, row]));
    let measuring = false;
    const work = async () => {
      for (let choice = waiting.shift(); choice && mine === this.asked; choice = waiting.shift()) {
        const note = rows.get(choice.label).querySelector(".fit");
        try {
          const sizes = choice.kind === "gguf" ? { bytes: choice.bytes, projector_bytes: projector } : {};
          const found = await request("POST", "ui/fit/hub", { repo: repo.repo, revision: repo.commit, files: choice.files, kind: choice.kind, ...sizes });
          if (mine !== this.asked) return;
          measuring ||= found.measuring;
          note.textContent = found.sentence + (found.measuring ? " How fast it would write is told when this machine has been measured, in a minute or two." : "");
          note.classList.toggle("bad", found.one.kind === "no");
        } catch { /* the rule of thumb stays */ }
      }
    };
    await Promise.all(Array.from({ length: FITS_AT_ONCE }, work));
    if (mine !== this.asked) return;
    if (able.length) await this.recommend(repo, able, rows, mine);
    if (measuring) setTimeout(() => { if (mine === this.asked) this.refine(repo, choices); }, LOOK_MS);
  }

  /** Mark the choice that suits this machine best, and put it first unless a link named another one. */
  async recommend(repo, choices, rows, mine) {
    const asked = choices.slice(0, CHOICES_JUDGED).map(({ label, files, kind, quantization, bytes }) => ({ label, files, kind, quantization, bytes }));
    const { label, reason } = await request("POST", "ui/fit/recommend", { repo: repo.repo, revision: repo.commit, choices: asked, projector_bytes: projectorBytes(repo) }).catch(() => ({}));
    const row = rows.get(label);
    if (!row || mine !== this.asked || row.querySelector(".recommended")) return;
    row.querySelector("strong").after(h("span", { class: "badge recommended", text: "Recommended" }));
    row.querySelector(".fit").before(h("p", { class: "model-note", text: reason }));
    row.setAttribute("aria-current", "true");
    for (const other of rows.values()) if (other !== row) other.querySelector(".primary")?.classList.remove("primary");
    if (repo.picked < 0 && !row.parentElement.contains(document.activeElement)) row.parentElement.prepend(row);
  }

  judged(choice) {
    return !choice.addon && ["gguf", "folder"].includes(choice.kind);
  }

  choice(repo, choice) {
    const room = this.state.memory_bytes - choice.needed_bytes;
    const fits = !this.judged(choice) ? "" : room >= 0 ? `fits: about ${size(choice.needed_bytes)} of ${size(this.state.memory_bytes)} free memory`
      : `does not fit: needs about ${size(choice.needed_bytes)}, free are ${size(this.state.memory_bytes)}`;
    const facts = [KINDS[choice.kind], choice.quantization, size(choice.bytes), choice.files.length > 1 ? `${number(choice.files.length)} files` : ""].filter(Boolean);
    const button = choice.problem || choice.installed ? null
      : h("button", { type: "button", class: "small-button primary", text: "Download", "aria-label": `Download ${choice.label}`, on: { click: (event) => this.download(repo, choice, event.currentTarget) } });
    return h("li", { class: "hub-choice", data: { label: choice.label } },
      h("div", { class: "model-about" }, h("strong", { text: choice.label }), choice.installed ? h("span", { class: "badge", text: "On this machine" }) : "",
        h("ul", { class: "facts" }, ...facts.map((fact) => h("li", { text: fact }))),
        fits ? h("p", { class: `model-note fit${room < 0 ? " bad" : ""}`, text: fits }) : null,
        ...choice.notes.map((note) => h("p", { class: "model-note", text: note })),
        choice.problem ? h("p", { class: "model-note bad", text: choice.problem }) : null),
      button);
  }

  async download(repo, choice, button) {
    this.showProblem(null);
    button.disabled = true;
    try {
      await request("POST", "ui/hub/download", { repo: repo.repo, revision: repo.commit, files: choice.files, kind: choice.kind });
      button.textContent = "Downloading";
      await this.jobs.refresh();
      this.jobs.element.scrollIntoView({ behavior: "smooth", block: "nearest" });
    } catch (error) { button.disabled = false; this.showProblem(error); }
  }

  downloaded(job) {
    const where = job.result?.kind === "dataset" ? "It is among the data sets of the Training page." : "Load it above.";
    toast(`${job.result?.name ?? job.title} is downloaded and verified. ${where}`);
    refreshModels();
  }

  drawToken() {
    const { has_token: has, endpoint } = this.state;
    const input = h("input", { type: "password", "aria-label": "Token", autocomplete: "off", placeholder: has ? "A token is kept; type another to replace it" : "hf_…" });
    const save = async (token) => {
      try {
        const { account } = await request("PUT", "ui/hub/token", { token });
        toast(token ? `The token of ${account} is kept.` : "The token is forgotten.");
        this.refreshState();
      } catch (error) { report(error); }
    };
    const form = h("form", { class: "hub-search", on: { submit: (event) => { event.preventDefault(); save(input.value); } } }, input,
      h("button", { type: "submit", class: "small-button", text: "Keep" }), has ? h("button", { type: "button", class: "small-button", text: "Forget", on: { click: () => save("") } }) : "");
    this.token.replaceChildren(h("summary", { text: has ? "Token for gated models: kept" : "Token for gated models" }),
      h("p", { class: "model-note", text: `Some models want an account: accept their licence on their page, make a token there, and keep it here. It is stored readable by you only, sent to ${endpoint.replace(/^https?:\/\//, "")} and never shown again.` }), form);
  }
}

function refusedFiles(refused) {
  if (!refused.length) return "";
  return h("details", { class: "hub-card" }, h("summary", { text: `${number(refused.length)} files are not offered` }),
    h("ul", {}, ...refused.map((row) => h("li", { class: "model-note", text: `${row.path} ${row.reason}.` }))));
}

function short(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)} B`;
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : count >= 1e3 ? `${(count / 1e3).toFixed(0)} k` : number(count ?? 0);
}

/** Size of the smallest projector of a repository; 0 without one. */
function projectorBytes(repo) {
  const sizes = repo.choices.filter((choice) => choice.addon && !choice.problem).map((choice) => choice.bytes);
  return sizes.length ? Math.min(...sizes) : 0;
}

export function mount(element) {
  return new HubBrowser(element);
}
