"""Classifier-free guidance (Sanchez et al., 2023): a reply is written behind two prompts at once, and goes away from what the negative one suggests.

A guided sequence has a negative side: a sequence of its own in a slot of its own, whose ids are the negative prompt and the reply so far. Both sides are
admitted, preempted and ended together (`scheduler.py`). Of each prompt all but the last token is read; then both decode in the same step, and the token is
chosen from both rows of logits. Knows prompts, limits and logits; knows no slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from modules.core.errors import ContextOverflow, InvalidRequest, NotOffered
from modules.engine.logits import LOWEST, as_row
from modules.engine.sequence import Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.model import Logits, LogitsRow, Runner, Tokenizer
    from modules.core.params import GenerationParams
    from modules.engine.shares import Share

SIDES = 2  # slots that a guided reply takes
FIELDS = ("guidance_scale", "negative_prompt")


def ignored(slots: int) -> dict[str, str]:
    """The parameters of guidance with a reason, where there are too few slots for it."""
    return dict.fromkeys(FIELDS, f"Guidance writes in {SIDES} slots at once, and this model has {slots}.") if slots < SIDES else {}


class Guidance:
    """Gives sequences their negative sides, for one model."""

    def __init__(self, runner: Runner, tokenizer: Tokenizer, name: str) -> None:
        self._slots = min(runner.n_slots, runner.max_batch_tokens)
        self._capacity_tokens = runner.capacity_tokens
        self._vocab_size = runner.vocab_size
        self._tokenizer = tokenizer
        self._name = name

    def add(self, sequence: Sequence, params: GenerationParams, limit: int) -> None:
        """Make a sequence a guided one if the parameters ask for it. Its reply becomes no longer than both sides have room for.

        Raises:
            NotOffered: the model has one slot.
            InvalidRequest: together with `deterministic`, or the tokenizer cannot read the negative prompt.
            ContextOverflow: the negative prompt leaves no room for a reply within `limit`, or both prompts have no room at once.
        """
        if params.guidance_scale == 1 or params.prompt_only:
            return
        self._check_possible(params)
        ids = self._ids(params.negative_prompt) or sequence.ids[-1:]
        if len(ids) >= limit:
            raise ContextOverflow(
                f"The negative prompt has {len(ids)} tokens; the context is {limit} here, and the reply needs at least one of them. "
                "Shorten the negative prompt, or allow a longer context.",
                limit=limit,
                got=len(ids),
                field="negative_prompt",
            )
        free = self._capacity_tokens - len(sequence.ids) - len(ids)
        if free < SIDES:
            raise ContextOverflow(
                f"The prompt has {len(sequence.ids)} tokens and the negative prompt {len(ids)}; {self._name} holds {self._capacity_tokens} in all, and the reply "
                "needs room behind both. Shorten one of them, or load the model with a larger cache.",
                limit=self._capacity_tokens,
                got=len(sequence.ids) + len(ids) + SIDES,
                field="negative_prompt",
            )
        room = min(sequence.max_length - len(sequence.ids), limit - len(ids), free // SIDES)
        sequence.max_length = len(sequence.ids) + room
        pair(sequence, Sequence(ids, len(ids) + room), params.guidance_scale)

    def _check_possible(self, params: GenerationParams) -> None:
        if self._slots < SIDES:
            raise NotOffered(
                f"guidance_scale {params.guidance_scale:g} writes a reply in {SIDES} slots at once, and {self._name} has {self._slots}. "
                f"Load it with {SIDES} slots or more, where its architecture allows that, or set guidance_scale to 1.",
                field="guidance_scale",
            )
        if params.deterministic:
            raise InvalidRequest(
                "A deterministic reply is computed alone, and with guidance_scale a second text is computed beside it; set guidance_scale to 1, or "
                "deterministic to false.",
                field="guidance_scale",
            )

    def _ids(self, text: str) -> list[int]:
        """A raw prompt, as one that is continued: with BOS where the model wants it, once."""
        if not text:
            return []
        try:
            ids = self._tokenizer.encode(text, add_special=True, parse_special=True)
        except InvalidRequest as error:
            raise type(error)(f"The negative prompt: {error.message}", **error.details | {"field": "negative_prompt"}) from error
        twice = ids[:2] == [self._tokenizer.bos_id] * 2
        return [token_id for token_id in ids[twice:] if token_id < self._vocab_size]


def pair(sequence: Sequence, negative: Sequence, scale: float) -> None:
    """Let a sequence be guided by another one, which is only there for that."""
    sequence.negative, sequence.guidance_scale = negative, scale
    sequence.paired = negative.paired = True


def chosen_from(shares: list[Share], logits: Logits) -> Iterator[tuple[Share, Logits]]:
    """The shares of a step that somebody reads, each with its logits; of a guided sequence those of both sides together."""
    if len(shares) == 1 and not shares[0].sequence.paired:
        yield shares[0], logits
        return
    entries = iter(logits)
    own: Mapping[Sequence, Logits] = {share.sequence: [next(entries) for _ in range(share.row.outputs)] for share in shares}
    for share in shares:
        sequence = share.sequence
        if sequence.is_negative:
            continue
        if share.completes and sequence.negative is not None:
            yield share, [combined(as_row(own[sequence][-1]), as_row(own[sequence.negative][-1]), sequence.guidance_scale)]
        else:
            yield share, own[sequence]


def combined(positive: LogitsRow, negative: LogitsRow, scale: float) -> NDArray[np.float32]:
    """Logits scale · (log p − log n) + log n of all tokens; impossible is what is so on either side.

    Without that rule a token that only the negative side excludes would be infinitely likely.
    """
    ours, theirs = positive.full(), negative.full()
    impossible = (ours < LOWEST) | (theirs < LOWEST)
    if impossible.any():
        ours, theirs = np.where(impossible, 0, ours), np.where(impossible, 0, theirs)
    log_n = theirs - np.float32(negative.logsumexp())
    row = np.float32(scale) * (ours - np.float32(positive.logsumexp()) - log_n) + log_n
    if impossible.any():
        row[impossible] = -np.inf
    return row
