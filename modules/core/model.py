"""What a loaded model is: rows in, logits out, and the few facts that everything above needs.

Contracts only. The two back ends live in `modules/loaders`; the engine that drives any `Runner` in `modules/engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, Field, field_validator

from modules.core.slot_states import SlotStates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's share of a forward pass: `token_ids` stand at positions start, start+1, … of `slot`."""

    slot: int
    start: int
    token_ids: Sequence[int]
    outputs: int = 1  # logits are wanted after each of the last so many tokens
    steady: bool = False  # computed alone, in a way that depends on nothing that was measured


class LogitsRow(Protocol):
    """The logits of one position, as far as a sampler needs them. Valid until the next `forward`."""

    size: int

    def max(self) -> float:
        """Largest logit."""
        ...

    def logsumexp(self) -> float:
        """Logarithm of the sum of exponentials: the normaliser of log-probabilities."""
        ...

    def at(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of the given tokens, a copy."""
        ...

    def cut(self, k: int, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `k` largest logits (0: no limit) that are also >= `threshold`, ids ascending and a copy of the logits.

        There may be a few more than k, if that is not 1; what is left out is never larger than what is there, nor equal to it with a lower id.
        """
        ...

    def full(self) -> NDArray[np.float32]:
        """The whole row [size], read-only by convention."""
        ...


class ImageToken(int):
    """A position of an image in a prompt: a number beyond the vocabulary, equal only for the same place in the same image.

    Whoever counts, compares or caches ids need not know; whoever looks ids up in the vocabulary leaves these out.
    """

    image: Any  # what the loader made of the image
    part: int  # which of its parts this position is in


class ImageReader(Protocol):
    """Turns image files into positions of a prompt, for a model that sees. One thread calls it."""

    def image_ids(self, file: bytes) -> list[int]:
        """The image, with the tokens that a model wants around it. The same file has the same ids as long as any of them are in use.

        Raises:
            InvalidRequest: no image, or one that this model cannot take.
        """
        ...

    def look(self, token_ids: Sequence[int]) -> None:
        """Do the work of looking at the images among these ids now, so that no step of the model has to wait for it."""
        ...


# One entry for each output of each row, in order: a float32 array [vocab] (a view where possible) or a LogitsRow that lives on a device.
Logits = Sequence[Any]


class Runner(SlotStates, Protocol):
    """A loaded model. One thread calls it, one call at a time."""

    n_slots: int
    context_length: int  # longest sequence, tokens
    capacity_tokens: int  # room for all slots together, tokens
    max_batch_tokens: int  # most tokens of one forward pass
    max_outputs: int  # most rows of logits of one forward pass
    tile_rows: int  # with fewer tokens behind many others, each takes longer; 0 where nothing is known of that
    vocab_size: int
    mixes_slots: bool  # whether any slots are computed together; where not, only those that stand side by side

    def forward(self, rows: Sequence[Row]) -> Logits:
        """Run the rows and return the logits of their outputs: after the last token of each, or its last few. Valid until the next call.

        Raises:
            OutOfMemory: no room; the slots are as before the call.
        """
        ...

    def score(self, token_ids: Sequence[int], chunk_done: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Log-probability of each token after the first, given those before it: [len - 1]. Uses and empties slot 0.

        Works in chunks no longer than a step and calls `chunk_done` after each, which may have other slots computed; what that raises ends the call.
        """
        ...

    def truncate(self, slot: int, length: int) -> int:
        """Forget positions >= length and return the length really kept: `length`, or where a part cannot be kept the longest of `cuts` up to it, or 0."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Let `target` start with the first `length` positions of `source`; False: not possible, `target` is empty."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


Pooling = Literal["mean", "cls", "last"]  # how the states of a text's tokens become one vector


class Embedder(Protocol):
    """Turns texts into vectors, for one model. One thread calls `embed`, one call at a time."""

    context_length: int  # longest text, tokens
    batch_tokens: int  # of several texts in one call; a longer text is alone
    batch_texts: int
    in_slot: bool  # whether it works in slot 0 of the runner, which must be empty, with room for the text
    pooling: Pooling  # by the model's own files
    normalizes: bool  # whether its vectors are meant to have the length 1

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens that this model wants around a text.

        Raises:
            InvalidRequest: text that this vocabulary cannot hold, or longer than the safe limit.
        """
        ...

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, chunk_done: Callable[[], None] | None = None
    ) -> NDArray[np.float32]:
        """Vectors [texts, size], as the model makes them. Where a text is read in chunks `chunk_done` hears of each, and may have other slots computed; what it raises ends the call.

        Raises:
            OutOfMemory: no room.
        """
        ...

    def close(self) -> None:
        """Give back what is its own."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back, for one model."""

    vocab_size: int
    bos_id: int | None
    adds_bos: bool  # whether plain text gets a BOS in front by this model's own rule
    end_ids: frozenset[int]  # end-of-generation tokens (EOS, end of turn)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; `add_special` puts BOS in front where the model wants it, `parse_special` reads `<|…|>` as special tokens.

        Raises:
            InvalidRequest: text that this vocabulary cannot hold, or longer than the safe limit.
        """
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes a token stands for in the middle of a text; special tokens give their written form."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token, hidden from the text of a reply."""
        ...


class AdapterChoice(BaseModel, frozen=True, extra="forbid"):
    """A LoRA as people choose it: by its name in lists, with a scale."""

    name: str = Field(min_length=1, max_length=400)
    scale: float = Field(1.0, ge=-4, le=4, description="How strongly the adapter acts; 0 is off, 1 as trained.")


def _each_once(choices: tuple[AdapterChoice, ...]) -> tuple[AdapterChoice, ...]:
    names = [choice.name for choice in choices]
    if len(set(names)) < len(names):
        raise ValueError("each adapter once, with one scale")
    return choices


AdapterChoices = Annotated[tuple[AdapterChoice, ...], Field(max_length=16, fail_fast=True), AfterValidator(_each_once)]


class Adapter(BaseModel, frozen=True, extra="forbid"):
    """A LoRA in use: where it is and how strongly it acts."""

    path: str
    scale: float = Field(1.0, ge=-4, le=4, description="How strongly the adapter acts; 0 is off, 1 as trained.")
    name: str = ""  # in lists and receipts
    version: str = ""  # of its files: what was computed with another version is not reused


def in_use(adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """The adapters that act, in one order, so that equal sets compare equal: one of scale 0 is the same as none."""
    return tuple(sorted((adapter for adapter in adapters if adapter.scale), key=lambda adapter: (adapter.path, adapter.scale)))


class TemplateSource(BaseModel, frozen=True):
    """A chat template as found, with the special strings it may name."""

    text: str
    origin: str  # a sentence part: "GGUF metadata", "chat_template.jinja", "prompt template ChatML"
    bos_token: str = ""
    eos_token: str = ""
    stop: tuple[str, ...] = ()  # extra stop strings that belong to it
    tool_text: str = ""  # the template for conversations with tools, of models that have one of its own for them

    def for_tools(self) -> TemplateSource:
        """The template to use where there are tools."""
        if not self.tool_text:
            return self
        return self.model_copy(update={"text": self.tool_text, "tool_text": "", "origin": f"{self.origin} (tool_use)"})


USUAL_SLOTS = 4  # where nobody said how many and memory has room for them


def on_or_off(value: object) -> object:
    """A truth value as a choice that has more than two says it, other words as they are: YAML reads on and off as truth values, and files and commands may say so."""
    word = str(value).lower()
    return "on" if word in ("true", "1", "yes", "y", "t", "on") else "off" if word in ("false", "0", "no", "n", "f", "off") else value


class LoadOptions(BaseModel, frozen=True, extra="forbid"):
    """Options every loader has. Each field becomes a control of the Models page, a flag and a key of the saved settings."""

    context_length: int = Field(0, ge=0, le=1_048_576, description="Longest conversation in tokens; 0 takes the model's own, up to 8192.")
    slots: int = Field(
        0,
        ge=0,
        le=64,
        description="How many replies can be written at the same time; 0 chooses by memory and context, mostly 4.",
    )
    spill_memory_gb: float = Field(
        -1.0,
        ge=-1,
        le=1024,
        description="Main memory for conversations whose slot was needed, in GB: they go on without being read again. "
        "-1 takes a tenth of the machine's, at most 2; 0 keeps none.",
        json_schema_extra={"group": "Memory and batches"},
    )
    spill_disk_gb: float = Field(
        -1.0,
        ge=-1,
        le=4096,
        description="Disk for conversations that this memory has no room for, in GB; gone when the model is unloaded. "
        "-1 takes a tenth of what is free, at most 8; 0 keeps none.",
        json_schema_extra={"group": "Memory and batches"},
    )
    draft_model: str = Field(
        "",
        max_length=500,
        description="A much smaller model with the same vocabulary, from models/. It guesses the next tokens and this model checks them in one step: "
        "the text stays the same and can come sooner. Empty for none.",
        json_schema_extra={"group": "Drafting", "suggested": True},
    )
    draft_lookup: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Guess without a draft model: that what was written once before comes again, as in edits, quotations and code. Auto guesses only where the "
        "last eight tokens stood before, in replies that name no seed; on wherever three did, in every reply. Guesses that do not pay are left off.",
        json_schema_extra={"group": "Drafting"},
    )
    draft_tokens: int = Field(
        16,
        ge=1,
        le=16,
        description="Most tokens that are guessed at once; where it does not pay, fewer or none.",
        json_schema_extra={"group": "Drafting"},
    )

    @field_validator("draft_lookup", mode="before")
    @classmethod
    def _lookup(cls, value: object) -> object:
        return on_or_off(value)  # it was a truth value

    @property
    def drafts_widely(self) -> bool:
        """Whether room is made for as many drafts as there may be in every slot; drafts that are sure take what room there is."""
        return bool(self.draft_model) or self.draft_lookup == "on"

    @property
    def counted_slots(self) -> int:
        """The slots to reckon with: as set, or the usual number as long as none is chosen."""
        return self.slots or USUAL_SLOTS

    @property
    def step_outputs(self) -> int:
        """Most rows of logits that one step needs."""
        return self.counted_slots * (1 + self.draft_tokens if self.drafts_widely else 1)


class ModelInfo(BaseModel, frozen=True):
    """What the header of a model file says; nothing here needed loading it."""

    name: str  # the id in lists and in the API: path below models/, or a name in the folder of another program, which is no path
    path: str
    format: str  # "gguf", "safetensors" or "remote"
    size_bytes: int = 0
    architecture: str = ""
    parameters: int = 0
    context_length: int = 0
    quantization: str = ""
    layers: int = 0
    vocab_size: int = 0
    template: str = ""  # where a chat template was found, empty if none
    licence: str = ""
    description: str = ""
    problem: str = ""  # a sentence when the files are broken; such a model is listed but cannot be loaded
    sees: bool = False  # whether its files are those of a model that sees images; of a GGUF model its projector decides, when it is loaded
    can_write: bool = True  # an embedding model makes vectors of texts and continues none
    source: str = ""  # the program in whose folder it lies; it is only read there. Empty: it lies in models/
    host: str = ""  # of the server that has it; empty: its files are here
    trusted_code: str = ""  # the commit whose Python files in its folder the command line lets run; empty: they are never run
    leaves: bool = False  # what is sent to that server leaves this machine


@dataclass(frozen=True, slots=True)
class DraftSource:
    """What guesses the next tokens, and how many of them at most."""

    runner: Runner | None  # a smaller model over the same vocabulary; None looks up what was written before
    tokens: int
    is_careful: bool = False  # only what is as good as sure, and only in replies whose tokens nobody wants again


@dataclass
class LoadedModel:
    """What a loader returns: a runner, its tokenizer, and facts for the layers above."""

    runner: Runner
    tokenizer: Tokenizer
    info: ModelInfo
    template: TemplateSource | None = None
    set_adapters: Callable[[Sequence[Adapter]], None] | None = None  # whole-model LoRA set; what slots hold was computed with the set before
    vision: ImageReader | None = None  # None: the model does not see images
    draft: DraftSource | None = None  # the engine owns it and closes it
    spill_bytes: int = 0  # main memory that the engine may take for conversations without a slot
    embedder: Embedder | None = None  # None: it makes no vectors. The runner's memory is its own, so it is closed with the runner
    memory_bytes: int = 0  # measured growth of this process while loading
    measured: Mapping[str, Any] = field(default_factory=dict)  # for later loads, in the loader's words: plain values by keys
    notes: tuple[str, ...] = field(default=())  # sentences for the person: "context cut to 256: all this model was trained for"
