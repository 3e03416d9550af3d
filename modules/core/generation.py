"""What crosses between the front ends and an engine: requests, deltas, counters.

Plain values only. They travel as JSON between the web process and the engine's child process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from modules.core.messages import Message
from modules.core.model import Adapter, AdapterChoice, TemplateSource
from modules.core.params import GenerationParams

FinishReason = Literal["stop", "length", "cancelled", "error"]
OverflowPolicy = Literal["drop_oldest", "refuse"]


class ChatPrompt(BaseModel, frozen=True, extra="forbid"):
    """Messages to be rendered by a chat template."""

    messages: tuple[Message, ...]
    template: TemplateSource | None = None  # a prompt template the person chose; None is the model's own
    template_variables: dict[str, Any] = Field(default_factory=dict)  # enable_thinking and the like
    tools: tuple[dict[str, Any], ...] = ()
    continue_final_message: bool = False  # the last message is an unfinished assistant turn
    overflow: OverflowPolicy = "drop_oldest"


class TextPrompt(BaseModel, frozen=True, extra="forbid"):
    """Text to be continued as it stands."""

    text: str
    parse_special: bool = True
    overflow: OverflowPolicy = "refuse"


class TokenPrompt(BaseModel, frozen=True, extra="forbid"):
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


class GenerationRequest(BaseModel, frozen=True, extra="forbid"):
    """One generation: a prompt and how to go on."""

    prompt: ChatPrompt | TextPrompt | TokenPrompt
    params: GenerationParams = GenerationParams()
    client: str = ""  # who asks: waiting requests of different clients take turns
    whole: bool = False  # nothing of it is used before its end, so that what breaks in the middle may be begun again elsewhere
    adapters: tuple[Adapter, ...] | None = None  # None: those put into use on the model


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its text as bytes in the text, and its log-probability before any sampler acted."""

    token_id: int
    text: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


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

    @property
    def tokens_per_s(self) -> float:
        """Decode speed; the first token belongs to prefill."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 and self.completion_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """Sent once, when the prompt has been rendered and a slot was found."""

    prompt_tokens: int
    reused_tokens: int
    dropped_messages: int  # oldest messages left out because the conversation is longer than the context
    seed: int
    starts_thinking: str = ""  # the opening tag, when the template itself opened a thinking block


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

    @property
    def tokens(self) -> int:
        """How many tokens it adds, as far as is known before the end."""
        return len(self.token_ids) or self.pieces


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """What an engine is doing now; asserted by tests, shown on the Models page."""

    slots: int
    running: int
    waiting: int
    steps: int
    prefill_tokens: int
    reused_tokens: int
    decode_tokens: int
    cancelled: int
    cached_tokens: int  # tokens kept in slots, running or idle
    capacity_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class EngineCard(BaseModel, frozen=True):
    """What a loaded engine tells about itself."""

    name: str
    loader: str
    context_length: int
    slots: int
    vocab_size: int
    memory_bytes: int
    load_s: float
    template_origin: str = ""  # empty: the model has no chat template
    template_doubts: tuple[str, ...] | None = None  # what speaks against its own template, each with the cure; None: it has none or was not examined
    adds_bos: bool = False
    vision: bool | None = False  # whether messages may have images; None: another server knows
    adapters: tuple[AdapterChoice, ...] = ()  # for requests that name none
    notes: tuple[str, ...] = ()
    pid: int = 0
    host: str = ""  # of another server that answers; empty: this machine's own process
    leaves: bool = False  # what is sent to that server leaves this machine
