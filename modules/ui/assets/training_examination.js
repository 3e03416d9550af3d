// What a check found: the verdict, advice, counts, lengths, samples coloured token by token, and what a run would cost.

import { h, number, plural } from "./dom.js";
import { size } from "./job_list.js";
import { histogram } from "./training_chart.js";
import { button, duration } from "./training_fields.js";
import { verdictLine } from "./training_proof.js";

const WHY = { longest: "the longest", cut: "one that is cut" };
const ROLES = { chosen: "the better answer", rejected: "the worse answer", good: "a good answer", bad: "a bad answer" };
const KINDS = { trained: "learned", ignored: "read, not learned", cut: "cut off", left_out: "not shown" };
const WORDS = { green: "Ready", amber: "Look closely", red: "Not like this" };

export class Examination {
  constructor() {
    Object.assign(this, { drawn: "", place: 0 });
    this.element = h("section", { class: "train-examination", "aria-label": "What the check found", hidden: true });
  }

  show(examination) {
    const signature = JSON.stringify(examination);
    if (signature === this.drawn) return;
    this.drawn = signature;
    this.element.hidden = !examination;
    if (!examination) return;
    if (JSON.stringify(this.all) !== JSON.stringify(examination.samples)) this.place = 0;
    const { verdict, sentence, advice } = examination;
    this.tokens = h("div", { class: "train-tokens", tabindex: "0", role: "region", "aria-label": "Tokens of the sample" });
    this.which = h("span", { class: "model-note", role: "status" });
    this.element.replaceChildren(
      verdictLine(verdict, WORDS[verdict] ?? verdict, sentence),
      advice.length ? h("ul", { class: "train-advice" }, ...advice.map((text) => h("li", { text }))) : "",
      counts(examination), costs(examination), doubts(examination), lengths(examination), this.samples(examination));
  }

  samples({ samples }) {
    if (!samples.length) return "";
    this.all = samples;
    const turn = (way) => { this.place = (this.place + way + samples.length) % samples.length; this.drawSample(); };
    const box = h("div", { class: "train-token-box" },
      h("div", { class: "train-head" }, h("h4", { text: "What is learned, token by token" }), this.which,
        ...(samples.length > 1 ? [button("Previous", () => turn(-1), { "aria-label": "Previous sample" }), button("Next", () => turn(1), { "aria-label": "Next sample" })] : [])),
      h("p", { class: "train-legend" }, h("span", { class: "token trained", text: "learned" }), h("span", { class: "token ignored", text: "read, not learned" }), h("span", { class: "token cut", text: "cut off" })),
      this.tokens);
    this.drawSample();
    return box;
  }

  drawSample() {
    const sample = this.all[this.place];
    const words = [`${this.place + 1} of ${this.all.length}`, sample.where, plural(sample.count, "token"), WHY[sample.why] ?? "", ROLES[sample.role] ?? ""];
    this.which.textContent = words.filter(Boolean).join(" · ");
    this.tokens.replaceChildren(...sample.tokens.map(({ text, kind }) => h("span", { class: `token ${kind}`, text: shown(text), title: KINDS[kind] })));
    this.tokens.scrollTop = 0;
  }
}

/** A token as it can be seen: line breaks are marked and kept. */
function shown(text) {
  return text.replaceAll("\n", "⏎\n");
}

/** What a run would cost, as two tried steps told; until then that they are being tried. */
function costs({ probe, verdict, steps, steps_per_epoch: perEpoch }) {
  if (!probe) return verdict === "red" ? "" : h("p", { class: "model-note", text: "Time and memory are told when two steps have been tried." });
  const rows = [
    ["Time", probe.seconds_per_step ? `about ${duration(probe.hours * 3600)}` : ""],
    ["Steps", `${number(steps)}${probe.seconds_per_step ? `, ${probe.seconds_per_step.toFixed(2)} s each` : ""}`],
    ["Steps an epoch", number(perEpoch)],
    ["Memory", probe.peak_bytes ? size(probe.peak_bytes) : `about ${size(probe.forecast_bytes)}`],
    ["Learned", probe.trainable ? `${short(probe.trainable)} of ${short(probe.parameters)} numbers` : ""],
    ["On", probe.device],
  ].filter(([, value]) => value);
  return h("div", { class: "train-cost" }, probe.problem ? h("p", { class: "model-note bad", text: probe.problem }) : "",
    h("dl", { class: "train-costs" }, ...rows.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value })))));
}

function short(count) {
  return count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : count >= 1e4 ? `${Math.round(count / 1e3)} k` : number(count);
}

function counts({ counts: found, template }) {
  const some = (count, words) => (count ? `${number(count)} ${words}` : "");
  const rows = [
    plural(found.samples, "sample"), found.sequences !== found.samples ? plural(found.sequences, "sequence") : "",
    `${plural(found.trained_tokens, "token")} learned, ${number(found.ignored_tokens)} only read`, `${plural(found.held_out, "sample")} held out`,
    some(found.cut, `cut at the limit, losing ${plural(found.cut_tokens, "token")}`), some(found.dropped, "too long and left out"), some(found.empty, "empty"),
    some(found.unlearned, "without anything to learn"), some(found.refused, "refused by the template"),
    some(found.exact, "the same as another"), some(found.near, "nearly the same as another"), template ? `chat template: ${template}` : "",
  ].filter(Boolean);
  return h("ul", { class: "facts" }, ...rows.map((text) => h("li", { text })));
}

/** What keeps samples from being read, and what the template does with this model. */
function doubts({ problems, findings }) {
  const told = [...problems, ...findings.filter((row) => row.level !== "ok").map((row) => row.sentence)];
  if (!told.length) return "";
  return h("details", { class: "train-fold", open: problems.length > 0 }, h("summary", { text: problems.length ? "What could not be read, and the template" : "About the template" }),
    h("ul", { class: "train-advice" }, ...told.map((text) => h("li", { text }))));
}

function lengths({ lengths: bars, limit_tokens: limit }) {
  return bars.length ? histogram("Length of the samples, in tokens", bars, limit) : "";
}
