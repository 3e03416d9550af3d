"""What a proof consists of: losses before and after, preferences, answers side by side, the worst items, and the verdict. Values only.

“Before” is the base model, “after” the base model with the adapter. Losses are nats for each learned token; one that is not a number is None.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Colour = Literal["green", "amber", "red"]


class Comparison(BaseModel, frozen=True):
    """One text measured twice."""

    before: float | None
    after: float | None
    error: float = 0.0  # standard error of the difference, from how much the sequences differ among themselves
    tokens: int = 0
    sequences: int = 0
    of_sequences: int = 0  # that there are; more than `sequences` where the bound cut them

    @property
    def is_number(self) -> bool:
        """Whether both losses are numbers."""
        return self.before is not None and self.after is not None

    @property
    def change(self) -> float:
        """After less before, as a share of before; below zero is better."""
        return 0.0 if self.before is None or self.after is None or self.before <= 0 else (self.after - self.before) / self.before


class Preference(BaseModel, frozen=True):
    """How the model sees better and worse answers, by their probability for each token, so that length does not decide."""

    items: int  # pairs, or single answers marked good or bad
    before: float | None = None  # share of pairs in which the better answer is the likelier one; single answers have none
    after: float | None = None
    moved: float  # share of items that moved the right way: the better answer gained on the worse one, a good one gained, a bad one lost


class Answer(BaseModel, frozen=True):
    """One prompt answered twice, greedily."""

    prompt: str
    expected: str = ""  # what the data says, where the prompt is from there
    base: str
    adapter: str
    base_is_cut: bool = False  # at the most tokens of an answer
    adapter_is_cut: bool = False
    base_is_degenerate: bool = False  # empty, or going in circles
    adapter_is_degenerate: bool = False


class WorstItem(BaseModel, frozen=True):
    """A held-out item that is still hard after training."""

    where: str
    prompt: str
    answer: str
    before: float | None
    after: float | None
    tokens: int


class Proof(BaseModel, frozen=True):
    """What training changed."""

    verdict: Colour
    sentence: str
    held_out: Comparison | None = None  # None: no held-out data
    general: Comparison
    preference: Preference | None = None
    answers: tuple[Answer, ...] = ()
    worst: tuple[WorstItem, ...] = ()
    notes: tuple[str, ...] = ()  # sentences: what was left out, and why
    seconds: float = 0.0
