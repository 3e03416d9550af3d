"""The measures of benchmarks/engine.py over GGUF files: each starts its contestants, lets them take turns and gives rows.

Knows what is asked and what of a reply is the measure; how servers are started is in contestants.py, how streams are timed in streams.py.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Flags, Model, Server, Yard, llama_bench
from benchmarks.measures import Row, Turns
from benchmarks.speculate import QUESTIONS, STARTER, deepen
from benchmarks.streams import RefusalError, Reply, follow

SHORT, LONGER, TURN, KNOWN = 16, 64, 48, 200  # tokens of prompts
TALKS, BACK = 16, 8  # conversations, and how many of them go on at the same time
PROMPTS, CLIENTS, SERIAL_CLIENTS = (512, 2048), (2, 4, 8, 16), 8
FIRSTS, TURN_PAIRS = 20, 3  # requests of one repeat
PAUSE_S = 0.5  # before somebody writes again
RUNNING_PIECES, AFTER_PIECES = 12, 3  # of a stream before a long prompt arrives and after it was read
DEEP_LAYERS, DEEP_CONTEXT = 60, 512
# No model ends this within the tokens of a reply, so that as many are written as without it
SCHEMA = {
    "type": "array", "minItems": 64,
    "items": {
        "type": "object", "required": ["name", "age", "kind"], "additionalProperties": False,
        "properties": {"name": {"type": "string", "maxLength": 24}, "age": {"type": "integer"}, "kind": {"enum": ["horse", "donkey", "mule"]}},
    },
}  # fmt: skip


@dataclass
class Bench:
    """What every measure has."""

    yard: Yard
    turns: Turns
    tokens: int
    threads: int
    long: int  # tokens of a long prompt; a history is half as long

    def both(self, model: Model, slots: int, context: int) -> tuple[list[Server], Flags]:
        """Our server and llama.cpp's with the same flags."""
        flags = Flags(slots, context, self.threads)
        return [self.yard.paddock(model, flags), self.yard.llama_server(model, flags)], flags


class Bare:
    """llama-bench: runs only while it is measured."""

    name = "llama-bench"

    def cpu_s(self) -> float:
        """Nothing, between two runs."""
        return 0.0


Part = Callable[[Bench, Any], Iterator[Row]]


def replies(server: Server, prompts: Sequence[Any], tokens: int, seed: int, **more: Any) -> list[Reply]:
    """All at once, and all to their end."""
    streams = [server.stream(prompt, tokens, seed + place, **more) for place, prompt in enumerate(prompts)]
    for stream in streams:
        stream.send()
    follow(streams)
    found = [stream.reply() for stream in streams]
    for reply in found:
        if reply.usage and reply.tokens != tokens:
            sys.stderr.write(f"{server.name} wrote {reply.tokens} tokens instead of {tokens}\n")
    return found


def total_per_s(found: Sequence[Reply]) -> float:
    """Tokens per second of all together, reading of prompts included."""
    begin_s, end_s = min(reply.sent_s for reply in found), max(reply.sent_s + reply.whole_s for reply in found)
    return sum(reply.tokens for reply in found) / (end_s - begin_s)


def one(bench: Bench, model: Model) -> Iterator[Row]:
    """One client, generation, equal threads; llama-bench beside it."""
    servers, flags = bench.both(model, 1, 2048)

    def measure(contestant: Server | Bare, number: int) -> list[float]:
        if isinstance(contestant, Bare):
            return [llama_bench(model, flags, 0, bench.tokens), 0.0]
        reply = replies(contestant, [model.prompt(SHORT, f"one {number}")], bench.tokens, number + 2)[0]
        return [reply.tokens_per_s, reply.tokens / reply.whole_s]

    bar, moonshot = (0.85, 1.0) if model.name.startswith("15M") else (0.97, 1.0)
    row = Row("one", model.name, f"1 client, generation, {bench.threads} threads", "tokens/s", bar=bar, moonshot=moonshot)
    whole = Row("one", model.name, f"the same from the request on, prompt of {SHORT} included", "tokens/s")  # no late look at the first token flatters this one
    contestants: list[Server | Bare] = [*servers, Bare()]
    yield from _beside_both([row, whole], bench.turns.take(contestants, measure))


def _beside_both(rows: Sequence[Row], found: Sequence[Sequence[Sequence[float]]]) -> Iterator[Row]:
    """Each measure twice: beside llama-server, which has the bars, and beside llama-bench."""
    ours, server, bare = found
    for place, row in enumerate(rows):
        row.ours, row.theirs = [values[place] for values in ours], [values[place] for values in server]
        yield row
        if row.bar is not None:
            yield Row(row.part, row.model, row.measure, row.unit, Bare.name, ours=row.ours, theirs=[values[place] for values in bare])


def own(bench: Bench, model: Model) -> Iterator[Row]:
    """One client, everything left to the server."""
    servers = [bench.yard.paddock(model, None), bench.yard.llama_server(model, None)]

    def measure(server: Server, number: int) -> list[float]:
        return [replies(server, [model.prompt(SHORT, f"own {number}")], bench.tokens, number + 2)[0].tokens_per_s]

    yield from bench.turns.fill([Row("own", model.name, "1 client, generation, own defaults", "tokens/s", bar=1.0, moonshot=1.15)], servers, measure)


def prompt(bench: Bench, model: Model) -> Iterator[Row]:
    """Reading of prompts that nobody has seen."""
    servers, flags = bench.both(model, 1, 2 * max(PROMPTS))

    def measure(contestant: Server | Bare, number: int) -> list[float]:
        if isinstance(contestant, Bare):
            return [llama_bench(model, flags, size, 0) for size in PROMPTS]
        return [size / replies(contestant, [model.prompt(size, f"prompt {number} {size}")], 1, 1)[0].first_s for size in PROMPTS]

    rows = [Row("prompt", model.name, f"prompt of {size}, {bench.threads} threads", "tokens/s", bar=0.95, moonshot=1.0) for size in PROMPTS]
    contestants: list[Server | Bare] = [*servers, Bare()]
    yield from _beside_both(rows, bench.turns.take(contestants, measure))


def first(bench: Bench, model: Model) -> Iterator[Row]:
    """Time to the first token of a short prompt."""
    servers, _ = bench.both(model, 1, 2048)

    def measure(server: Server, number: int) -> list[float]:
        prompts = [model.prompt(SHORT, f"first {number} {count}") for count in range(FIRSTS)]
        return [1e3 * statistics.median(replies(server, [ids], 2, 1)[0].first_s for ids in prompts)]

    name = f"time to first token, prompt of {SHORT}, p50"
    yield from bench.turns.fill([Row("first", model.name, name, "ms", bar=1.3, moonshot=1.0, lower=True)], servers, measure)


def clients(bench: Bench, model: Model) -> Iterator[Row]:
    """Several at once, their total."""
    servers, _ = bench.both(model, max(CLIENTS), 1024)

    def measure(server: Server, number: int) -> list[float]:
        speeds = []
        for count in CLIENTS:
            prompts = [model.prompt(LONGER, f"clients {number} {count} {place}") for place in range(count)]
            speeds.append(total_per_s(replies(server, prompts, bench.tokens, 100 * (number + 2))))
        return speeds

    rows = [Row("clients", model.name, f"{count} clients, total", "tokens/s", bar=0.95, moonshot=1.0) for count in CLIENTS]
    yield from bench.turns.fill(rows, servers, measure)


def back(bench: Bench, model: Model) -> Iterator[Row]:
    """Some of many conversations go on at once, whichever chance will have, in the slots where they stand."""
    servers, _ = bench.both(model, TALKS, 1024)
    talks = {server.name: [model.prompt(KNOWN, f"talk {place}") for place in range(TALKS)] for server in servers}
    for server in servers:
        for begin in range(0, TALKS, BACK):
            replies(server, talks[server.name][begin : begin + BACK], 2, 1)

    def measure(server: Server, number: int) -> list[float]:
        own, chosen = talks[server.name], random.Random(number).sample(range(TALKS), BACK)
        for place in chosen:
            own[place] = own[place] + model.prompt(SHORT, f"back {number} {place}")
        return [total_per_s(replies(server, [own[place] for place in chosen], bench.tokens, 100 * (number + 2)))]

    yield from bench.turns.fill([Row("back", model.name, f"{BACK} of {TALKS} conversations go on, total", "tokens/s", bar=0.95, moonshot=1.0)], servers, measure)


def serial(bench: Bench, model: Model) -> Iterator[Row]:
    """Several at once beside a server that serves them one after the other."""
    flags = Flags(SERIAL_CLIENTS, 1024, bench.threads)
    row = Row("serial", model.name, f"{SERIAL_CLIENTS} clients, total", "tokens/s", "llama_cpp.server", bar=3.0, moonshot=4.0)
    other = bench.yard.python_server(model, flags)
    if other is None:
        row.note = "llama_cpp.server is left out: it cannot be had here"
        yield row
        return

    def measure(server: Server, number: int) -> list[float]:
        prompts = [f"{number} {place} tells of a paddock behind the house, with horses." for place in range(SERIAL_CLIENTS)]
        return [total_per_s(replies(server, prompts, bench.tokens, 100 * (number + 2)))]

    yield from bench.turns.fill([row], [bench.yard.paddock(model, flags), other], measure)


class InTurn:
    """Two users with a long history each, who write in turn."""

    def __init__(self, model: Model, length: int, name: str = "") -> None:
        self._model = model
        self._name = name  # another name, other texts: what a server still has of earlier ones is no use then
        self._histories = [model.prompt(length, f"history {user}{name}") for user in range(2)]
        self._cached: dict[str, list[int]] = {}

    def begin(self, servers: Sequence[Server]) -> None:
        """Let all of them read the histories."""
        for server in servers:
            self._cached[server.name] = []
            for history in self._histories:
                replies(server, [history], 8, 1)

    def measure(self, server: Server, number: int) -> list[float]:
        """Milliseconds to the first token of a turn, in the middle."""
        found = []
        for count in range(TURN_PAIRS):
            for user, history in enumerate(self._histories):
                time.sleep(PAUSE_S)
                found += replies(server, [history + self._model.prompt(TURN, f"turn {number} {count} {user}{self._name}")], 8, 1)
        self._cached[server.name] += [reply.cached_tokens for reply in found]
        return [1e3 * statistics.median(reply.first_s for reply in found)]

    def tell(self) -> None:
        """What was reused, on standard error."""
        sys.stderr.write("".join(f"{name} reused {statistics.median(values):.0f} tokens in the middle\n" for name, values in self._cached.items()))


def turns(bench: Bench, model: Model) -> Iterator[Row]:
    """Two users in turn: with a slot for both together, then with one for each."""
    length = bench.long // 2
    for slots in (1, 2):
        servers, _ = bench.both(model, slots, bench.long)
        users = InTurn(model, length)
        users.begin(servers)
        row = Row("turns", model.name, f"time to first token after {length} of history, 2 users in turn, {slots} slots", "ms", bar=1.0, moonshot=0.5, lower=True)
        yield from bench.turns.fill([row], servers, users.measure)
        users.tell()
        bench.yard.close(*servers)


def disk(bench: Bench, model: Model) -> Iterator[Row]:
    """The same with one slot and no room in main memory: conversations on disk, beside nothing kept and beside main memory. All are ours."""
    length = bench.long // 2
    flags = Flags(1, bench.long, bench.threads)
    ours = bench.yard.paddock(model, flags, spill_memory_gb=0, spill_disk_gb=4)
    ours.name = "Paddock with a disk"
    for name, options in (("nothing kept", {"spill_memory_gb": 0, "spill_disk_gb": 0}), ("main memory", {"spill_memory_gb": 2, "spill_disk_gb": 0})):
        other = bench.yard.paddock(model, flags, **options)
        other.name = f"Paddock, {name}"
        users = InTurn(model, length, name)
        users.begin([ours, other])
        row = Row("disk", model.name, f"time to first token after {length} of history, 2 users in turn, 1 slot, on disk", "ms", name, lower=True)
        yield from bench.turns.fill([row], [ours, other], users.measure)
        users.tell()
        bench.yard.close(other)
    counters = ours.get("/v1/internal/counters")
    told = {key: value for key, value in counters.items() if key.startswith("disk_")}
    sys.stderr.write(f"{ours.name}: {told}\n")
    bench.yard.close(ours)


def gap(bench: Bench, model: Model) -> Iterator[Row]:
    """How long a stream stands still while somebody's long prompt is read."""
    servers, _ = bench.both(model, 2, 2 * bench.long)

    def measure(server: Server, number: int) -> list[float]:
        running = server.stream(model.prompt(SHORT, f"running {number}"), bench.long, 1).send()
        follow([running], lambda: len(running.reads) >= RUNNING_PIECES)
        arriving = server.stream(model.prompt(bench.long, f"arriving {number}"), 1, 1).send()
        follow([running, arriving], lambda: arriving.done)
        if running.done:
            sys.stderr.write(f"{server.name}: the stream was over before the long prompt was read; its gap says nothing\n")
        wanted = len(running.reads) + AFTER_PIECES
        follow([running], lambda: len(running.reads) >= wanted)
        running.close()
        reply, end = running.reply(), arriving.reply()
        return [1e3 * reply.longest_gap_s(end.sent_s, end.sent_s + end.first_s), 1e3 * end.first_s]

    yield from bench.turns.fill([
        Row("gap", model.name, f"longest gap in a running stream while a prompt of {bench.long} arrives", "ms", bar=1.0, moonshot=0.5, lower=True),
        Row("gap", model.name, "time to first token of that prompt", "ms", lower=True),
    ], servers, measure)  # fmt: skip


def lookup(bench: Bench, _: None) -> Iterator[Row]:
    """Replies that repeat what stands above: ours with draft_lookup, and without."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"starter-{DEEP_LAYERS}-layers-Q8_0.gguf"
        deepen(STARTER, path, DEEP_LAYERS)
        model, flags = Model.at(path.name, path), Flags(1, DEEP_CONTEXT, bench.threads)
        drafting, plain = bench.yard.paddock(model, flags, draft_lookup="on"), bench.yard.paddock(model, flags, draft_lookup="off")
        drafting.name, plain.name = "Paddock with draft_lookup", "Paddock without"
        tokens, chats = min(bench.tokens, DEEP_CONTEXT // 4), []
        for question in QUESTIONS:
            asked = {"role": "user", "content": question}
            answer = _chat(plain, [asked], tokens, ban_eos=False).text
            chats.append([asked, {"role": "assistant", "content": answer}, asked])

        def measure(server: Server, _number: int) -> list[float]:
            return [statistics.median(_chat(server, chat, tokens, ban_eos=False).tokens_per_s for chat in chats)]  # behind its end nothing is repeated

        row = Row("lookup", f"starter, {DEEP_LAYERS} layers", "prompt-lookup, every question asked again, greedy", "tokens/s", "without", bar=1.5, moonshot=2.5)
        yield from bench.turns.fill([row], [drafting, plain], measure)
        bench.yard.close(drafting, plain)


def _chat(server: Server, messages: list[dict[str, str]], tokens: int, **more: Any) -> Reply:
    stream = server.stream(None, tokens, messages=messages, temperature=0, **more).send()
    follow([stream])
    return stream.reply()


def json_schema(bench: Bench, model: Model) -> Iterator[Row]:
    """Constrained by a schema, beside unconstrained; the same of llama-server."""
    servers, _ = bench.both(model, 1, 2048)
    constraints: dict[str, dict[str, Any]] = {
        "Paddock": {"response_format": {"type": "json_schema", "json_schema": {"name": "stable", "schema": SCHEMA, "strict": True}}},
        "llama-server": {"json_schema": SCHEMA},
    }
    row = Row("json", model.name, "JSON schema", "tokens/s", "unconstrained", bar=0.9, moonshot=0.97)
    other = Row("json", model.name, "JSON schema, llama-server", "tokens/s", "its unconstrained")
    for server, each in zip(servers, (row, other), strict=True):
        try:
            text = replies(server, [model.prompt(SHORT, "json")], bench.tokens, 1, **constraints[server.name])[0].text
            each.note = "" if text.lstrip().startswith("[") else f"not supported: response_format is ignored, it wrote {json.dumps(text[:12])}"
        except RefusalError as error:
            each.note = f"not supported: {error}"
    able = [server for server, each in zip(servers, (row, other), strict=True) if not each.note]

    def measure(server: Server, number: int) -> list[float]:
        ids = model.prompt(SHORT, f"json {number}")
        return [replies(server, [ids], bench.tokens, number + 2, **more)[0].tokens_per_s for more in (constraints[server.name], {})]

    found = bench.turns.take(able, measure) if able else []
    for server, values in zip(able, found, strict=True):
        each = row if server is servers[0] else other
        each.ours, each.theirs = [pair[0] for pair in values], [pair[1] for pair in values]
    yield row
    yield other
