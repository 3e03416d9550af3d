// A well-known text that is not here yet: what it is, and its way from the hub. The server fetches; this only shows how far it is.

import { h } from "./dom.js";
import { size } from "./job_list.js";
import { request } from "./page.js";
import { button } from "./training_fields.js";

const ACTIVE = ["queued", "running"];
const PREFIX = "fetch:"; // of the values that stand for texts to be fetched

export const valueOf = (text) => text.name || `${PREFIX}${text.id}`;
export const isAway = (value) => value.startsWith(PREFIX);
export const isMoving = (text) => ACTIVE.includes(text.job?.status);

export class TextFetch {
  /** `changed()` is called when something was begun or stopped. */
  constructor(changed) {
    Object.assign(this, { changed, drawn: "", problem: "" });
    this.element = h("div", { class: "ppl-fetch", role: "group", "aria-label": "To be fetched", hidden: true });
  }

  /** Show one of the list, or nothing. */
  show(text) {
    if (text?.id !== this.text?.id) this.problem = "";
    this.text = text;
    const signature = JSON.stringify([text ?? null, this.problem]);
    if (signature === this.drawn || this.element.querySelector("button:active")) return; // a pressed button must live until it is let go
    this.drawn = signature;
    const held = this.element.contains(document.activeElement);
    this.element.hidden = !text;
    this.element.replaceChildren(...(text ? this.parts(text) : []));
    if (held) this.element.querySelector("button")?.focus();
  }

  parts(text) {
    const { job } = text;
    const about = h("p", { class: "model-note", text: `${text.about}. It is ${text.repo} on the hub; licence: ${text.licence}. Fetched, it is a data set like any other.` });
    const wrong = this.problem || (isMoving(text) ? job.warning : job?.error) || "";
    const share = job?.total ? Math.min(1, job.done / job.total) : null;
    const bar = isMoving(text) ? h("progress", { max: "1", ...(share === null ? {} : { value: String(share) }), "aria-label": `Progress of ${text.title}` }) : null;
    const again = job ? (job.status === "interrupted" ? "Resume" : "Try again") : "Fetch from the hub";
    const act = isMoving(text)
      ? button("Cancel", () => this.act(`ui/jobs/${job.id}/cancel`), { disabled: job.stopping, "aria-label": `Cancel ${text.title}` })
      : button(again, () => this.act(`ui/perplexity/texts/${text.id}/fetch`), { "aria-label": `${again}: ${text.title}` });
    return [about, wrong ? h("p", { class: "model-note bad", role: "alert", text: wrong }) : null, h("div", { class: "ppl-way" }, bar, h("span", { class: "job-facts", role: "status", text: facts(job, share) }), act)].filter(Boolean);
  }

  async act(path) {
    this.problem = "";
    try { await request("POST", path, {}); } catch (error) { this.problem = error.message; }
    this.changed();
  }
}

function facts(job, share) {
  if (!job) return "";
  const words = { queued: job.place ? `Waiting, place ${job.place}` : "Waiting", failed: "Failed", cancelled: "Cancelled", interrupted: job.paused ? "Paused" : "Interrupted" };
  const parts = [job.stopping ? "Stopping" : words[job.status] ?? ""];
  if (job.total) parts.push(`${size(job.done)} of ${size(job.total)} (${Math.floor(share * 100)} %)`);
  return parts.filter(Boolean).join(" · ");
}
