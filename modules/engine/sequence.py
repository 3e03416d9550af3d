"""One sequence in the making: its tokens, how many of them the model has seen, and what turns new ones into text.

A mutable record that the engine thread alone changes. It knows no model: the scheduler moves it between queue and slots, the engine feeds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modules.core.generation import Delta, FinishReason, TokenLogprob, Usage
from modules.core.model import Adapter
from modules.engine.payoff import DraftRecord

if TYPE_CHECKING:
    from modules.engine.detokenizer import Detokenizer
    from modules.engine.stopping import StopChecker


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of one generation.

    `ids` are prompt and completion; the first `computed` of them are in the model's memory. A sequence that lacks one is decoding, one that
    lacks more is in prefill: a preempted sequence is simply one that lost all of its `computed`.
    """

    ids: list[int]
    max_length: int  # prompt and completion together, tokens
    client: str = ""
    adapters: tuple[Adapter, ...] = ()  # only sequences with the same ones share a step
    generation: Any = None  # the handle that the engine gave out; opaque here
    sampler: Any = None  # engine.sampling.Sampler, or nothing in tests of the bookkeeping
    detokenizer: Detokenizer | None = None
    stops: StopChecker | None = None
    logprobs: int | None = None  # alternatives to report for each token; None reports nothing
    probe: int = 0  # only report this many likeliest next tokens and end
    end_ids: frozenset[int] = frozenset()
    stop_ids: Mapping[int, str] = field(default_factory=dict)  # special tokens that are stop strings

    number: int = -1  # order of arrival
    slot: int = -1
    computed: int = 0
    reused: int = 0
    admitted: bool = False  # whether it ever got a slot
    announced: bool = False  # whether the start was reported

    queued_s: float = 0.0  # monotonic times, seconds
    admitted_s: float = 0.0
    first_token_s: float = 0.0

    prompt_length: int = field(init=False)
    record: DraftRecord = field(default_factory=DraftRecord)
    new_text: list[str] = field(default_factory=list)  # since the last delivery
    new_ids: list[int] = field(default_factory=list)
    new_logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def produced(self) -> int:
        """Tokens of the completion so far."""
        return len(self.ids) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens that the model has not seen yet; at least one."""
        return len(self.ids) - self.computed

    def take_delta(self, finish: FinishReason | None = None, stop_string: str | None = None, usage: Usage | None = None) -> Delta:
        """What is new since the last call."""
        delta = Delta("".join(self.new_text), tuple(self.new_ids), tuple(self.new_logprobs), finish, stop_string, usage)
        self.new_text.clear()
        self.new_ids.clear()
        self.new_logprobs.clear()
        return delta

    def usage(self, now_s: float) -> Usage:
        """Costs up to now."""
        admitted_s = self.admitted_s or now_s
        first_s = self.first_token_s or now_s
        return Usage(
            prompt_tokens=self.prompt_length,
            reused_tokens=self.reused,
            completion_tokens=self.produced,
            queue_s=admitted_s - self.queued_s,
            prefill_s=first_s - admitted_s,
            decode_s=now_s - first_s,
            drafted_tokens=self.record.drafted,
            accepted_tokens=self.record.accepted,
        )
