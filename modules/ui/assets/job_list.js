// Long work as cards: how far it is, how fast, what may be done with it. The server does the work; this only looks, so a reload changes nothing.

import { h, number } from "./dom.js";
import { report, request, state } from "./page.js";

const BUSY_MS = 700;
const IDLE_MS = 15000;
const ACTIVE = ["queued", "running"];
const PAUSABLE = ["download"]; // others begin anew

export class JobList {
  /** `onDone(job)` is told of every job of these kinds that ends well while the page looks. */
  constructor(kinds, onDone, title = "Downloads") {
    Object.assign(this, { kinds: [kinds].flat(), onDone, title, jobs: [], ended: null, timer: 0, drawn: "" });
    this.element = h("section", { class: "jobs", "aria-label": title, hidden: true });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
    document.addEventListener("jobs-changed", () => this.refresh());
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    if (!document.hidden && state.area === "models") {
      try {
        const { jobs } = await request("GET", "ui/jobs");
        this.jobs = jobs.filter((job) => this.kinds.includes(job.kind));
        this.tellEnds();
        this.draw();
      } catch { /* the chat's own banner tells that the server is away */ }
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), this.jobs.some((job) => ACTIVE.includes(job.status)) ? BUSY_MS : IDLE_MS);
  }

  tellEnds() {
    const done = this.jobs.filter((job) => job.status === "done");
    if (this.ended) for (const job of done) if (!this.ended.has(job.id)) this.onDone(job);
    this.ended = new Set(done.map((job) => job.id));
  }

  draw() {
    const signature = JSON.stringify(this.jobs);
    if (signature === this.drawn || this.element.querySelector("button:active")) return; // a pressed button must live until it is let go
    this.drawn = signature;
    this.element.hidden = !this.jobs.length;
    const focused = document.activeElement?.dataset?.act; // the poll must not take the focus from a button
    this.element.replaceChildren(h("h3", { text: this.title }), ...this.jobs.map((job) => this.card(job)));
    if (focused) this.element.querySelector(`[data-act="${focused}"]`)?.focus();
  }

  card(job) {
    const share = job.total ? Math.min(1, job.done / job.total) : null;
    const running = ACTIVE.includes(job.status);
    const bar = running || job.status === "interrupted" ? h("progress", share === null ? { max: "1", "aria-label": job.title } : { max: "1", value: String(share), "aria-label": job.title }) : null;
    const error = job.error || job.warning;
    return h("article", { class: `job ${job.status}`, data: { id: job.id } },
      h("header", {}, h("strong", { text: job.title }), h("span", { class: "grow" }), ...this.buttons(job)),
      bar, h("p", { class: "job-facts", text: facts(job, share) }),
      error ? h("p", { class: "model-note bad", text: error }) : null);
  }

  buttons(job) {
    const make = (verb, text, method = "POST", path = `/${verb}`) => h("button", {
      type: "button", class: "small-button", text, disabled: job.stopping, data: { act: `${verb}-${job.id}` }, "aria-label": `${text} ${job.title}`,
      on: { click: () => this.act(method, `ui/jobs/${job.id}${path}`) },
    });
    if (ACTIVE.includes(job.status)) return PAUSABLE.includes(job.kind) ? [make("pause", "Pause"), make("cancel", "Cancel")] : [make("cancel", "Cancel")];
    const remove = make("remove", "Remove from the list", "DELETE", "");
    return job.status === "done" ? [remove] : [make("resume", job.status === "interrupted" ? "Resume" : "Try again"), remove];
  }

  async act(method, path) {
    try { await request(method, path, method === "POST" ? {} : undefined); } catch (error) { report(error); }
    this.refresh();
  }
}

function facts(job, share) {
  const words = { queued: job.place ? `Waiting, place ${job.place}` : "Waiting", failed: "Failed", cancelled: "Cancelled", done: "Done" };
  const parts = [job.stopping ? "Stopping" : job.status === "interrupted" ? (job.paused ? "Paused" : "Interrupted") : words[job.status] ?? ""];
  const inBytes = job.unit === "bytes";
  const amount = inBytes ? size : (count) => number(Math.round(count));
  if (job.total && job.status !== "done") parts.push(`${amount(job.done)} of ${amount(job.total)}${inBytes ? "" : ` ${job.unit}`} (${Math.floor(share * 100)} %)`);
  const bytes = job.result?.bytes ?? (inBytes ? job.total : null);
  if (job.status === "done") parts.push(bytes === null ? "" : size(bytes), job.result?.name ?? "", job.result?.damaged?.length ? "damaged" : "");
  if (job.status === "running" && job.speed) parts.push(inBytes ? `${size(job.speed)}/s` : "", job.eta_s ? `about ${duration(job.eta_s)} left` : "");
  const { files, files_done: done } = job.metrics ?? {};
  if (files > 1 && job.status !== "done") parts.push(`${number(done)} of ${number(files)} files`);
  return parts.filter(Boolean).join(" · ");
}

export function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${Math.round((bytes ?? 0) / 1e3)} kB`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
