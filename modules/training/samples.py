"""What a data set becomes before it is tokens: samples of four kinds, each knowing where it stood. And how a data set is named in a job.

Values only: files are read in `rows.py`, columns understood in `formats.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, Field

from modules.core.messages import Message

Format = Literal["messages", "sharegpt", "instruction", "text", "preference", "feedback"]
FORMAT_TITLES: Mapping[Format, str] = MappingProxyType({
    "messages": "Chat (messages)",
    "sharegpt": "Chat (ShareGPT)",
    "instruction": "Instructions (question and answer columns)",
    "text": "Plain text",
    "preference": "Preference pairs (a better and a worse answer)",
    "feedback": "Single answers marked good or bad",
})
# What a column can mean, by format
MEANINGS: Mapping[Format, tuple[str, ...]] = MappingProxyType({
    "messages": ("messages", "system", "tools"),
    "sharegpt": ("messages", "system", "tools"),
    "instruction": ("instruction", "output", "input", "system", "history"),
    "text": ("text",),
    "preference": ("chosen", "rejected", "prompt", "input", "system", "messages", "tools"),
    "feedback": ("label", "messages", "prompt", "answer", "input", "system", "tools"),
})
# Those that every row must have. Pairs need a prompt or messages too, unless the answers begin with it; single answers need messages, or prompt and answer
NEEDED: Mapping[Format, tuple[str, ...]] = MappingProxyType({
    "messages": ("messages",), "sharegpt": ("messages",), "instruction": ("instruction", "output"), "text": ("text",),
    "preference": ("chosen", "rejected"), "feedback": ("label",),
})  # fmt: skip


class DatasetSpec(BaseModel, frozen=True, extra="forbid"):
    """A data set as a job names it: where it is, how its rows are read, which column means what."""

    path: Path
    name: str = Field("", max_length=300)  # in lists
    format: Format
    columns: dict[str, str] = Field(default_factory=dict, max_length=32)  # meaning → column


@dataclass(frozen=True, slots=True)
class ChatSample:
    """A conversation. Replies of the assistant in it are what may be learned."""

    where: str  # "talk.jsonl, line 12"
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    unlearned: frozenset[int] = frozenset()  # places of assistant messages that the data says not to learn (weight 0)


@dataclass(frozen=True, slots=True)
class TextSample:
    """A plain text."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class PairSample:
    """A prompt with a better and a worse answer."""

    where: str
    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class FeedbackSample:
    """A prompt with one answer that somebody found good or bad."""

    where: str
    messages: tuple[Message, ...]
    answer: Message
    is_good: bool


Sample = ChatSample | TextSample | PairSample | FeedbackSample


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training sequence: token ids and labels of equal length; a label of -100 is not learned, others equal their token."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    where: str
    cut_tokens: int = 0  # that stood behind the end and were cut off
    role: Literal["sample", "chosen", "rejected", "good", "bad"] = "sample"
    pair: int = -1  # chosen and rejected of one pair follow each other and share this number


IGNORED = -100
