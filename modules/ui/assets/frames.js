// Runs before Gradio. Its counters of seconds ask for a frame after every frame while something is awaited. The one that covers the page until it has come is taken away without
// being told, and would go on for as long as the page is open, at a tenth of a processor. No handler of this page shows such a counter, so what holds them gets no frames.
(() => {
  const frame = window.requestAnimationFrame;
  const set = (value) => Object.defineProperty(window, "requestAnimationFrame", { value, configurable: true, enumerable: true, writable: true });
  const get = () => {
    if (!new Error().stack.includes("/statustracker-")) return frame;
    set(frame); // it asks once, when it is loaded
    return () => 0;
  };
  Object.defineProperty(window, "requestAnimationFrame", { get, set, configurable: true, enumerable: true });
})();
