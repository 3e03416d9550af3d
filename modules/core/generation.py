"""What crosses between the front ends and an engine: requests, deltas, counters.

Plain values only. They travel as JSON between the web process and the engine's child process.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from modules.core.dialogue import Dialogue
from modules.core.messages import Message
from modules.core.model import Adapter, AdapterChoice, Pooling, TemplateSource
from modules.core.params import GenerationParams

FinishReason = Literal["stop", "length", "cancelled", "error"]
OverflowPolicy = Literal["drop_oldest", "refuse"]
FigureKind = Literal["counter", "gauge"]


class ChatPrompt(BaseModel, frozen=True, extra="forbid"):
    """Messages to be rendered by a chat template."""

    messages: tuple[Message, ...]
    template: TemplateSource | None = None  # a prompt template the person chose; None is the model's own
    template_variables: dict[str, Any] = Field(default_factory=dict)  # enable_thinking and the like
    tools: tuple[dict[str, Any], ...] = ()
    must_call: tuple[str, ...] = ()  # the reply is a call of one of these tools; empty leaves it to the model
    several_calls: bool = True  # whether one reply may call more than once
    continue_final_message: bool = False  # the last message is an unfinished assistant turn
    overflow: OverflowPolicy = "drop_oldest"
    dialogue: Dialogue | None = None  # the messages are told as one instruction, once they are made to fit


class TextPrompt(BaseModel, frozen=True, extra="forbid"):
    """Text to be continued as it stands."""

    text: str
    add_bos: bool = True  # begin with the token that marks the beginning, where the model knows one
    parse_special: bool = True
    overflow: OverflowPolicy = "refuse"


class TokenPrompt(BaseModel, frozen=True, extra="forbid"):
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


class GenerationRequest(BaseModel, frozen=True, extra="forbid"):
    """One generation: a prompt and how to go on."""

    prompt: ChatPrompt | TextPrompt | TokenPrompt
    params: GenerationParams = GenerationParams()
    person: str = ""  # who asks: waiting requests of different people take turns, however many clients each has
    client: str = ""  # one conversation or program of theirs: those of a person take turns too
    keep_on_disk: bool = True  # what was computed for it may be written to disk where main memory has no room; the text itself never is
    whole: bool = False  # nothing of it is used before its end, so that what breaks in the middle may be begun again elsewhere
    tells_ids: bool = False  # whether the token ids of its prompt are told when it starts
    adapters: tuple[Adapter, ...] | None = None  # None: those put into use on the model


class EmbeddingRequest(BaseModel, frozen=True, extra="forbid"):
    """Texts, or their token ids, to be turned into vectors."""

    inputs: tuple[str | tuple[int, ...], ...]
    pooling: Pooling | None = None  # None: by the model's own files, here and below
    normalize: bool | None = None
    dimensions: int | None = Field(None, ge=1, le=65_536)  # only the first so many numbers
    person: str = ""  # who asks: people take turns
    adapters: tuple[Adapter, ...] | None = None  # None: those put into use on the model


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the texts, each as little-endian 32-bit floats, and how they were made."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    pooling: Pooling
    normalized: bool
    model: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, how it is written, and its log-probability before any sampler acted."""

    token_id: int
    text: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    part: bytes = b""  # what it stands for where that is only a part of a character, which `text` cannot say

    @property
    def raw(self) -> bytes:
        """The bytes it stands for."""
        return self.part or self.text.encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation cost, in tokens and seconds."""

    prompt_tokens: int = 0
    reused_tokens: int = 0  # of the prompt, taken from an earlier prefill
    completion_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    drafted_tokens: int = 0  # guesses at coming tokens
    accepted_tokens: int = 0  # guesses that proved right
    longest_gap_s: float = 0.0  # between two tokens: the longest pause that a reader saw
    preemptions: int = 0  # times that it gave its place in the model's memory to others, and went on later

    @property
    def tokens_per_s(self) -> float:
        """Decode speed; the first token belongs to prefill."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 and self.completion_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class NextTokens:
    """The likeliest next tokens after a text, best first, and what it cost to find them."""

    tokens: tuple[TokenLogprob, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Started:
    """Sent once, when the prompt has been rendered and a slot was found."""

    prompt_tokens: int
    reused_tokens: int
    dropped_messages: int  # oldest messages left out because the conversation is longer than the context
    seed: int
    starts_thinking: str = ""  # the opening tag, when the template itself opened a thinking block
    dropped: tuple[int, ...] = ()  # places of the messages left out, in the conversation as it was asked
    prompt_hash: str = ""  # SHA-256 of the prompt's token ids; empty where another server made them
    template_origin: str = ""  # of the chat template that made the prompt
    template_hash: str = ""  # SHA-256 of its text
    call_format: str = ""  # how the model writes calls of tools, where there are any (prompts/calls)
    prompt_ids: tuple[int, ...] = ()  # of the prompt, where they were asked for


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call of a tool. The first one of a call has its id and name, the others have more of the arguments' JSON text."""

    index: int  # of the call in the reply
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one generation. The last one has a `finish_reason`."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_string: str | None = None  # which stop string ended it, if one did
    usage: Usage | None = None  # on the last delta
    pieces: int = 0  # of text from another server, which names no tokens: about a token each
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of the next tokens of the prompt; what the first one's says means nothing
    calls: tuple[CallPiece, ...] = ()  # of tools, told apart by another server; a model of this machine writes them into the text
    end_id: int | None = None  # on the last delta: the token that ended it, where one did; no part of the text, and not counted

    @property
    def written_ids(self) -> tuple[int, ...]:
        """All that the model wrote, with the token that ended it."""
        return self.token_ids if self.end_id is None else (*self.token_ids, self.end_id)

    @property
    def tokens(self) -> int:
        """How many tokens it adds, as far as is known before the end."""
        return len(self.token_ids) or self.pieces


class Figure(NamedTuple):
    """What one field of `EngineCounters` says."""

    name: str
    kind: FigureKind
    meaning: str  # in words, for tables and metrics


def _now(meaning: str) -> Any:
    return field(default=0, metadata={"kind": "gauge", "meaning": meaning})


def _total(meaning: str) -> Any:
    return field(default=0, metadata={"kind": "counter", "meaning": meaning})


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """What an engine is doing now and has done. A field here is a metric, a row of the page and part of the answer about counters by itself."""

    slots: int = _now("Sequences that can run at the same time.")
    running: int = _now("Requests that hold a slot.")
    waiting: int = _now("Requests that wait for a slot.")
    steps: int = _total("Steps of the model.")
    prefill_tokens: int = _total("Tokens of prompts that were computed.")
    reused_tokens: int = _total("Tokens of prompts that were taken from an earlier computation.")
    decode_tokens: int = _total("Tokens that were written.")
    cancelled: int = _total("Requests that were stopped before their end.")
    preemptions: int = _total("Times that a running request gave its place in the model's memory to others, and went on later.")
    cached_tokens: int = _now("Tokens kept in slots, running or idle.")
    capacity_tokens: int = _now("Tokens that the slots have room for together.")
    moves: int = _total("Times that a running sequence changed its slot to be computed together with others.")
    spilled_tokens: int = _now("Tokens of conversations that lost their slot or lose it next, kept in main memory.")
    spilled_bytes: int = _now("Main memory that these take.")
    spill_saves: int = _total("Conversations that were put into main memory when they lost their slot, or shortly before.")
    spill_restores: int = _total("Conversations that were put back from main memory.")
    restored_tokens: int = _total("Tokens that were put back from main memory or disk instead of being computed again.")
    disk_tokens: int = _now("Tokens of conversations that main memory had no room for, kept on disk.")
    disk_bytes: int = _now("Disk that these take.")
    disk_saves: int = _total("Conversations that were written to disk.")
    disk_restores: int = _total("Conversations that were put back from disk.")
    disk_restored_tokens: int = _total("Tokens that were put back from disk.")
    disk_dropped: int = _total("Conversations that were not kept because the disk was still writing others.")
    disk_off: int = _now("Whether the disk was full or failed, 1 if it was: nothing more is kept there until the model is loaded again.")
    drafted_tokens: int = _total("Guesses at coming tokens.")
    accepted_tokens: int = _total("Guesses that proved right.")


def figures() -> tuple[Figure, ...]:
    """What an engine tells of itself, in order."""
    return tuple(Figure(one.name, one.metadata["kind"], one.metadata["meaning"]) for one in fields(EngineCounters))


class EngineCard(BaseModel, frozen=True):
    """What a loaded engine tells about itself."""

    name: str
    loader: str
    context_length: int
    slots: int
    vocab_size: int
    memory_bytes: int
    load_s: float
    engine: str = ""  # library and version that computes
    template_origin: str = ""  # empty: the model has no chat template
    template_doubts: tuple[str, ...] | None = None  # what speaks against its own template, each with the cure; None: it has none or was not examined
    template_variables: tuple[str, ...] | None = None  # options its own template reads: enable_thinking …; None: not known
    bos_id: int | None = None  # what is put in front of a text, if anything is
    vision: bool | None = False  # whether messages may have images; None: another server knows
    can_write: bool = True  # an embedding model does not
    can_embed: bool = False  # whether it turns texts into vectors
    adapters: tuple[AdapterChoice, ...] = ()  # for requests that name none
    notes: tuple[str, ...] = ()
    pid: int = 0
    host: str = ""  # of another server that answers; empty: this machine's own process
    leaves: bool = False  # what is sent to that server leaves this machine
    ignores: dict[str, str] = Field(default_factory=dict)  # generation parameters that do not reach the model, each with the reason
