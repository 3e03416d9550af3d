"""Many clients at once for minutes: errors, memory at the beginning and the end, how long first words take, and whether everybody gets their share.

    python benchmarks/many_clients.py --clients 64 --minutes 10

Starts a Paddock with the starter model. Each client asks one thing after the other, of every kind: streams and whole replies of all dialects, and
streams that are left in their middle. `run_clients` does the same with a server that runs already; the tests use it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.paddock_server import STARTER, PaddockServer  # noqa: E402

MB = 1e6
TOPICS = ("a LoRA", "a preset", "the temperature", "a chat template", "the notebook", "a GGUF file", "top_p", "a character", "the context", "a seed")
FILLER = "We spoke about the weather before, and about a fox that lives at the river. "
LIMITS = (8, 16, 32, 64)  # tokens of a reply at most
LEFT_AFTER = 3  # events of a stream that is left
ANSWER_LIMIT_S = 300.0
WATCH_S = 2.0
STEPS = 10  # at which memory is told
# Kind of request and how often it comes: streams of OpenAI, Anthropic and Ollama, whole replies, streams that are left
KINDS = (("chat stream", 6), ("completion stream", 3), ("messages stream", 2), ("ollama stream", 2), ("chat", 4), ("completion", 2), ("left", 3))


@dataclass(frozen=True)
class Memory:
    """What the processes hold at a moment since the beginning; `kept` are conversations without a slot, for which the engine has a budget."""

    at_s: float
    web: int
    engine: int
    kept: int


@dataclass
class Figures:
    """What was seen."""

    served: Counter[int] = field(default_factory=Counter)  # by client
    left: int = 0
    errors: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    by_client_s: dict[int, list[float]] = field(default_factory=dict)  # of each client, its first words
    memory: list[Memory] = field(default_factory=list)

    def first_memory(self, after_s: float) -> Memory:
        """As it was after so many seconds."""
        return next((row for row in self.memory if row.at_s >= after_s), self.memory[0])

    def percentile(self, share: float) -> float:
        """Of the times to the first words."""
        return sorted(self.first_s)[min(len(self.first_s) - 1, int(share * len(self.first_s)))]


class Client:
    """One that asks one thing after the other."""

    def __init__(self, number: int, url: str, model: str, figures: Figures) -> None:
        self._number, self._model, self._figures = number, model, figures
        self._chance = random.Random(number)
        # On Linux each has an address of its own: Ollama's requests name nobody, so turns go by address
        address = f"127.0.1.{number % 250 + 1}" if sys.platform.startswith("linux") else None
        self._http = httpx.AsyncClient(base_url=url, timeout=ANSWER_LIMIT_S, transport=httpx.AsyncHTTPTransport(local_address=address))

    async def work(self, goes_on: Callable[[int], bool]) -> None:
        """Ask until it is over."""
        kinds, weights = zip(*KINDS, strict=True)
        rounds = 0
        async with self._http:
            while goes_on(rounds):
                kind = self._chance.choices(kinds, weights)[0]
                try:
                    await self._ask(kind)
                except (httpx.HTTPError, AssertionError, ValueError, KeyError) as error:
                    self._figures.errors.append(f"client {self._number}, {kind}: {error!r}")
                rounds += 1

    def _request(self, kind: str) -> tuple[str, dict[str, Any]]:
        """Address and body of a request."""
        question = FILLER * self._chance.randrange(4) + f"What is {self._chance.choice(TOPICS)}?"
        limit = self._chance.choice(LIMITS)
        who = {"model": self._model, "user": f"client {self._number}"}
        messages = [{"role": "user", "content": question}]
        if kind.startswith("completion"):
            return "v1/completions", {**who, "prompt": question, "max_tokens": limit}
        if kind.startswith("messages"):
            return "v1/messages", {"model": self._model, "metadata": {"user_id": who["user"]}, "messages": messages, "max_tokens": limit}
        if kind.startswith("ollama"):
            return "api/chat", {"model": self._model, "messages": messages, "options": {"num_predict": limit}}
        return "v1/chat/completions", {**who, "messages": messages, "max_tokens": 512 if kind == "left" else limit}

    async def _ask(self, kind: str) -> None:
        path, body = self._request(kind)
        streamed = kind == "left" or kind.endswith("stream")
        begun_s = time.monotonic()
        async with self._http.stream("POST", path, json={**body, "stream": streamed}) as answer:
            assert answer.status_code == 200, f"{answer.status_code}: {(await answer.aread())[:300]!r}"
            if not streamed:
                json.loads(await answer.aread())
            elif await self._read(answer, begun_s, LEFT_AFTER if kind == "left" else None):
                self._figures.left += 1
                return
        self._figures.served[self._number] += 1

    async def _read(self, answer: httpx.Response, begun_s: float, at_most: int | None) -> bool:
        """Read a stream; whether it was left before its end."""
        seen = 0
        async for event in events(answer):
            assert "error" not in event, event
            if said(event):
                if not seen:
                    first_s = time.monotonic() - begun_s
                    self._figures.first_s.append(first_s)
                    self._figures.by_client_s.setdefault(self._number, []).append(first_s)
                seen += 1
                if at_most is not None and seen >= at_most:
                    return True
        return False


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, of either form."""
    async for line in answer.aiter_lines():
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            yield json.loads(text)


def said(event: dict[str, Any]) -> str:
    """The text of an event, in any of the dialects."""
    for choice in event.get("choices") or ():
        return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
    message, delta = event.get("message") or {}, event.get("delta") or {}
    return str(message.get("content") or delta.get("text") or "") if event.get("type") != "message_start" else ""


async def run_clients(server: PaddockServer, clients: int, goes_on: Callable[[int], bool], model: str = STARTER) -> Figures:
    """Have so many clients work as long as each of them goes on."""
    figures = Figures()
    web, engine = psutil.Process(server.process.pid), server.engine()
    begun_s = time.monotonic()

    def memory() -> Memory:
        return Memory(time.monotonic() - begun_s, web.memory_info().rss, engine.memory_info().rss, server.counters()["spilled_bytes"])

    async def watch() -> None:
        while True:
            figures.memory.append(await asyncio.to_thread(memory))
            await asyncio.sleep(WATCH_S)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(Client(number, f"http://127.0.0.1:{server.port}/", model, figures).work(goes_on) for number in range(clients)))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    figures.memory.append(memory())
    return figures


def report(figures: Figures, after_s: float) -> Iterator[str]:
    """The figures as lines."""
    served = sorted(figures.served.values())
    yield f"answered {sum(served)}, left {figures.left}, errors {len(figures.errors)}"
    yield f"answers a client: least {served[0]}, median {statistics.median(served):g}, most {served[-1]}"
    middle, late = figures.percentile(0.5), figures.percentile(0.95)
    yield f"first words: p50 {middle:.2f} s, p95 {late:.2f} s, ratio {late / middle:.2f}, most {max(figures.first_s):.2f} s"
    own = sorted(statistics.median(times) for times in figures.by_client_s.values())
    yield f"each client's median of them: from {own[0]:.2f} to {own[-1]:.2f} s"
    first, last = figures.first_memory(after_s), figures.memory[-1]
    rows = (("web", first.web, last.web), ("engine", first.engine, last.engine), ("engine beside kept conversations", first.engine - first.kept, last.engine - last.kept))
    for name, before, after in rows:
        yield f"{name}: {before / MB:.1f} MB after {first.at_s:.0f} s, {after / MB:.1f} MB after {last.at_s:.0f} s: {after / before - 1:+.1%}"
    yield f"kept conversations: {first.kept / MB:.1f} MB, then {last.kept / MB:.1f} MB"
    steps = [figures.memory[place * (len(figures.memory) - 1) // STEPS] for place in range(STEPS + 1)]
    yield f"engine beside kept conversations over the time: {', '.join(f'{(row.engine - row.kept) / MB:.1f}' for row in steps)} MB"
    yield f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    yield from figures.errors[:10]


@contextmanager
def starter(slots: int, clients: int, load_options: Sequence[str]) -> Iterator[PaddockServer]:
    """A Paddock with the starter model, in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "loras").mkdir()
        flags = ("--no-ui", "--model", STARTER, "--option", f"slots={slots}", "--queue-limit", str(2 * clients))
        for option in load_options:
            flags += ("--option", option)
        server = PaddockServer(Path(folder), ROOT / "models", Path(folder) / "loras", *flags)
        try:
            yield server
        finally:
            server.close()


def main() -> int:
    """Run it as asked for; the exit status says whether there was an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--memory-after", type=float, default=60, help="seconds after which memory is compared with its end")
    parser.add_argument("--option", action="append", default=[], help="for the loader; spill_memory_gb=0.02 has what is kept of conversations fill at once")
    options = parser.parse_args()
    with starter(options.slots, options.clients, options.option) as server:
        end_s = time.monotonic() + 60 * options.minutes
        figures = asyncio.run(run_clients(server, options.clients, lambda _: time.monotonic() < end_s))
        for line in report(figures, options.memory_after):
            print(line, flush=True)
        left = server.counters()
        print(f"afterwards running {left['running']}, waiting {left['waiting']}", flush=True)
    return 1 if figures.errors else 0


if __name__ == "__main__":
    sys.exit(main())
