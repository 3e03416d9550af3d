"""Samples to training sequences: token ids, and labels that say which of them are learned.

Chat goes through the chat template as at inference (`turn_spans.py`): one text, tokenized once, labelled by character ranges. A token
that reaches over the border of a range is learned with it: it carries the first letters of a reply, or the last of its end. The first
token of a sequence is never learned, for nothing stands before it.

Plain text: each document is a sequence of its own, with BOS where the model wants one and EOS behind it (`add_eos`). A longer one is cut
into pieces; each piece repeats the last tokens of the one before (`stride_tokens`, at least one), which are not learned again, so that
every token is learned exactly once. Documents are never joined into one piece: with packing they share a row and do not see each other,
where joining them, as others do, lets the end of one be learned from the unrelated text before it.

A conversation that is too long is cut at its end or dropped (`too_long`); what has nothing left to learn is dropped and counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.bos import for_model, needs_bos
from modules.training.options import TrainingOptions
from modules.training.samples import (
    IGNORED,
    ChatSample,
    Encoded,
    FeedbackSample,
    PairSample,
    Sample,
    TextSample,
)
from modules.training.tokens import Placed, PlacedTokenizer
from modules.training.turn_spans import Span, TurnWriter, Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_PROBLEMS = 10


@dataclass(slots=True)
class EncodingReport:
    """What became of the samples."""

    samples: int = 0
    sequences: int = 0
    trained_tokens: int = 0
    ignored_tokens: int = 0
    cut: int = 0  # sequences that lost their end
    cut_tokens: int = 0
    dropped: int = 0  # samples or replies too long, or with nothing to learn before the cut
    empty: int = 0  # samples without any text
    unlearned: int = 0  # samples without a reply to learn
    refused: int = 0  # samples that the template does not take
    problems: list[str] = field(default_factory=list)  # the first ten


def refuse_if_empty(report: EncodingReport) -> None:
    """Say why nothing would be trained, where that is so.

    Raises:
        InvalidRequest: no sequence is left.
    """
    if report.sequences:
        return
    told = left_out(report) or "none is left"
    first = f" {report.problems[0]}" if report.problems else ""
    raise InvalidRequest(f"Nothing would be trained: of {report.samples:,} samples {told}.{first}", field="dataset")


def left_out(report: EncodingReport) -> str:
    """How many samples teach nothing, and why; empty if all do."""
    reasons = [
        (report.empty, "are empty"),
        (report.unlearned, "have no reply of an assistant to learn"),
        (report.dropped, "are too long, or what is to be learned stands behind the cut; raise cutoff_tokens or shorten them"),
        (report.refused, "do not go through the chat template"),
    ]
    return "; ".join(f"{count:,} {reason}" for count, reason in reasons if count)


class Encoder:
    """Makes training sequences of samples; `report` counts what became of all it was given."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: TemplateSource | None, options: TrainingOptions, limit_tokens: int
    ) -> None:
        self.tokenizer = PlacedTokenizer(tokenizer)
        self.options = options
        self.limit_tokens = limit_tokens
        self.report = EncodingReport()
        self.lengths = array("l")  # of all sequences before they were cut or dropped, in tokens
        self._pairs = 0
        self._template = template
        if template is not None and not template.bos_token and not template.eos_token:
            tokens = self.tokenizer
            self._template = for_model(template, bos_token=tokens.bos_token, eos_token=tokens.eos_token, adds_bos=tokens.adds_bos)
        bos = self.tokenizer.pieces.bos_id
        self._bos = (bos,) if self.tokenizer.adds_bos and bos is not None else ()
        self._overlap = max(1, options.stride_tokens)
        if len(self._bos) + self._overlap >= limit_tokens:
            raise InvalidRequest(
                f"Pieces of {limit_tokens} tokens cannot share {self._overlap} with their neighbours; set stride_tokens below {limit_tokens - len(self._bos)}.",
                field="stride_tokens",
            )

    def encode(self, samples: Iterable[Sample]) -> Iterator[Encoded]:
        """Sequences in the order of their samples; a sample that the template refuses is left out and told in the report.

        Raises:
            InvalidRequest: there are chats and no template, or the template takes no conversation at all.
        """
        for sample in samples:
            self.report.samples += 1
            try:
                whole = self.whole(sample)
            except InvalidRequest as error:
                if error.details.get("no_template"):
                    raise
                self.report.refused += 1
                self._note(f"{sample.where}: {error.message}")
                continue
            if not whole:
                self._count_nothing(sample)
                continue
            yield from self._kept(whole)

    def whole(self, sample: Sample) -> tuple[Encoded, ...]:
        """The sequences of one sample before anything is cut or dropped; none where there is nothing to learn.

        Raises:
            InvalidRequest: the template does not take it.
        """
        if isinstance(sample, TextSample):
            return self._text(sample)
        if isinstance(sample, ChatSample):
            return self._chat(sample)
        if isinstance(sample, FeedbackSample):
            answers = [(sample.answer, "good" if sample.is_good else "bad")]
        else:
            answers = [(sample.chosen, "chosen"), (sample.rejected, "rejected")]
        return self._answers(sample, answers)

    def cut(self, one: Encoded) -> Encoded:
        """A sequence without what stands behind the limit."""
        gone = len(one.token_ids) - self.limit_tokens
        if gone <= 0:
            return one
        limit = self.limit_tokens
        return replace(one, token_ids=one.token_ids[:limit], labels=one.labels[:limit], cut_tokens=gone)

    # ---- counting --------------------------------------------------------------------------------------------------

    def _kept(self, whole: Sequence[Encoded]) -> Iterator[Encoded]:
        """What fits, counted. A pair stays together or goes together."""
        self.lengths.extend(len(one.token_ids) for one in whole)
        kept = [self._fitting(one) for one in whole]
        if whole[0].pair >= 0 and None in kept:
            self.report.dropped += 1
            return
        for one in kept:
            if one is None:
                self.report.dropped += 1
                continue
            trained = sum(label != IGNORED for label in one.labels)
            self.report.sequences += 1
            self.report.trained_tokens += trained
            self.report.ignored_tokens += len(one.labels) - trained
            self.report.cut += one.cut_tokens > 0
            self.report.cut_tokens += one.cut_tokens
            yield one

    def _fitting(self, one: Encoded) -> Encoded | None:
        if len(one.token_ids) > self.limit_tokens and self.options.too_long == "drop":
            return None
        one = self.cut(one)
        return one if any(label != IGNORED for label in one.labels) else None

    def _count_nothing(self, sample: Sample) -> None:
        if isinstance(sample, ChatSample) and any(message.content.strip() for message in sample.messages):
            self.report.unlearned += 1
        else:
            self.report.empty += 1

    def _note(self, problem: str) -> None:
        if len(self.report.problems) < SHOWN_PROBLEMS:
            self.report.problems.append(problem)

    # ---- chat ------------------------------------------------------------------------------------------------------

    @cached_property
    def writer(self) -> TurnWriter:
        """The chat template at work.

        Raises:
            InvalidRequest: there is none, or it takes no conversation.
        """
        if self._template is None:
            raise InvalidRequest("This model has no chat template of its own; choose a prompt template, as its makers or you want it to be asked.", field="template", no_template=True)
        try:
            return TurnWriter(self._template, self.tokenizer.eos_token)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, field="template", no_template=True) from error

    def _chat(self, sample: ChatSample) -> tuple[Encoded, ...]:
        if self.options.learn == "everything":
            if not any(_says_something(message) for message in sample.messages):
                return ()
            written: Sequence[Written] = (self.writer.everything(sample.messages, sample.tools),)
        else:
            places = [place for place, message in enumerate(sample.messages) if message.role == "assistant" and _says_something(message)]
            if self.options.learn == "completion":
                places = places[-1:]
            learned = [place for place in places if place not in sample.unlearned]
            if not learned:
                return ()
            written = self.writer.replies(sample.messages, learned, sample.tools)
        return tuple(self._labelled(self.tokenizer.place(one.text), one.spans, sample.where) for one in written)

    def _answers(self, sample: PairSample | FeedbackSample, answers: Sequence[tuple[Message, Any]]) -> tuple[Encoded, ...]:
        """One sequence for each answer to the same prompt, of which the answer alone is learned."""
        if not all(_says_something(answer) for answer, _ in answers):
            return ()
        pair = -1
        if len(answers) > 1:
            pair, self._pairs = self._pairs, self._pairs + 1
        tools: Sequence[Mapping[str, Any]] = sample.tools if isinstance(sample, PairSample) else ()
        found = []
        for answer, role in answers:
            (written,) = self.writer.replies([*sample.messages, answer], [len(sample.messages)], tools)
            found.append(replace(self._labelled(self.tokenizer.place(written.text), written.spans, sample.where), role=role, pair=pair))
        return tuple(found)

    def _labelled(self, placed: Placed, spans: Sequence[Span], where: str) -> Encoded:
        """Labels by character ranges, which stand in order."""
        labels = []
        left = list(reversed(spans))
        for number, (begin, end) in zip(placed.ids, placed.ranges, strict=True):
            while left and left[-1][1] <= begin:
                left.pop()
            learns = bool(left) and begin < left[-1][1] and max(end, begin + 1) > left[-1][0]
            labels.append(number if learns else IGNORED)
        labels[:1] = [IGNORED]
        return Encoded(placed.ids, tuple(labels), where)

    # ---- text ------------------------------------------------------------------------------------------------------

    def _text(self, sample: TextSample) -> tuple[Encoded, ...]:
        if not sample.text.strip():
            return ()
        tokens = self.tokenizer
        bos = self._bos if needs_bos(sample.text, tokens.bos_token) else ()
        end = (tokens.eos_id,) if self.options.add_eos and tokens.eos_id is not None and not sample.text.endswith(tokens.eos_token or "\0") else ()
        body = tokens.ids(sample.text) + end
        if len(bos) + len(body) <= self.limit_tokens:
            return (_piece(bos, body, 0, sample.where),)
        pieces = [_piece(bos, body[: self.limit_tokens - len(bos)], 0, sample.where)]
        at, room = self.limit_tokens - len(bos), self.limit_tokens - len(self._bos) - self._overlap
        while at < len(body):
            pieces.append(_piece(self._bos, body[at - self._overlap : at + room], self._overlap, sample.where))
            at += room
        return tuple(pieces)


def _piece(bos: tuple[int, ...], body: tuple[int, ...], known: int, where: str) -> Encoded:
    """A piece of a text whose first `known` tokens were learned before."""
    ids = bos + body
    ignored = max(1, len(bos) + known)
    return Encoded(ids, (IGNORED,) * min(ignored, len(ids)) + ids[ignored:], where)


def _says_something(message: Message) -> bool:
    return bool(message.content.strip() or message.tool_calls)
