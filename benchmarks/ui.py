"""The page in a real browser: how much of the engine's speed arrives there, and that long conversations and long lists cost no more than short ones.

    python benchmarks/ui.py                                  everything, on the starter model
    python benchmarks/ui.py --part speed --models 15M-Q8_0   some measures, on a model of benchmarks/make_models.py
    python benchmarks/ui.py --repeats 1 --tokens 64          a quick look

A real server with its page and a real Chromium, no window, on the same machine: they share its processors. In each repeat both sides of a row take turns,
a figure is the median of the repeats, a ratio the median of the ratios within each. What the parts measure:

speed   tokens/s as they are drawn, beside the engine's own when the same prompt is sent to the API and no page is open
stream  what a token of a reply costs the page, the server and the wire, in a conversation of 1,000 messages beside one of 10
send    the same of a message that is sent and answered with one token
open    from the address to the last message drawn, and what the page then holds
scroll  frames while 1,000 messages are scrolled through, beside 60
list    from the address to the list of conversations drawn, of 1,000 beside 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from benchmarks.browser import COUNTED_MS, Page, browser_cpu_s, browsing  # noqa: E402
from benchmarks.contestants import Flags, Model, Server, Yard  # noqa: E402
from benchmarks.make_models import SIZES, default_cache, made  # noqa: E402
from benchmarks.measures import HEAD, Row, Turns, line  # noqa: E402
from benchmarks.streams import RefusalError, follow  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STARTER = ROOT / "models" / "starter" / "starter-Q8_0.gguf"
SHORT, MIDDLE, LONG = 10, 200, 1000  # messages
SCREENS = 60  # messages that are enough to scroll through
FEW, MANY = 10, 1000  # conversations
STEPS = 150  # frames of scrolling
CONTEXT = 2048
REST_SHARE, REST_STEP_S, REST_LIMIT_S = 0.03, 0.3, 20.0  # a page is at rest that does less than this for so long
QUESTION = "And what do you think of the meadow, the river and the old bridge?"
WORDS = (
    "the", "meadow", "horse", "fence", "water", "apple", "stone", "river", "cloud", "bridge", "garden", "window", "paper", "copper", "silver", "lantern", "winter",
    "summer", "morning",
)  # fmt: skip


def talk(count: int) -> list[dict[str, str]]:
    """Messages as they are in life: short questions, answers of some lines, some with a list or with code."""
    rows = []
    for place in range(count):
        answers = place % 2
        words = " ".join(WORDS[(place * 7 + step * step) % len(WORDS)] for step in range(60 if answers else 12))
        more = f"\n\n```python\ndef number_{place}(x):\n    return x + {place}\n```" if place % 10 == 1 else f"\n\n* {words[:40]}\n* **{words[40:80]}**" if place % 4 == 1 else ""
        rows.append({"role": ("user", "assistant")[answers], "content": f"Message {place}: {words}.{more}"})
    return rows


@dataclass
class Bench:
    """What the parts share."""

    yard: Yard
    browser: Browser
    turns: Turns
    model: Model
    tokens: int

    def server(self) -> Server:
        """One with the model loaded."""
        return self.yard.paddock(self.model, Flags(slots=1, context=CONTEXT, threads=1))


class Side:
    """One side of a row: a conversation that is opened anew for each repeat, with so many messages and such a length of reply."""

    def __init__(self, server: Server, page: Page, messages: int, tokens: int) -> None:
        self.name = f"{messages} messages"
        self.server, self.page, self.messages, self._tokens = server, page, messages, tokens
        self.web = psutil.Process(server.process.pid)
        self.must_rest = False

    def cpu_s(self) -> float:
        """Of the browser, where it must be idle while another side is measured."""
        return browser_cpu_s() if self.must_rest else 0.0

    def made(self) -> str:
        """A conversation as it is at the beginning; its id."""
        settings = {"params": {"ban_eos": True, "max_tokens": self._tokens, "seed": 1, "temperature": 0.8}}
        return str(self.server.get("/ui/conversations/import", {"title": f"{self.messages} messages", "settings": settings, "messages": talk(self.messages)})["id"])

    def opened(self) -> str:
        """The same, in the page, with all its messages read and nothing going on any more."""
        conversation_id = self.made()
        self.page.open(conversation_id)
        self.page.all_read(self.messages)
        self._at_rest()
        return conversation_id

    def _at_rest(self) -> None:
        before_s, end_s = -1.0, time.monotonic() + REST_LIMIT_S
        while (now_s := self.page.metrics()["TaskDuration"]) - before_s > REST_SHARE * REST_STEP_S and time.monotonic() < end_s:
            before_s = now_s
            time.sleep(REST_STEP_S)

    def web_s(self) -> float:
        """Processor time of the web process alone."""
        times = self.web.cpu_times()
        return float(times.user + times.system)

    def costs(self) -> list[float]:
        """Seconds of the page's main thread and of the web process, and bytes of the stream, so far."""
        return [self.page.metrics()["TaskDuration"], self.web_s(), float(self.page.stream_bytes)]


def _rows(part: str, bench: Bench, against: str, *measures: tuple[str, str], **more: Any) -> list[Row]:
    return [Row(part, bench.model.name, measure, unit, against, lower=True, **more) for measure, unit in measures]


# ---- parts -----------------------------------------------------------------------------------------------------------


class Alone:
    """The engine without a page: the same messages through the API."""

    def __init__(self, side: Side, bench: Bench) -> None:
        self.name, self._side, self._bench = "API", side, bench

    def cpu_s(self) -> float:
        """None of its own: it is the other side's server."""
        return 0.0

    def tokens_per_s(self) -> float:
        """What the engine says of itself; messages that the context has no room for are left out, as the page's are."""
        self._side.page.leave()
        messages = talk(self._side.messages)
        while True:
            stream = self._side.server.stream("", self._bench.tokens, messages=[*messages, {"role": "user", "content": QUESTION}], temperature=0.8)
            follow([stream.send()])
            try:
                return float(stream.reply().usage["timings"]["predicted_per_second"])
            except RefusalError:
                if not messages:
                    raise
                messages = messages[2 * ((len(messages) + 3) // 4) :]  # the older half, questions with their answers


def speed(bench: Bench) -> Iterator[Row]:
    """Tokens drawn per second, beside the engine's own."""
    server = bench.server()
    for messages in (SHORT, MIDDLE):
        page = Page(bench.browser, f"http://localhost:{server.port}/")
        side = Side(server, page, messages, bench.tokens)
        alone, side.must_rest = Alone(side, bench), True

        def measure(contestant: Side | Alone, _: int) -> list[float]:
            if isinstance(contestant, Alone):
                return [contestant.tokens_per_s()]
            conversation_id = contestant.opened()
            contestant.page.send(QUESTION)
            drawn = contestant.page.reply_done()
            tokens = contestant.server.get(f"/ui/conversations/{conversation_id}")["messages"][-1]["receipt"]["completion_tokens"]
            return [1000 * (tokens - drawn[0][1]) / (drawn[-1][0] - drawn[0][0])]

        row = Row("speed", bench.model.name, f"drawn, after {messages} messages", "tokens/s", "the engine, no page")
        yield from bench.turns.fill([row], [side, alone], measure)  # type: ignore[type-var]
        page.close()


def _compared(part: str, bench: Bench, tokens: int, measures: Sequence[tuple[str, str]], measure: Callable[[Side], list[float]]) -> list[Row]:
    """Rows of a conversation of 1,000 messages beside one of 10."""
    server = bench.server()
    page = Page(bench.browser, f"http://localhost:{server.port}/")
    rows = _rows(part, bench, f"{SHORT} messages", *measures, note=f"{LONG:,} messages")
    bench.turns.fill(rows, [Side(server, page, messages, tokens) for messages in (LONG, SHORT)], lambda side, _: measure(side))
    page.close()
    return rows


def stream(bench: Bench) -> list[Row]:
    """What each token of a reply costs, while it is written."""

    def measure(side: Side) -> list[float]:
        side.opened()
        side.page.send(QUESTION)
        side.page.reply_begun()
        before = side.costs()
        drawn = side.page.reply_done()
        tokens = bench.tokens - drawn[0][1]
        page_s, web_s, sent = (after - first for after, first in zip(side.costs(), before, strict=True))
        return [1e6 * page_s / tokens, 1e6 * web_s / tokens, sent / tokens]

    measures = (("page, for each token", "µs"), ("web process, for each token", "µs"), ("stream, for each token", "bytes"))
    return _compared("stream", bench, bench.tokens, measures, measure)


def send(bench: Bench) -> list[Row]:
    """What a message and its answer of one token cost."""

    def measure(side: Side) -> list[float]:
        side.opened()
        before, begun_s = side.costs(), time.perf_counter()
        side.page.send("Yes?")
        side.page.reply_done()
        whole_s = time.perf_counter() - begun_s - COUNTED_MS / 1000
        page_s, web_s, sent = (after - first for after, first in zip(side.costs(), before, strict=True))
        return [1000 * page_s, 1000 * web_s, sent, 1000 * whole_s]

    measures = (("page", "ms"), ("web process", "ms"), ("stream", "bytes"), ("from Enter to the end, the engine's work too", "ms"))
    return _compared("send", bench, 1, measures, measure)


def opening(bench: Bench) -> list[Row]:
    """A conversation is opened by its address."""

    def measure(side: Side) -> list[float]:
        conversation_id, before_s = side.made(), side.web_s()
        first_ms = side.page.open(conversation_id)
        read_ms = side.page.all_read(side.messages)
        web_ms = 1000 * (side.web_s() - before_s)
        rss_mb = side.web.memory_info().rss / 1e6
        return [first_ms, read_ms, web_ms, side.page.heap_mb(), side.page.metrics()["Nodes"], rss_mb]

    measures = (
        ("last message drawn", "ms"), ("all read", "ms"), ("web process", "ms"), ("page holds", "MB"), ("page holds", "nodes"),
        ("web process holds", "MB"),
    )  # fmt: skip
    return _compared("open", bench, 1, measures, measure)


def scroll(bench: Bench) -> list[Row]:
    """Frames of scrolling."""
    server = bench.server()
    page = Page(bench.browser, f"http://localhost:{server.port}/")

    def measure(side: Side, _: int) -> list[float]:
        side.opened()
        gaps = sorted(side.page.scroll_up(STEPS))
        return [statistics.median(gaps), gaps[int(0.95 * len(gaps))], gaps[-1], sum(gap > 50 for gap in gaps)]

    measures = (("frame, median", "ms"), ("frame, 95 of 100", "ms"), ("frame, longest", "ms"), (f"of {STEPS} frames longer than 50 ms", "frames"))
    rows = _rows("scroll", bench, f"{SCREENS} messages", *measures, note=f"{LONG:,} messages")
    bench.turns.fill(rows, [Side(server, page, messages, 1) for messages in (LONG, SCREENS)], measure)
    page.close()
    return rows


def listing(bench: Bench) -> list[Row]:
    """The list of conversations."""
    sides = []
    for count in (MANY, FEW):
        server = bench.server()
        for number in range(count):
            server.get("/ui/conversations/import", {"title": f"About {WORDS[number % len(WORDS)]} {number}", "messages": talk(2)})
        sides.append(Side(server, Page(bench.browser, f"http://localhost:{server.port}/"), 2, 1))
        sides[-1].name = f"{count} conversations"

    def measure(side: Side, _: int) -> list[float]:
        before_s = side.web_s()
        first_ms = side.page.open()
        return [side.page.list_shown(), first_ms, 1000 * (side.web_s() - before_s)]

    measures = (("list drawn", "ms"), ("conversation drawn", "ms"), ("web process", "ms"))
    rows = _rows("list", bench, f"{FEW} conversations", *measures, note=f"{MANY:,} conversations")
    bench.turns.fill(rows, sides, measure)
    for side in sides:
        side.page.close()
    return rows


Part = Callable[[Bench], "Sequence[Row] | Iterator[Row]"]
PARTS: Mapping[str, Part] = MappingProxyType({"speed": speed, "stream": stream, "send": send, "open": opening, "scroll": scroll, "list": listing})


def model_of(name: str, cache: Path) -> Model:
    """The starter model, one by the name of its size and type, or one by its path."""
    if name == "starter":
        return Model.at(name, STARTER)
    path = made(name, cache) if name.partition("-")[0] in SIZES else Path(name).expanduser().resolve()
    if not path.exists():
        raise SystemExit(f"There is no model {name}; say starter, a path, or one of the sizes {', '.join(SIZES)} with a type behind it.")
    return Model.at(path.name if path.name == name else name, path)


def run(asked: argparse.Namespace) -> None:
    """All parts that were asked for, printed line by line."""
    records: list[dict[str, object]] = []
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {asked.repeats} repeats, replies of {asked.tokens} tokens\n", flush=True)
    print(line(HEAD), line(["---"] * len(HEAD)), sep="\n", flush=True)
    for model_name in asked.models:
        model = model_of(model_name, asked.cache)
        for name in asked.part:
            begun_s = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="paddock-bench-") as folder, browsing() as browser, contextlib.closing(Yard(Path(folder))) as yard:
                for row in PARTS[name](Bench(yard, browser, Turns(asked.repeats), model, asked.tokens)):
                    print(line(row.cells()), flush=True)
                    records.append(row.record())
            if asked.json:
                asked.json.write_text(json.dumps({"cores": os.cpu_count(), "repeats": asked.repeats, "tokens": asked.tokens, "rows": records}, indent=1), encoding="utf-8")
            sys.stderr.write(f"{name} {model_name} took {time.monotonic() - begun_s:.0f} s\n")
    print(f"\nload {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", default=["starter"], help="starter, names of benchmarks/make_models.py, or paths")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256, help="of a reply")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for made models")
    parser.add_argument("--json", type=Path, help="write everything that was measured into this file too")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
