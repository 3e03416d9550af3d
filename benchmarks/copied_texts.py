"""What lookup brings on texts that people ask for: an edit, an answer that quotes, code that goes on, and a plain answer.

    python benchmarks/copied_texts.py MODEL.gguf TOKENIZER.json

The model computes every step as it is, but what it writes is said beforehand: each row of logits is replaced by one that prefers the next token of the text.
So any model of a real shape will do, also one of chance, with a tokenizer whose ids it has. The texts are of this project: functions with a name changed, a
part of the documentation with an answer out of it, the second half of a file behind its first, and a page of the README behind a question.
Engines without and with lookup write the same in turn; what counts is the ratio within a round, of tokens in a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.core.model import DraftSource, LoadedModel, Row  # noqa: E402
from modules.core.params import GenerationParams  # noqa: E402
from modules.engine.engine import Engine  # noqa: E402
from modules.engine.events import Event  # noqa: E402
from modules.loaders.registry import find_loader  # noqa: E402

MOST_TOKENS = 320  # of a reply
SURE = 50.0  # logit of the next token of a text


@dataclass(frozen=True)
class Task:
    """Something asked for, and the reply."""

    prompt: str
    reply: str


def tasks() -> dict[str, list[Task]]:
    """Four of each kind."""
    code = [(ROOT / "modules" / "engine" / name).read_text(encoding="utf-8") for name in ("crew.py", "payoff.py", "stopping.py", "waiting.py")]
    names = (("rows", "sequences"), ("record", "history"), ("text", "letters"), ("sequence", "request"))
    facts = [part for part in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8").split("\n* ") if 900 < len(part) < 2500][:4]
    pages = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[1:5]
    return {
        "edit": [Task(f"{text[:1800]}\nIn this file, call {old} {new}.\n", text[:1800].replace(old, new)) for text, (old, new) in zip(code, names, strict=True)],
        "quote": [Task(f"{fact}\n\nWhat does this say? Quote what matters.\n", _quoting(fact)) for fact in facts],
        "code": [Task(text[: len(text) // 2], text[len(text) // 2 :]) for text in code],
        "plain": [Task("Tell me about this program.\n", page) for page in pages],
    }


def _quoting(fact: str) -> str:
    sentences = fact.replace("\n", " ").split(". ")
    return f"In short, there are two points. The first one is this: “{sentences[0]}.” Besides, the text adds: “{sentences[-1]}” Everything else follows from these."


class SaidRunner:
    """A runner that computes its steps, and then prefers what was said beforehand; everything else is the inner one's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.next_of: dict[tuple[int, ...], list[int]] = {}  # by prompt: all ids of prompt and reply
        self._ids: list[list[int]] = [[] for _ in range(inner.n_slots)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def forward(self, rows: Sequence[Row]) -> list[Any]:
        """The step, and one row for each output."""
        self._inner.forward(rows)
        entries = []
        for row in rows:
            ids = self._ids[row.slot] = [*self._ids[row.slot][: row.start], *row.token_ids]
            whole = next((whole for prompt, whole in self.next_of.items() if tuple(ids[: len(prompt)]) == prompt), None)
            for left in range(row.outputs - 1, -1, -1):
                entry = np.zeros(self._inner.vocab_size, np.float32)
                place = len(ids) - left
                if whole is not None and place < len(whole):
                    entry[whole[place]] = SURE
                entries.append(entry)
        return entries


@dataclass
class Contestant:
    """One engine, and what came of it."""

    model: LoadedModel
    draft: DraftSource | None
    speeds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    shares: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runner = SaidRunner(self.model.runner)
        self._ended: dict[Any, Event] = {}
        self._news = threading.Condition()
        self.engine = Engine(self.runner, self.model.tokenizer, self._take, draft=self.draft)  # type: ignore[arg-type]

    def _take(self, events: list[Event]) -> None:
        with self._news:
            self._ended.update({event.generation: event for event in events if event.error is not None or (event.delta is not None and event.delta.finish_reason)})
            self._news.notify_all()

    def write(self, kind: str, texts: Sequence[tuple[list[int], list[int]]], at_once: int) -> None:
        """All texts of a kind, so many at a time."""
        self.runner.next_of = {tuple(prompt): [*prompt, *reply] for prompt, reply in texts}
        begun_s, before, written = time.perf_counter(), self.engine.counters(), 0
        for first in range(0, len(texts), at_once):
            asked = [self.engine.submit(prompt, GenerationParams(temperature=0, max_tokens=len(reply), ban_eos=True)) for prompt, reply in texts[first : first + at_once]]
            with self._news:
                self._news.wait_for(lambda asked=asked: self._ended.keys() >= set(asked))
            for one in asked:
                delta = self._ended.pop(one).delta
                assert delta is not None and delta.usage is not None
                written += delta.usage.completion_tokens
        after = self.engine.counters()
        self.speeds.setdefault((kind, at_once), []).append(written / (time.perf_counter() - begun_s))
        drafted, right = self.shares.get((kind, at_once), (0, 0))
        self.shares[(kind, at_once)] = drafted + after.drafted_tokens - before.drafted_tokens, right + after.accepted_tokens - before.accepted_tokens


def main() -> None:
    """Read the arguments and run."""
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--draft-tokens", type=int, default=16)
    parser.add_argument("--lookup", choices=("auto", "on"), default="auto", help="what is sure, as unasked; or all that was written before")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    words = Tokenizer.from_file(str(options.tokenizer))
    texts = {
        kind: [(words.encode(task.prompt).ids, words.encode(task.reply).ids[:MOST_TOKENS]) for task in each] for kind, each in tasks().items()
    }
    spec = find_loader(options.model)
    asked = {"slots": 4, "context_length": 2048, "threads": options.threads, "threads_batch": options.threads}
    plain, drafting = (
        Contestant(spec.load(options.model, spec.options(**asked, **more), lambda stage, done: None), draft)
        for draft, more in ((None, {}), (DraftSource(None, options.draft_tokens, is_careful=options.lookup == "auto"), {"draft_lookup": options.lookup, "draft_tokens": options.draft_tokens}))
    )
    for number in range(options.rounds + 1):
        for kind, each in texts.items():
            for at_once in (1, 4):
                for contestant in (plain, drafting) if number % 2 else (drafting, plain):
                    contestant.write(kind, each, at_once)
        if number == 0:  # an uncounted round
            for contestant in (plain, drafting):
                contestant.speeds.clear()
                contestant.shares.clear()
        print(f"round {number} of {options.rounds} done", file=sys.stderr)
    print(f"{options.model.name}, tokenizer of {words.get_vocab_size()}; at most {options.draft_tokens} drafted, {options.rounds} rounds")
    for (kind, at_once), speeds in plain.speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(drafting.speeds[kind, at_once], speeds, strict=True)]
        drafted, right = drafting.shares[kind, at_once]
        share = f"{right / drafted:4.0%} of {drafted} right" if drafted else "nothing drafted"
        print(f"{kind:6} {at_once} at once {statistics.median(speeds):8.1f} tokens/s, with lookup {statistics.median(ratios):5.2f} ({min(ratios):.2f} .. {max(ratios):.2f}); {share}")
    for contestant in (plain, drafting):
        contestant.engine.close()


if __name__ == "__main__":
    main()
