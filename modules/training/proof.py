"""What training changed, measured when it has ended: held-out and general loss, preferences, answers side by side, the worst items, and a verdict.

The base model is the adapter switched off, so both sides are computed by the same program on the same numbers. Bounded in tokens and in time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from modules.core.errors import InvalidRequest
from modules.core.job import JobContext
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.training.evidence import Answer, Comparison, Preference, Proof, WorstItem
from modules.training.general_text import PASSAGES
from modules.training.samples import ChatSample, Encoded, FeedbackSample, PairSample, Sample, TextSample
from modules.training.sequence_losses import SequenceLoss, batch_losses, batches_of, learned_tokens
from modules.training.verdict import is_degenerate, judge
from modules.training.writing import Writer

__all__ = ["Proof", "Proving", "prove"]

HELD_OUT_TOKENS = 200_000  # that go through the model, twice: more would not move a mean of so many
HELD_OUT_S = 300.0  # and where the model is slow, no longer than this
GENERAL_WINDOW_TOKENS = 512  # passages are shorter in nearly every vocabulary; a longer one is read in pieces
ANSWERS = 10
ANSWERS_S = 240.0
ANSWER_TOKENS = 128
PROMPT_TOKENS = 1024  # longer held-out prompts are not asked: their answers are about their text, which nobody sees in a table
TEXT_BEGINNING_TOKENS = 32
WORST = 8
Item = TypeVar("Item")
# Longest texts kept: ten answers and eight items then stay below 200 kB in any script
PROMPT_CHARACTERS, ANSWER_CHARACTERS, ITEM_CHARACTERS, WHERE_CHARACTERS = 600, 1200, 500, 200


@dataclass(frozen=True)
class Proving:
    """What a proof is made of. The model carries the adapter as it will be saved, switched on."""

    model: Any  # a PeftModel
    tokenizer: Any
    template: TemplateSource | None  # None: the tokenizer's own, if it has one
    held_out: Sequence[Encoded]
    samples: Sequence[Sample]  # the held-out ones, for their prompts
    prompts: Sequence[str]  # the person's own; they go first
    context: JobContext
    base: Callable[[], AbstractContextManager[Any]] | None = None  # inside it the model is the base model; None: `model.disable_adapter`


@dataclass(frozen=True, slots=True)
class _Measured:
    """One sequence before and after."""

    sequence: Encoded
    before: SequenceLoss
    after: SequenceLoss


def prove(run: Proving) -> Proof:
    """Measure, ask, judge. Leaves the model in the mode it was in, its adapter switched on.

    Raises:
        Cancelled: the person asked to stop.
    """
    began_s = time.monotonic()
    with _evaluating(run.model):
        prover = _Prover(run)
        measured = prover.measure(_spread_over(run.held_out, HELD_OUT_TOKENS), HELD_OUT_S)
        general = prover.measure(prover.general_sequences(), math.inf)
        answers = prover.answers()
        worst = prover.worst(measured)
    held_out = _comparison([one for one in measured if one.sequence.role not in ("rejected", "bad")], _count(run.held_out))
    preference = _preference(measured)
    comparison = _comparison(general, len(general))
    known = held_out if held_out.tokens else None
    colour, sentence = judge(known, comparison, preference, answers)
    return Proof(
        verdict=colour, sentence=sentence, held_out=known, general=comparison, preference=preference, answers=tuple(answers), worst=tuple(worst),
        notes=tuple(prover.notes), seconds=round(time.monotonic() - began_s, 3),
    )  # fmt: skip


class _Prover:
    """One proof under way: what it has been told so far, and what had to be left out."""

    def __init__(self, run: Proving) -> None:
        self._run = run
        self._model = run.model
        self._off = run.base or run.model.disable_adapter
        template = run.template or _own_template(run.tokenizer)
        self._chats = template is not None and (not run.samples or any(not isinstance(sample, TextSample) for sample in run.samples))
        self._writer = Writer(run.model, run.tokenizer, template)
        self._done = 0
        self.notes: list[str] = []

    def _tick(self) -> None:
        self._run.context.progress(self._done, None, "parts of the proof", phase="proof")

    def measure(self, sequences: Sequence[Encoded], limit_s: float) -> list[_Measured]:
        """Each sequence with the adapter off and on. What the time does not suffice for is left out, as evenly as the batches are drawn."""
        pad_id = self._run.tokenizer.pad_token_id or 0
        usable = [sequence for sequence in sequences if learned_tokens(sequence)]
        batches = batches_of(usable)
        end_s = time.monotonic() + limit_s
        found: list[_Measured] = []
        for batch in _evenly(batches):
            self._tick()
            rows = [usable[place] for place in batch]
            with self._off():
                before = batch_losses(self._model, rows, pad_id)
            self._tick()
            after = batch_losses(self._model, rows, pad_id)
            found += [_Measured(*each) for each in zip(rows, before, after, strict=True)]
            self._done += 1
            if time.monotonic() > end_s and len(found) < len(usable):
                self.notes.append(f"Held-out loss was measured on {len(found)} of {len(usable)} items: the time for it ({limit_s:.0f} s) was over.")
                break
        return found

    def general_sequences(self) -> list[Encoded]:
        """The general text as sequences of which every token counts."""
        window = min(GENERAL_WINDOW_TOKENS, self._writer.context_length or GENERAL_WINDOW_TOKENS)
        found = []
        for passage in PASSAGES:
            ids = self._writer.text_ids(passage.text)
            for begin in range(0, len(ids), window):
                piece = tuple(ids[begin : begin + window])
                found.append(Encoded(piece, piece, passage.kind))
        return found

    def answers(self) -> list[Answer]:
        """Up to ten prompts, answered with the adapter off and on."""
        found: list[Answer] = []
        end_s = time.monotonic() + ANSWERS_S
        for shown, ids, expected in self._questions():
            if len(found) >= ANSWERS:
                break
            if time.monotonic() > end_s and found:
                self.notes.append(f"{len(found)} prompts were answered: the time for it ({ANSWERS_S:.0f} s) was over.")
                break
            with self._off():
                base = self._writer.write(ids, ANSWER_TOKENS, self._tick, chat=self._chats)
            adapter = self._writer.write(ids, ANSWER_TOKENS, self._tick, chat=self._chats)
            self._done += 1
            found.append(Answer(
                prompt=shortened(shown, PROMPT_CHARACTERS), expected=shortened(expected, PROMPT_CHARACTERS),
                base=shortened(base.text, ANSWER_CHARACTERS), adapter=shortened(adapter.text, ANSWER_CHARACTERS),
                base_is_cut=base.is_cut, adapter_is_cut=adapter.is_cut,
                base_is_degenerate=is_degenerate(base.text, base.token_ids), adapter_is_degenerate=is_degenerate(adapter.text, adapter.token_ids),
            ))  # fmt: skip
        return found

    def _questions(self) -> Iterator[tuple[str, list[int], str]]:
        """Prompts as shown, as ids, and what the data would answer: the person's own, or else held-out ones, far from each other, each once."""
        room = min(PROMPT_TOKENS, (self._writer.context_length or PROMPT_TOKENS + ANSWER_TOKENS) - ANSWER_TOKENS)
        for prompt in self._run.prompts:
            ids = self._ids_of((Message(role="user", content=prompt),), (), prompt)
            if ids and len(ids) <= room:
                yield prompt, ids, ""
            elif ids:
                self.notes.append(f"The prompt “{shortened(prompt, 40)}” has {len(ids)} tokens; the limit is {room}. Shorten it.")
        if self._run.prompts:
            return
        seen = set()
        for sample in _evenly(self._run.samples):
            shown, ids, expected = self._of_sample(sample)
            if ids and len(ids) <= room and shown not in seen:
                seen.add(shown)
                yield shown, ids, expected

    def _of_sample(self, sample: Sample) -> tuple[str, list[int], str]:
        if isinstance(sample, TextSample):
            ids = self._writer.text_ids(sample.text)
            begin = ids[: min(TEXT_BEGINNING_TOKENS, len(ids) // 2)]
            return self._decoded(begin), begin, self._decoded(ids[len(begin) :])
        messages, expected = _question_of(sample)
        if not messages:
            return "", [], ""
        tools = getattr(sample, "tools", ())
        return _last_user_text(messages), self._ids_of(messages, tools, _last_user_text(messages)), expected

    def _ids_of(self, messages: Sequence[Message], tools: Sequence[Any], text: str) -> list[int]:
        """A chat, or where nothing is known of chats the bare text."""
        if not self._chats:
            return self._writer.text_ids(text)
        try:
            return self._writer.chat_ids(messages, tools)
        except InvalidRequest as error:
            if error.message not in self.notes:
                self.notes.append(error.message)
            return []

    def worst(self, measured: Sequence[_Measured]) -> list[WorstItem]:
        """The items with the largest loss after training, largest first; one that is not a number leads."""
        kept = [one for one in measured if one.sequence.role not in ("rejected", "bad")]
        kept.sort(key=lambda one: -one.after.mean if math.isfinite(one.after.mean) else -math.inf)
        return [self._worst_item(one) for one in kept[:WORST]]

    def _worst_item(self, one: _Measured) -> WorstItem:
        ids, labels = one.sequence.token_ids, one.sequence.labels
        first = next(place for place, label in enumerate(labels) if label >= 0)
        prompt = self._decoded(ids[:first])
        learned = self._decoded([token for token, label in zip(ids, labels, strict=True) if label >= 0])
        return WorstItem(
            where=shortened(one.sequence.where, WHERE_CHARACTERS),
            prompt=shortened(prompt, ITEM_CHARACTERS, end=True),
            answer=shortened(learned, ITEM_CHARACTERS),
            before=_number(one.before.mean), after=_number(one.after.mean), tokens=one.after.tokens,
        )  # fmt: skip

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._run.tokenizer.decode(list(ids), skip_special_tokens=True))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout, and afterwards as before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _own_template(tokenizer: Any) -> TemplateSource | None:
    text = getattr(tokenizer, "chat_template", None)
    if not isinstance(text, str) or not text:
        return None
    return TemplateSource(text=text, origin="the tokenizer", bos_token=tokenizer.bos_token or "", eos_token=tokenizer.eos_token or "")


def _question_of(sample: ChatSample | PairSample | FeedbackSample) -> tuple[tuple[Message, ...], str]:
    """The messages before the answer, and the answer."""
    if isinstance(sample, PairSample):
        return sample.messages, sample.chosen.content
    if isinstance(sample, FeedbackSample):
        return sample.messages, sample.answer.content if sample.is_good else ""
    last = max((place for place, message in enumerate(sample.messages) if message.role == "assistant"), default=0)
    return (sample.messages[:last], sample.messages[last].content) if last else ((), "")


def _last_user_text(messages: Sequence[Message]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), messages[-1].content)


def _count(sequences: Sequence[Encoded]) -> int:
    return sum(sequence.role not in ("rejected", "bad") and learned_tokens(sequence) > 0 for sequence in sequences)


def _evenly(items: Sequence[Item]) -> list[Item]:
    """The same items in an order of which every beginning is spread over the whole: by the digits of their places, mirrored."""
    bits = max(1, (len(items) - 1).bit_length())
    return [items[place] for place in sorted(range(len(items)), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))]


def _spread_over(sequences: Sequence[Encoded], limit_tokens: int) -> list[Encoded]:
    """As many sequences as the limit allows, spread over all of them; pairs stay together."""
    groups: list[list[Encoded]] = []
    for sequence in sequences:
        if sequence.pair >= 0 and groups and groups[-1][-1].pair == sequence.pair:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    chosen: list[Encoded] = []
    total = 0
    for group in _evenly(groups):
        total += sum(len(sequence.token_ids) for sequence in group)
        if total > limit_tokens and chosen:
            break
        chosen += group
    return chosen


def _comparison(measured: Sequence[_Measured], of_sequences: int) -> Comparison:
    """Means over all learned tokens, and the standard error of their difference as that of a ratio of sums over sequences."""
    tokens = sum(one.after.tokens for one in measured)
    if not tokens:
        return Comparison(before=None, after=None)
    before = sum(one.before.total for one in measured) / tokens
    after = sum(one.after.total for one in measured) / tokens
    change, count = after - before, len(measured)
    spread = sum((one.after.total - one.before.total - change * one.after.tokens) ** 2 for one in measured)
    error = math.sqrt(spread * count / (count - 1)) / tokens if count > 1 and math.isfinite(spread) else 0.0
    return Comparison(
        before=_number(before), after=_number(after), error=error, tokens=tokens, sequences=count, of_sequences=max(count, of_sequences),
    )  # fmt: skip


def _preference(measured: Sequence[_Measured]) -> Preference | None:
    """From pairs, or else from single answers; None where there are neither."""
    pairs: dict[int, dict[str, _Measured]] = {}
    for one in measured:
        if one.sequence.role in ("chosen", "rejected"):
            pairs.setdefault(one.sequence.pair, {})[one.sequence.role] = one
    whole = [(pair["chosen"], pair["rejected"]) for pair in pairs.values() if len(pair) == 2]
    if whole:
        moved = sum(better.before.mean - better.after.mean > worse.before.mean - worse.after.mean for better, worse in whole)
        before = sum(better.before.mean < worse.before.mean for better, worse in whole)
        after = sum(better.after.mean < worse.after.mean for better, worse in whole)
        return Preference(items=len(whole), before=before / len(whole), after=after / len(whole), moved=moved / len(whole))
    single = [one for one in measured if one.sequence.role in ("good", "bad")]
    if not single:
        return None
    right = sum((one.after.mean < one.before.mean) == (one.sequence.role == "good") for one in single)
    return Preference(items=len(single), moved=right / len(single))


def _number(value: float) -> float | None:
    """A finite number, rounded to what float32 knows, or None."""
    return round(value, 7) if math.isfinite(value) else None


def shortened(text: str, characters: int, *, end: bool = False) -> str:
    """A text of at most so many characters, with a mark where some are missing: after the beginning, or before the end."""
    if len(text) <= characters:
        return text
    return "…" + text[len(text) - characters + 1 :] if end else text[: characters - 1] + "…"
