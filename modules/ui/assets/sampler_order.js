// The order in which samplers act, as a list to drag: by the handle, by two buttons, or by Alt+↑ and Alt+↓ anywhere in a row.
// Those that take part with the present values are bright; which these are comes from the server ("samplers-acting").

import { h, iconButton } from "./dom.js";
import { listen } from "./page.js";
import { actingSamplers } from "./settings_bridge.js";

const NAME = /^[a-z][a-z0-9_]*$/;
const SHORT = { dry: "DRY", xtc: "XTC", typical_p: "Typical p", top_n_sigma: "Top n sigma" };

export function mount(element, { props, watch, trigger }) {
  let field = { label: "", info: "", usual: [], order: [] };
  const heading = h("span", { id: "sampler-order-label", class: "sampler-heading", data: { testid: "block-info" } });
  const info = h("p", { class: "sampler-info" });
  const list = h("ol", { class: "sampler-order", role: "list", "aria-labelledby": "sampler-order-label" });
  const said = h("p", { class: "off-screen", role: "status" });
  const usual = h("button", { type: "button", class: "small-button", text: "Usual order", on: { click: () => choose([...field.usual], "The usual order.") } });
  element.replaceChildren(h("div", { class: "sampler-head" }, heading, usual), info, list, said);
  element.removeAttribute("aria-busy");

  function take() {
    if (!props.value) return;
    field = JSON.parse(props.value);
    heading.textContent = field.label;
    info.textContent = `${field.info} Drag them, or press Alt+↑ and Alt+↓. Bright ones take part with the present values.`;
    draw();
  }

  function choose(order, sentence, focus = null) {
    field = { ...field, order };
    props.value = JSON.stringify(field);
    said.textContent = sentence;
    draw(focus);
    trigger("input");
  }

  function move(name, place, focus) {
    const order = field.order.filter((other) => other !== name);
    const target = Math.max(0, Math.min(place, order.length));
    order.splice(target, 0, name);
    if (order.join() === field.order.join()) return;
    choose(order, `${words(name)} is now ${target + 1} of ${order.length}.`, focus);
  }

  /** Back behind the nearest one that comes before it in the usual order. */
  function use(name) {
    const before = field.usual.slice(0, field.usual.indexOf(name)).reverse().find((other) => field.order.includes(other));
    const order = [...field.order];
    order.splice(before ? order.indexOf(before) + 1 : 0, 0, name);
    choose(order, `${words(name)} is used, at place ${order.indexOf(name) + 1} of ${order.length}.`, [name, "use"]);
  }

  function draw(focus = null) {
    const unused = field.usual.filter((name) => !field.order.includes(name));
    list.replaceChildren(...[...field.order, ...unused].filter((name) => NAME.test(name)).map(row));
    usual.hidden = field.order.join() === field.usual.join();
    if (focus) focusOn(...focus);
    light();
  }

  /** The same control of a row that was drawn anew; where it cannot be pressed any more, the other one. */
  function focusOn(name, part) {
    const controls = [...list.querySelectorAll(`[data-name="${name}"] [data-part]:not([disabled])`)];
    (controls.find((control) => control.dataset.part === part) ?? controls.at(-1))?.focus();
  }

  function row(name) {
    const place = field.order.indexOf(name);
    const isUsed = place >= 0;
    const tick = h("input", { type: "checkbox", "aria-label": `Use ${words(name)}`, data: { part: "use" } });
    tick.checked = isUsed;
    tick.addEventListener("change", () => (tick.checked ? use(name) : choose(field.order.filter((other) => other !== name), `${words(name)} is off.`, [name, "use"])));
    const grip = h("span", { class: "sampler-grip", "aria-hidden": "true", title: "Drag", text: "⠿" });
    const up = iconButton("send", `Move ${words(name)} up`, () => move(name, place - 1, [name, "up"]), { "data-part": "up", disabled: place <= 0 });
    const down = iconButton("down", `Move ${words(name)} down`, () => move(name, place + 1, [name, "down"]), { "data-part": "down", disabled: !isUsed || place === field.order.length - 1 });
    const item = h("li", { class: isUsed ? "sampler" : "sampler unused", data: { name } }, grip, h("label", { class: "sampler-name" }, tick, words(name)), h("span", { class: "sampler-state" }), isUsed ? up : null, isUsed ? down : null);
    item.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!event.altKey || !step || !isUsed) return;
      event.preventDefault();
      event.stopPropagation();
      move(name, place + step, [name, document.activeElement?.dataset.part]);
    });
    if (isUsed) grip.addEventListener("pointerdown", (event) => drag(event, item, name));
    return item;
  }

  /** Rows give way under the pointer; the order counts when it is let go. */
  function drag(event, item, name) {
    if (event.button) return;
    event.preventDefault();
    list.setPointerCapture(event.pointerId); // not the row: one that is moved loses the pointer
    item.classList.add("dragged");
    const follow = ({ clientY }) => {
      const others = [...list.querySelectorAll(".sampler:not(.unused):not(.dragged)")];
      const next = others.find((other) => { const box = other.getBoundingClientRect(); return clientY < box.top + box.height / 2; });
      const before = next ?? list.querySelector(".sampler.unused");
      if (item.nextElementSibling !== before) list.insertBefore(item, before);
    };
    const end = (last) => {
      list.removeEventListener("pointermove", follow);
      list.removeEventListener(last.type === "pointerup" ? "pointercancel" : "pointerup", end);
      const place = [...list.querySelectorAll(".sampler:not(.unused)")].indexOf(item);
      item.classList.remove("dragged");
      if (last.type === "pointerup") move(name, place);
      draw();
    };
    list.addEventListener("pointermove", follow);
    list.addEventListener("pointerup", end, { once: true });
    list.addEventListener("pointercancel", end, { once: true });
  }

  function light() {
    const acting = new Set(actingSamplers());
    for (const item of list.children) {
      const isActing = acting.has(item.dataset.name);
      item.classList.toggle("acting", isActing);
      item.querySelector(".sampler-state").textContent = item.classList.contains("unused") ? "off" : isActing ? "takes part" : "";
    }
  }

  listen("samplers-acting", light);
  watch("value", take);
  take();
}

function words(name) {
  return SHORT[name] ?? `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}`;
}
