// The models, or the adapters, as a collection: what is known of each beside its header, verifications that run, and the bin.

import { askInPlace, h } from "./dom.js";
import { JobList, size } from "./job_list.js";
import { listen, refreshModels, report, request, shortName, state, toast } from "./page.js";

export class Library {
  /** Below `path` are its routes; `onChange` is called when something that rows show has changed. */
  constructor(path, title, onChange) {
    Object.assign(this, { path, title, onChange, shelf: new Map(), said: new Map(), updates: new Map(), places: new Map(), binned: [], known: "", drawnBin: "" });
    this.hasPins = path === "ui/library";
    this.bin = h("section", { class: "model-bin", "aria-label": title, hidden: true });
    listen("model", () => this.follow());
    listen("area", (area) => { if (area === "models") this.refresh(); });
  }

  /** Look again when models came, went, or were loaded. */
  follow() {
    const rows = [...state.models.models, ...state.models.adapters].map((row) => [row.name, row.size_bytes]);
    const known = JSON.stringify([rows, state.models.loaded.map((card) => [card.name, card.adapters])]);
    if (known === this.known || state.area !== "models") return;
    this.known = known;
    this.refresh();
  }

  async refresh() {
    let found;
    try { found = await request("GET", this.path); } catch { return; } // the chat's own banner tells that the server is away
    this.shelf = new Map(found.rows.map((row) => [row.name, row]));
    this.binned = found.bin;
    this.drawBin();
    this.onChange();
  }

  of(name) {
    return this.shelf.get(name) ?? null;
  }

  /** What a row shows, as plain values: rows are drawn again when it changes. */
  seen(name) {
    return [this.of(name), this.said.get(name), this.updates.get(name), this.places.get(name)];
  }

  say(name, sentence) {
    if (sentence) this.said.set(name, sentence);
    else this.said.delete(name);
    this.onChange();
  }

  /** Do something with one; what went wrong stays in its row as a sentence. Returns the answer, or null. */
  async act(name, verb, body = {}) {
    this.said.delete(name);
    try {
      const answer = await request("POST", `${this.path}/${verb}`, { name, ...body });
      if (["rename", "delete", "pin"].includes(verb)) await refreshModels();
      await this.refresh();
      return answer;
    } catch (error) {
      this.say(name, error.message);
      return null;
    }
  }

  async verify(name) {
    if (await this.act(name, "verify")) document.dispatchEvent(new Event("jobs-changed"));
  }

  /** Show its folder in the file manager of this machine, or tell where it is. */
  async openFolder(name) {
    const found = await this.act(name, "folder");
    if (!found) return;
    if (found.shown) toast("The folder is open in the file manager.");
    else this.tellPlace(name, found.folder);
  }

  tellPlace(name, folder) {
    if (folder) this.places.set(name, folder);
    else this.places.delete(name);
    this.onChange();
  }

  async checkUpdate(name) {
    this.updates.set(name, { asking: true });
    this.say(name, "");
    const update = await this.act(name, "check-update");
    if (update) this.updates.set(name, update);
    else this.updates.delete(name);
    this.onChange();
  }

  async downloadUpdate(name, update) {
    try {
      await request("POST", "ui/hub/download", { repo: update.repo, revision: update.commit, files: update.files, kind: update.kind });
      this.updates.delete(name);
      toast("The newer version is being downloaded beside this one.");
      document.dispatchEvent(new Event("jobs-changed"));
      this.onChange();
    } catch (error) { this.say(name, error.message); }
  }

  forgetUpdate(name) {
    this.updates.delete(name);
    this.onChange();
  }

  // ---- bin

  drawBin() {
    const signature = JSON.stringify(this.binned);
    if (signature === this.drawnBin) return;
    this.drawnBin = signature;
    this.bin.hidden = !this.binned.length;
    this.bin.replaceChildren(h("header", { class: "list-head" }, h("h2", { text: this.title })),
      h("p", { class: "model-note", text: "What was deleted still takes space here. Each goes for good after 30 days." }),
      ...this.binned.map((row) => this.binRow(row)));
  }

  binRow(row) {
    const left = row.days_left === 1 ? "1 day left" : `${row.days_left} days left`;
    const tools = h("div", { class: "model-tools" },
      h("button", { type: "button", class: "small-button", text: "Restore", "aria-label": `Restore ${row.name}`, on: { click: () => this.empty(row, "restore", `${row.name} is back.`) } }),
      h("button", { type: "button", class: "small-button", text: "Delete for good", "aria-label": `Delete ${row.name} for good`, on: { click: async () => {
        if (await askInPlace(tools, `Delete ${row.name} for good?`, "Delete for good")) await this.empty(row, "discard", `${row.name} is deleted.`);
      } } }));
    return h("div", { class: "bin-row", data: { name: row.name } },
      h("div", { class: "model-about" }, h("strong", { text: row.name }), h("p", { class: "model-note", text: `${size(row.size_bytes)} · deleted ${day(row.deleted_s * 1000)} · ${left}` })), tools);
  }

  async empty(row, verb, sentence) {
    try {
      await request("POST", `${this.path}/${verb}`, { id: row.id });
      toast(sentence);
    } catch (error) { report(error); }
    if (verb === "restore") await refreshModels();
    await this.refresh();
  }
}

/** The verifications that run, and what they found. */
export function verifications(...libraries) {
  const jobs = new JobList("verify", async (job) => {
    const { name, damaged, compared } = job.result ?? {};
    await request("DELETE", `ui/jobs/${job.id}`).catch(() => null); // what it found stands in the row
    const short = shortName(name);
    const sentence = compared ? `All files of ${short} are as they should be.` : `It is not known how the files of ${short} should be. Their hashes are kept: a later look tells whether they changed.`;
    toast(damaged?.length ? `${short} is damaged.` : sentence, damaged?.length ? "error" : "info");
    await Promise.all(libraries.map((library) => library.refresh()));
    jobs.refresh();
  }, "Verifications");
  listen("area", (area) => { if (area === "models") jobs.refresh(); });
  return jobs;
}

/** Facts beside the header, as short texts. */
export function shelfFacts(row) {
  if (!row) return [];
  const good = row.has_hashes_since ? `unchanged since ${day(row.has_hashes_since)}` : `verified ${day(row.verified)}`;
  const verified = { good, kept: `hashes kept ${day(row.verified)}`, changed: `changed since ${day(row.verified)}` }[row.verified_state] ?? "";
  return [row.licence ? `licence ${row.licence}` : "", row.used_s ? `last used ${day(row.used_s * 1000)}` : "", verified].filter(Boolean);
}

/** Where it came from, the person's note, and what is wrong with it. */
export function shelfNotes(row) {
  if (!row) return [];
  const files = row.damaged.slice(0, 5).join(", ") + (row.damaged.length > 5 ? ` and ${row.damaged.length - 5} more` : "");
  const isOld = row.has_hashes_since;
  const damage = row.verified_state !== "damaged" ? "" : isOld ? `Other than on ${day(isOld)}, or missing: ${files}.` : `Damaged: ${files}. Delete it, then download it again.`;
  return [
    row.repo ? h("p", { class: "model-note", text: `From ${row.repo} at ${row.commit.slice(0, 12)}${row.fetched ? `, downloaded ${day(row.fetched)}` : ""}` }) : null,
    row.note ? h("p", { class: "model-note own", text: row.note }) : null,
    damage ? h("p", { class: "model-note bad", text: damage }) : null,
  ];
}

/** Where a model lies, if not among one's own. */
export function sourceBadge(model) {
  return model.source ? h("span", { class: "badge quiet", text: `${model.source} · read only`, title: "It lies in the folder of another program, where nothing is changed" }) : null;
}

/** That a model's own code runs when it is loaded, where the command line trusts it. */
export function codeBadge(model) {
  return model.trusted_code ? h("span", { class: "badge bad", text: "Runs its own code", title: `The command line trusts its Python files at ${model.trusted_code}` }) : null;
}

/** A day as written everywhere: 2026-02-03, in this place's time. */
function day(time) {
  return new Date(time).toLocaleDateString("en-CA");
}
