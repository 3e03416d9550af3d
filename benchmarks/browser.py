"""A real browser on Paddock's page, driven for benchmarks/ui.py: what a person does, and what it costs the page.

Knows the page's elements and Chromium's own counters; knows no measure and no server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
)  # fmt: skip
WINDOW = {"width": 1280, "height": 800}
LIMIT_MS = 90_000
COUNTED_MS = 1500  # after which the context of what is typed was counted
STEP_PIXELS = 100  # that are scrolled in one frame

# Notes in which frame the page first had what is looked for, and those in which the last reply grew, with how many tokens it said to have.
WATCH = """(() => {
  window.seen = {}; window.reply = [];
  const list = () => document.querySelector('#chat .messages');
  let waiting = 0;
  const look = () => {
    waiting = 0;
    const now = performance.now();
    const last = list()?.lastElementChild;
    if (last && !last.matches('.side-by-side')) window.seen.message ??= now;
    if (document.querySelector('#chat .empty:not([hidden])')) window.seen.message ??= now;
    if (document.querySelector('#side .conversations li')) window.seen.list ??= now;
    if (last?.matches('.assistant') && window.reply.id !== undefined && last.dataset.id !== window.reply.id) {
      const status = last.dataset.status;
      const tokens = Number((last.querySelector('.receipt.live')?.textContent ?? '').replace(/,/g, '').match(/^(\\d+) token/)?.[1] ?? 0);
      if (!window.reply.done && (tokens || status !== 'streaming')) window.reply.push([now, tokens]);
      if (status !== 'streaming') window.reply.done = true;
    }
  };
  new MutationObserver(() => { waiting ||= requestAnimationFrame(look); })
    .observe(document, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['hidden', 'data-status'] });
})()"""
BEGIN = "() => { window.reply = []; window.reply.id = [...document.querySelectorAll('#chat .messages .assistant')].at(-1)?.dataset.id ?? null; }"
SCROLL = """async ([steps, pixels]) => {
  const scroller = document.querySelector('#chat .scroller');
  const gaps = [];
  let before = await new Promise(requestAnimationFrame);
  for (let step = 0; step < steps; step++) {
    scroller.scrollTop -= pixels;
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  return gaps;
}"""


def browser_path() -> str:
    """Path of a Chromium or Chrome of this system; `PADDOCK_CHROMIUM` names one.

    Raises:
        SystemExit: there is none.
    """
    found = os.environ.get("PADDOCK_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit("There is no Chromium or Chrome on this system: install one, or set PADDOCK_CHROMIUM to its path.")
    return found


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """A browser without window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def browser_cpu_s() -> float:
    """Processor time of the browser: all that was started by this process and is no server of Python."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "python" not in process.name().lower():
                times = process.cpu_times()
                total += times.user + times.system
    return total


class Page:
    """One page in a profile of its own. Its cache is filled by a first visit, as of somebody who comes back."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._context = browser.new_context(viewport=WINDOW, locale="en-US")  # type: ignore[arg-type]
        self._context.set_default_timeout(LIMIT_MS)
        self.page = self._context.new_page()
        self.url = url
        self.stream_bytes = 0
        self._devtools: CDPSession = self._context.new_cdp_session(self.page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})  # what the thread itself ran, whoever else was at work
        self._devtools.send("Network.enable")
        self._devtools.on("Network.eventSourceMessageReceived", self._count)
        self.page.add_init_script(WATCH)
        self.page.goto(url)
        self.page.locator("#message-text").wait_for()

    def _count(self, event: dict[str, Any]) -> None:
        self.stream_bytes += len(event["eventName"].encode()) + len(event["data"].encode())

    def close(self) -> None:
        """Forget the profile."""
        self._context.close()

    def leave(self) -> None:
        """To an empty page, which costs nothing."""
        self.page.goto("about:blank")

    def open(self, conversation_id: str = "") -> float:
        """Load the page at a conversation; milliseconds until its last message (or its greeting) was drawn."""
        self.page.goto(f"{self.url}?c={conversation_id}" if conversation_id else self.url, wait_until="commit")
        self.page.wait_for_function("() => window.seen?.message !== undefined", polling="raf")
        return float(self.page.evaluate("window.seen.message"))

    def list_shown(self) -> float:
        """Milliseconds from the beginning of the visit until the list of conversations was drawn."""
        self.page.wait_for_function("() => window.seen?.list !== undefined", polling="raf")
        return float(self.page.evaluate("window.seen.list"))

    def all_read(self, messages: int) -> float:
        """Wait until the page has so many messages; milliseconds from the beginning of the visit."""
        self.page.wait_for_function("count => document.querySelectorAll('#chat .messages .message').length >= count", arg=messages)
        return float(self.page.evaluate("performance.now()"))

    def send(self, text: str) -> None:
        """Type, wait until what is typed was counted, and press Enter."""
        self.page.locator("#message-text").fill(text)
        self.page.wait_for_timeout(COUNTED_MS)
        self.page.evaluate(BEGIN)
        self.page.keyboard.press("Enter")

    def reply_begun(self) -> None:
        """Wait until words of the reply are drawn."""
        self.page.wait_for_function("() => window.reply.length > 0", polling="raf")

    def reply_done(self) -> list[tuple[float, int]]:
        """Wait for its end; the frames in which it was drawn: milliseconds and tokens so far, none in the last."""
        self.page.wait_for_function("() => window.reply.done", polling="raf")
        return [(float(at_ms), int(tokens)) for at_ms, tokens in json.loads(self.page.evaluate("JSON.stringify(window.reply)"))]

    def scroll_up(self, steps: int) -> list[float]:
        """Scroll from the end towards the beginning; the milliseconds of each frame."""
        return [float(gap) for gap in self.page.evaluate(SCROLL, [steps, STEP_PIXELS])]

    def metrics(self) -> dict[str, float]:
        """Chromium's counters: seconds of the main thread, bytes, nodes."""
        return {row["name"]: float(row["value"]) for row in self._devtools.send("Performance.getMetrics")["metrics"]}

    def heap_mb(self) -> float:
        """Memory of the page's objects after what is not used was thrown away."""
        self._devtools.send("HeapProfiler.collectGarbage")
        return self.metrics()["JSHeapUsedSize"] / 1e6
