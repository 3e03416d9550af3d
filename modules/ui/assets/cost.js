// What a text cost, in words: the same under a reply, in the notebook and for the last requests of a model.

import { number, plural } from "./dom.js";

const LEAST_READ_S = 0.01;
const WORTH_TELLING_S = 0.1; // a shorter wait or pause is not felt

/** "412 of 450 prompt tokens reused", "read in 0.20 s", "longest pause 0.40 s", "gave way 2 times"; nothing of what is not known. */
export function costInWords(cost) {
  const { prompt_tokens: prompt, reused_tokens: reused, queue_s: queue = 0, prefill_s: prefill = 0, longest_gap_s: gap = 0 } = cost;
  const read = reused ? `${number(reused)} of ${plural(prompt, "prompt token")} reused` : `Prompt ${plural(prompt ?? 0, "token")}`;
  return [
    prompt === undefined ? "" : read,
    queue >= WORTH_TELLING_S ? `waited ${seconds(queue)}` : "",
    prefill >= LEAST_READ_S ? `read in ${seconds(prefill)}` : "",
    gap >= WORTH_TELLING_S ? `longest pause ${seconds(gap)}` : "",
    cost.preemptions ? `gave way ${cost.preemptions === 1 ? "once" : `${number(cost.preemptions)} times`}` : "",
    cost.drafted_tokens ? `${number(cost.accepted_tokens)} of ${plural(cost.drafted_tokens, "drafted token")} right` : "",
  ].filter(Boolean);
}

function seconds(value) {
  return `${value < 10 ? value.toFixed(2) : Math.round(value)} s`;
}
