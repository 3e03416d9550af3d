// A line chart of our own: axes with round numbers, several lines, values under the pointer or the arrow keys. SVG, drawn in real pixels.

import { h } from "./dom.js";
import { short } from "./training_fields.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const BARS_HEIGHT = 160;
const EDGE = { left: 52, right: 12, top: 10, bottom: 26 };
const POINTS_LIMIT = 700;

function s(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== "") element.textContent = text;
  return element;
}

/** About `count` round numbers between two. */
export function ticks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const pace = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= 0.7 * rough);
  const found = [];
  for (let value = Math.ceil(low / pace) * pace; value <= high + pace * 1e-6; value += pace) found.push(Math.abs(value) < pace * 1e-6 ? 0 : value);
  return found;
}

/** As many points as can be told apart: of every stretch its lowest and highest. */
export function thinned(points, limit = POINTS_LIMIT) {
  if (points.length <= limit) return points;
  const stride = points.length / (limit / 2);
  const found = [];
  for (let start = 0; start < points.length; start += stride) {
    const part = points.slice(Math.floor(start), Math.floor(start + stride));
    if (!part.length) continue;
    const ordered = [...part].sort((one, other) => one[1] - other[1]);
    found.push(...[ordered[0], ordered[ordered.length - 1]].sort((one, other) => one[0] - other[0]));
  }
  return found;
}

/** A running mean that follows a noisy line: over about a twelfth of it. */
export function smoothed(points) {
  const share = 1 - 2 / (Math.max(3, Math.min(60, points.length / 12)) + 1);
  let mean = 0;
  let weight = 0;
  return points.map(([x, y]) => {
    mean = share * mean + (1 - share) * y;
    weight = share * weight + (1 - share);
    return [x, mean / weight];
  });
}

export class Chart {
  /** `show(value)` writes a value of the y axis; `x` names the other axis. */
  constructor(title, { show = short, x = "step", zero = false } = {}) {
    Object.assign(this, { title, show, x, zero, lines: [], at: null, drawn: "" });
    this.legend = h("p", { class: "chart-legend" });
    this.read = h("p", { class: "chart-read", role: "status" });
    this.svg = s("svg", { class: "chart", role: "img", tabindex: "0", height: HEIGHT });
    this.element = h("figure", { class: "chart-box" }, h("figcaption", {}, h("strong", { text: title }), this.legend), this.svg, this.read);
    this.svg.addEventListener("pointermove", (event) => this.point(this.toX(event)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.onKey(event));
    this.svg.addEventListener("blur", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /** `lines`: [{name, kind, points: [[x, y], …], dots, faint}]; kinds are colours of the style sheet. */
  set(lines) {
    this.lines = lines.map((line) => ({ ...line, points: line.points.filter(([, y]) => Number.isFinite(y)) })).filter((line) => line.points.length);
    this.element.hidden = !this.lines.length;
    this.draw();
  }

  get named() {
    return this.lines.filter((line) => !line.faint);
  }

  draw() {
    const width = Math.floor(this.element.clientWidth - 2);
    if (width < 80 || !this.lines.length) return;
    const xs = this.lines.flatMap((line) => [line.points[0][0], line.points[line.points.length - 1][0]]);
    const ys = this.lines.flatMap((line) => thinned(line.points).map(([, y]) => y));
    const low = this.zero ? 0 : Math.min(...ys);
    const high = Math.max(...ys);
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    this.range = { width, left: Math.min(...xs), right: Math.max(...xs), low: this.zero ? 0 : low - margin, high: high + margin };
    if (this.range.left === this.range.right) this.range.right += 1;
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("aria-label", this.words());
    this.cursor = s("g", { class: "chart-cursor" });
    this.svg.replaceChildren(...this.axes(), ...this.lines.flatMap((line) => this.line(line)), this.cursor);
    this.legend.replaceChildren(...(this.named.length > 1 ? this.named.map((line) => h("span", { class: `chart-key ${line.kind}`, text: line.name })) : []));
    if (this.at !== null) this.point(this.at);
  }

  px(x) {
    const { left, right, width } = this.range;
    return EDGE.left + ((x - left) / (right - left)) * (width - EDGE.left - EDGE.right);
  }

  py(y) {
    const { low, high } = this.range;
    return HEIGHT - EDGE.bottom - ((y - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  axes() {
    const { left, right, low, high, width } = this.range;
    const across = ticks(low, high, 4).flatMap((value) => [
      s("line", { class: "chart-grid", x1: EDGE.left, x2: width - EDGE.right, y1: this.py(value), y2: this.py(value) }),
      s("text", { class: "chart-tick", x: EDGE.left - 6, y: this.py(value) + 4, "text-anchor": "end" }, this.show(value)),
    ]);
    const along = ticks(left, right, Math.max(3, Math.min(8, Math.floor(width / 100)))).filter((value) => (Number.isInteger(value) || this.x !== "step") && this.px(value) > EDGE.left + 12)
      .map((value) => s("text", { class: "chart-tick", x: this.px(value), y: HEIGHT - 8, "text-anchor": "middle" }, value.toLocaleString("en-US")));
    const base = s("line", { class: "chart-base", x1: EDGE.left, x2: width - EDGE.right, y1: HEIGHT - EDGE.bottom, y2: HEIGHT - EDGE.bottom });
    const name = s("text", { class: "chart-tick", x: EDGE.left - 6, y: HEIGHT - 8, "text-anchor": "end" }, this.x);
    return [...across, ...along, base, name];
  }

  line(line) {
    const points = thinned(line.points);
    const path = points.map(([x, y], place) => `${place ? "L" : "M"}${this.px(x).toFixed(1)} ${this.py(y).toFixed(1)}`).join("");
    const drawn = [s("path", { class: `chart-line ${line.kind}${line.faint ? " faint" : ""}`, d: path })];
    if (line.dots || points.length === 1) drawn.push(...points.map(([x, y]) => s("circle", { class: `chart-dot ${line.kind}`, cx: this.px(x), cy: this.py(y), r: 3 })));
    return drawn;
  }

  // ---- values under the pointer

  toX(event) {
    const { left, right, width } = this.range ?? {};
    if (!width) return null;
    const box = this.svg.getBoundingClientRect();
    const place = (event.clientX - box.left - EDGE.left) / (width - EDGE.left - EDGE.right);
    return left + Math.min(1, Math.max(0, place)) * (right - left);
  }

  /** Show the values at the step next to `x`; null takes them away. */
  point(x) {
    this.at = x;
    this.cursor?.replaceChildren();
    this.read.textContent = "";
    if (x === null || !this.range) return;
    const near = this.lines.map((line) => [line, nearest(line.points, x)]);
    const [, [at]] = near.reduce((best, row) => (Math.abs(row[1][0] - x) < Math.abs(best[1][0] - x) ? row : best));
    this.at = at;
    this.cursor.append(s("line", { x1: this.px(at), x2: this.px(at), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
    for (const [line, [px, py]] of near) if (!line.faint) this.cursor.append(s("circle", { class: `chart-dot ${line.kind}`, cx: this.px(px), cy: this.py(py), r: 4 }));
    const values = near.filter(([line]) => !line.faint).map(([line, [own, y]]) => (this.named.length > 1 ? `${line.name} ${this.show(y)}${own === at ? "" : ` (${this.x} ${own})`}` : this.show(y)));
    this.read.textContent = `${this.x} ${at.toLocaleString("en-US", { maximumFractionDigits: 2 })}: ${values.join(" · ")}`;
  }

  onKey(event) {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || !this.range) return;
    event.preventDefault();
    const longest = this.lines.reduce((best, line) => (line.points.length > best.points.length ? line : best)).points;
    const place = this.at === null ? (way > 0 ? -1 : longest.length) : longest.indexOf(nearest(longest, this.at));
    this.point(longest[Math.min(longest.length - 1, Math.max(0, place + way))][0]);
  }

  /** The chart in one sentence, for those who do not see it. */
  words() {
    const parts = this.named.map(({ name, points }) => {
      const [first, last] = [points[0], points[points.length - 1]];
      return `${name}: ${this.show(first[1])} at ${this.x} ${first[0]}, ${this.show(last[1])} at ${this.x} ${last[0]}`;
    });
    return `${this.title}. ${parts.join("; ")}. Arrow keys read single values.`;
  }
}

function nearest(points, x) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle; else high = middle;
  }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
}

/** Bars of a histogram: [{from, to, count}] with `from` included; `limit` draws a line where it is cut. */
export function histogram(title, bars, limit) {
  const svg = s("svg", { class: "chart", role: "img", height: BARS_HEIGHT, "aria-label": `${title}. ${bars.filter((bar) => bar.count).map((bar) => `${bar.from} to ${bar.to}: ${bar.count}`).join("; ")}.` });
  const element = h("figure", { class: "chart-box" }, h("figcaption", {}, h("strong", { text: title })), svg);
  new ResizeObserver(() => drawBars(svg, Math.floor(element.clientWidth - 2), bars, limit)).observe(element);
  return element;
}

function drawBars(svg, width, bars, limit) {
  if (width < 80) return;
  const base = BARS_HEIGHT - EDGE.bottom;
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  const end = Math.max(1, ...bars.map((bar) => bar.to));
  const x = (value) => EDGE.left + (value / end) * (width - EDGE.left - EDGE.right);
  const y = (value) => base - (value / most) * (base - EDGE.top);
  svg.setAttribute("width", width);
  svg.setAttribute("viewBox", `0 0 ${width} ${BARS_HEIGHT}`);
  svg.replaceChildren(...bars.map((bar) => {
    const box = s("rect", { class: "chart-bar", x: x(bar.from) + 0.5, y: Math.min(y(bar.count), base - (bar.count ? 1.5 : 0)), width: Math.max(1, x(bar.to) - x(bar.from) - 1), height: Math.max(bar.count ? 1.5 : 0, base - y(bar.count)) });
    box.append(s("title", {}, `${bar.from} to ${bar.to} tokens: ${bar.count}`));
    return box;
  }));
  svg.append(s("line", { class: "chart-base", x1: EDGE.left, x2: width - EDGE.right, y1: base, y2: base }));
  for (const value of ticks(0, end, Math.max(3, Math.min(8, Math.floor(width / 100))))) svg.append(s("text", { class: "chart-tick", x: x(value), y: BARS_HEIGHT - 8, "text-anchor": "middle" }, value.toLocaleString("en-US")));
  for (const value of ticks(0, most, 3).filter(Number.isInteger)) svg.append(s("text", { class: "chart-tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toLocaleString("en-US")));
  if (!limit || limit >= end) return;
  svg.append(s("line", { class: "chart-limit", x1: x(limit), x2: x(limit), y1: 4, y2: base }), s("text", { class: "chart-tick", x: x(limit) - 4, y: 14, "text-anchor": "end" }, `limit ${limit.toLocaleString("en-US")}`));
}
