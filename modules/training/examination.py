"""What a look before a run finds, as values: counts, lengths, samples token by token, what the template and two steps showed, a verdict with advice.

Written by `preflight.py`, drawn by the page.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from modules.training.probe import Probe

Kind = Literal["trained", "ignored", "cut", "left_out"]


class Piece(BaseModel, frozen=True):
    """One token as text; of letters that take several tokens, all of them. “left_out” stands for tokens that are not shown."""

    text: str
    kind: Kind


class ShownSample(BaseModel, frozen=True):
    """A sequence as the model sees it."""

    where: str
    why: Literal["first", "longest", "cut"]
    role: str  # sample, chosen, rejected, good, bad
    count: int  # tokens in all
    tokens: tuple[Piece, ...]


class Bar(BaseModel, frozen=True):
    """Sequences of at least `begin` and fewer than `to` tokens."""

    begin: int = Field(serialization_alias="from")
    to: int
    count: int


class Counts(BaseModel, frozen=True):
    """Of the samples that are learned, unless it says held out."""

    samples: int = 0
    sequences: int = 0
    trained_tokens: int = 0
    ignored_tokens: int = 0
    cut: int = 0  # sequences that lose their end
    cut_tokens: int = 0
    dropped: int = 0
    empty: int = 0
    unlearned: int = 0  # samples with zero labels
    refused: int = 0  # samples that the template does not take
    exact: int = 0  # duplicates
    near: int = 0
    held_out: int = 0
    held_out_sequences: int = 0


class TemplateFinding(BaseModel, frozen=True):
    """One observation about the chat template with this model's tokenizer."""

    level: Literal["ok", "note", "problem"]
    sentence: str


class Examination(BaseModel, frozen=True):
    """All of it."""

    verdict: Literal["green", "amber", "red"]
    sentence: str
    advice: tuple[str, ...] = ()
    counts: Counts = Counts()
    limit_tokens: int = 0
    longest_tokens: int = 0
    padding_share: float = 0.0  # of what would be computed
    lengths: tuple[Bar, ...] = ()
    samples: tuple[ShownSample, ...] = ()
    template: str = ""  # where the chat template comes from; empty where none is used
    findings: tuple[TemplateFinding, ...] = ()
    steps_per_epoch: float = 0.0
    steps: int = 0
    problems: tuple[str, ...] = ()  # the first samples that were refused
    probe: Probe | None = None  # None until two steps were tried, or where none were
