"""One sequence in the making: its tokens, how many of them the model has seen, and what turns new ones into text.

A mutable record that the engine thread alone changes. It knows no model: the scheduler moves it between queue and slots, the engine feeds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from modules.core.generation import Delta, FinishReason, TokenLogprob, Usage
from modules.core.model import Adapter
from modules.engine.payoff import DraftRecord

if TYPE_CHECKING:
    from modules.engine.detokenizer import Detokenizer
    from modules.engine.stopping import StopChecker


class Ahead(Protocol):
    """Whoever is waited for: a sequence that computes a beginning, or what reads it."""

    computed: int

    @property
    def slot(self) -> int:
        """Negative once nothing more comes of it."""
        ...


def leads(one: Ahead, common: int) -> bool:
    """Whether it is still on its way to so many tokens."""
    return one.slot >= 0 and one.computed < common


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of one generation.

    `ids` are prompt and completion; the first `computed` of them are in the model's memory. A sequence that lacks one is decoding, one that
    lacks more is in prefill: a preempted sequence is simply one that lost all of its `computed`.
    """

    ids: list[int]
    max_length: int  # prompt and completion together, tokens
    person: str = ""  # who asks: people take turns, and then the clients of each
    client: str = ""
    adapters: tuple[Adapter, ...] = ()  # only sequences with the same ones share a step
    generation: Any = None  # the handle that the engine gave out; opaque here
    sampler: Any = None  # engine.sampling.Sampler, or nothing in tests of the bookkeeping
    detokenizer: Detokenizer | None = None
    stops: StopChecker | None = None
    deterministic: bool = False  # always the same steps: alone in an empty memory
    logprobs: int | None = None  # alternatives to report for each token; None reports nothing
    prompt_logprobs: int | None = None  # the same for each token of the prompt
    probe: int = 0  # only report this many likeliest next tokens and end
    end_ids: frozenset[int] = frozenset()
    stop_ids: Mapping[int, str] = field(default_factory=dict)  # special tokens that are stop strings
    negative: Sequence | None = field(default=None, repr=False)  # the same reply behind the negative prompt, in a slot of its own (`guidance.py`)
    guidance_scale: float = 1.0  # how far the choice goes from there to here
    paired: bool = False  # one of two such sides, which decode in the same steps

    number: int = -1  # order of arrival
    slot: int = -1
    decoded_at: int = 0  # step of the scheduler in which it last decoded
    computed: int = 0
    reused: int = 0
    marks_at: list[int] = field(default_factory=list)  # lengths at which the model's memory is to be marked (`marking.py`)
    widened: int = 0  # length of the text of which some was read once more (`tiles.py`)
    keep_on_disk: bool = True  # what was computed for it, once that has lost its slot and there is no room in main memory
    reported: int = 0  # tokens of the prompt whose log-probabilities were reported
    admitted: bool = False  # whether it ever got a slot
    leader: Ahead | None = None  # will soon have a beginning that this one has too: it is copied then, and nothing computed before
    common: int = 0  # how much that is
    announced: bool = False  # whether the start was reported
    preemptions: int = 0  # times that it lost its slot

    deadline_s: float = 0.0  # monotonic; 0 has none
    queued_s: float = 0.0  # monotonic times, seconds
    admitted_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    longest_gap_s: float = 0.0  # between two tokens

    prompt_length: int = field(init=False)
    record: DraftRecord = field(default_factory=DraftRecord)
    new_text: list[str] = field(default_factory=list)  # since the last delivery
    new_ids: list[int] = field(default_factory=list)
    new_logprobs: list[TokenLogprob] = field(default_factory=list)
    new_prompt_logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def produced(self) -> int:
        """Tokens of the completion so far."""
        return len(self.ids) - self.prompt_length

    @property
    def sides(self) -> tuple[Sequence, ...]:
        """All that takes a slot for it: itself, and its negative side if it is guided."""
        return (self,) if self.negative is None else (self, self.negative)

    @property
    def is_negative(self) -> bool:
        """Whether it is only there to guide another one."""
        return self.paired and self.negative is None

    @property
    def pending(self) -> int:
        """Tokens that the model has not seen yet; at least one."""
        return len(self.ids) - self.computed

    @property
    def unread(self) -> int:
        """Tokens that are read as prefill before it decodes. The last one of a side waits for the other side."""
        return self.pending - self.paired

    @property
    def reports_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still to be reported: the model's output after each of its tokens is wanted."""
        return self.prompt_logprobs is not None and self.reported < self.prompt_length

    @property
    def reusable(self) -> int:
        """How many of its first tokens may come from a cache: never the last, whose logits choose the next one."""
        return max(0, self.reported - 1) if self.reports_prompt else len(self.ids) - 1

    def append(self, token_id: int) -> None:
        """The next token was chosen; the model reads it behind both prompts."""
        for side in self.sides:
            side.ids.append(token_id)

    def take_delta(
        self, finish: FinishReason | None = None, stop_string: str | None = None, usage: Usage | None = None, end_id: int | None = None
    ) -> Delta:
        """What is new since the last call."""
        delta = Delta(
            "".join(self.new_text), tuple(self.new_ids), tuple(self.new_logprobs), finish, stop_string, usage,
            prompt_logprobs=tuple(self.new_prompt_logprobs), end_id=end_id,
        )  # fmt: skip
        self.new_text.clear()
        self.new_ids.clear()
        self.new_logprobs.clear()
        self.new_prompt_logprobs.clear()
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
            longest_gap_s=self.longest_gap_s,
            preemptions=self.preemptions,
        )
