// Where the list of messages is scrolled to: at its end while a reply grows, unless the person looks elsewhere; then what is read stays where it is.

const NEAR_END = 40; // pixels
const NEAR_TOP = 2; // heights of the window

export class MessageScroll {
  /** `jump` is the button that leads back to the end. */
  constructor(scroller, list, jump) {
    Object.assign(this, { scroller, list, jump, lastTop: 0 });
    this.stick = true;
    scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    scroller.addEventListener("wheel", (event) => { if (event.deltaY < 0) this.release(); }, { passive: true });
    scroller.addEventListener("touchmove", () => { if (this.distance() > 60) this.release(); }, { passive: true });
    const sizes = new ResizeObserver(() => { if (this.stillSticks()) this.toEnd(); });
    sizes.observe(list);
    sizes.observe(scroller);
  }

  get stick() {
    return this.sticks;
  }

  /** While the end is followed the browser must not hold on to what is in sight; else it must, as messages above get their real heights late. */
  set stick(sticks) {
    if (sticks === this.sticks) return;
    this.sticks = sticks;
    this.scroller.style.overflowAnchor = sticks ? "none" : "auto";
  }

  distance() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
  }

  isNearTop() {
    return this.scroller.scrollTop < NEAR_TOP * this.scroller.clientHeight;
  }

  scrolled() {
    const distance = this.distance();
    if (!this.stillSticks()) this.stick = distance < NEAR_END;
    this.lastTop = this.scroller.scrollTop;
    this.jump.hidden = this.stick || distance < NEAR_END;
  }

  /** Whether the end is followed. By itself the place only changes where the end comes up to it; higher than that the person went: by scrollbar, key or search. */
  stillSticks() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (this.stick && scrollTop < Math.min(this.lastTop, scrollHeight - clientHeight) - 4) this.stick = false;
    return this.stick;
  }

  release() {
    if (this.scroller.scrollHeight <= this.scroller.clientHeight) return;
    this.stick = false;
    this.jump.hidden = this.distance() < NEAR_END;
  }

  toEnd() {
    this.stick = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.lastTop = this.scroller.scrollTop;
    this.jump.hidden = true;
  }

  /** Change what stands above; what is in sight stays there. */
  keeping(change) {
    if (this.stick) { change(); return; }
    const top = this.scroller.getBoundingClientRect().top;
    const seen = this.firstBelow(top);
    const before = seen?.getBoundingClientRect().top;
    change();
    if (seen?.isConnected) this.scroller.scrollTop += seen.getBoundingClientRect().top - before;
    this.lastTop = this.scroller.scrollTop;
  }

  /** The first element of the list that reaches below a height of the window. */
  firstBelow(top) {
    const { children } = this.list;
    let [low, high] = [0, children.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (children[middle].getBoundingClientRect().bottom > top) high = middle; else low = middle + 1;
    }
    return children[low];
  }

  /** A message to the middle of the window. Those around it get their real heights only then, so it is put there again. */
  show(element) {
    this.stick = false;
    element.scrollIntoView({ block: "center" });
    requestAnimationFrame(() => requestAnimationFrame(() => element.scrollIntoView({ block: "center" })));
  }
}
