"""The work of the job kind "perplexity": a model reads a text, and how well it foresaw every token becomes one number.

Any model that a loader here reads, with or without adapters. Windows are independent, so a job that was stopped goes on behind the last one it has
written down, and comes to the same number. Knows nothing of data sets and tables.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, field_validator

from modules.core.errors import AppError, InvalidRequest, LoadFailed
from modules.core.files import write_atomic
from modules.core.job import Cancelled, JobContext
from modules.core.model import Adapter, LoadedModel, LoadOptions
from modules.core.settings import validation_sentence
from modules.lab.text_pieces import PieceEncoder, TextFacts, pieces, read_text, text_facts
from modules.lab.windows import Frame, Sums
from modules.loaders.adapter_facts import files_version
from modules.loaders.model_info import gguf_parts
from modules.loaders.registry import find_loader
from modules.loaders.spec import LoaderSpec

UNIT = "tokens"
TOKENS, TOKEN_FACTS, STANDING = "tokens.u32", "tokens.json", "standing.json"
SAVE_INTERVAL_S = 1.0
LEAST_WINDOW = 16
TOKENS_LIMIT = 1 << 30
# What is said of a load that has no meaning here, or is set by this work
OWN_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("slots", 1), ("draft_model", ""), ("draft_lookup", "off"), ("cache_tokens", 0), ("mmproj", "none"), ("torch_compile", False),
)  # fmt: skip


class PerplexityArgs(BaseModel, frozen=True, extra="forbid"):
    """Which model reads which text, and how."""

    model: str = Field(min_length=1, max_length=400, description="The model, as the list names it.")
    path: Path = Field(description="Its GGUF file or safetensors folder.")
    version: str = Field("", max_length=64, description="Of its files; another one ends the job. Empty takes what is there.")
    loader: str = Field("", max_length=60, description="Empty takes the first that reads it.")
    options: dict[str, Any] = Field(default_factory=dict, max_length=100, description="How it is loaded, where other than usual.")
    adapters: tuple[Adapter, ...] = Field((), max_length=16, description="LoRA adapters in use.")
    text_name: str = Field(max_length=300, description="The text, as people call it.")
    text_path: Path = Field(description="A file with the text, as UTF-8.")
    text_sha256: str = Field("", max_length=64, description="Of the text; another one ends the job. Empty takes what is there.")
    window: int = Field(0, ge=0, le=1_048_576, description="Tokens that the model sees at once; 0 takes its own context, up to 8192 and to what memory holds.")
    stride: int = Field(512, ge=1, le=1_048_576, description="Tokens by which the window moves; those left in it are context for the next ones.")

    @field_validator("window")
    @classmethod
    def _window(cls, value: int) -> int:
        if 0 < value < LEAST_WINDOW:
            raise ValueError(f"window must be at least {LEAST_WINDOW} tokens, or 0 for the model's own context")
        return value


@dataclass(frozen=True)
class _Text:
    """A text as tokens: where they lie, and what was found on the way."""

    tokens: NDArray[np.uint32]
    facts: TextFacts
    first_bytes: int  # of the first token, which is not scored without a BOS


def model_version(path: Path) -> str:
    """A word for the present contents of a model's files.

    Raises:
        UnsupportedFormat: a part of it is missing.
        OSError: it is gone.
    """
    if path.is_dir():
        return files_version(path)
    versions = [files_version(part) for part in gguf_parts(path)]
    return versions[0] if len(versions) == 1 else hashlib.sha256(repr(versions).encode()).hexdigest()[:16]


def own_options(spec: LoaderSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a loader's options those that change how a text is read, where they are other than usual."""
    chosen = _checked(spec, {**options, **_overrides(spec), "context_length": 0})
    return {name: value for name, value in chosen.model_dump(mode="json", exclude_defaults=True).items() if name not in dict(OWN_OPTIONS)}


def run(args: PerplexityArgs, context: JobContext) -> Mapping[str, Any]:
    """Read the text and measure.

    Raises:
        Cancelled: the person asked to stop; resumed, it goes on where it was.
        AppError: with the cure.
    """
    return _Measurement(args, context).run()


class _Measurement:
    """One run of the job."""

    def __init__(self, args: PerplexityArgs, context: JobContext) -> None:
        self._args = args
        self._context = context

    def run(self) -> Mapping[str, Any]:
        args = self._args
        spec = find_loader(args.path, args.loader)
        version = self._checked_version()
        loaded = self._load(spec)
        try:
            text = self._text(loaded)
            window = min(args.window or loaded.runner.context_length, loaded.runner.context_length)
            has_bos = loaded.tokenizer.adds_bos and loaded.tokenizer.bos_id is not None
            frame = Frame.fitted(window, args.stride, len(text.tokens), has_bos=has_bos)
            sums = self._score(loaded, text.tokens, frame)
        finally:
            loaded.runner.close()
        scored_bytes = text.facts.bytes - (0 if has_bos else text.first_bytes)
        self._context.log(f"{args.model} on {args.text_name}: perplexity {sums.perplexity:.4f} over {sums.scored} tokens, window {window}, stride {frame.stride}")
        return {
            "model": args.model, "version": version, "size_bytes": _size(args.path), "loader": spec.name, "options": args.options,
            "adapters": [adapter.model_dump() for adapter in args.adapters],
            "text": args.text_name, "text_sha256": text.facts.sha256,
            "perplexity": sums.perplexity, "deviation": sums.deviation, "bits_per_byte": sums.bits_per_byte(scored_bytes),
            "tokens": sums.scored, "bytes": scored_bytes, "window": window, "stride": frame.stride, "seconds": round(sums.seconds, 3),
            "notes": list(loaded.notes),
        }  # fmt: skip

    def _checked_version(self) -> str:
        args = self._args
        try:
            found = model_version(args.path)
        except OSError as error:
            raise LoadFailed(f"The files of {args.model} cannot be read ({error.strerror or error}); choose the model again.") from error
        if args.version and found != args.version:
            raise LoadFailed(f"The files of {args.model} changed since this was asked for; remove it from the list and ask again.")
        return found

    # ---- load ------------------------------------------------------------------------------------------------------

    def _load(self, spec: LoaderSpec) -> LoadedModel:
        args = self._args
        options = _checked(spec, {**args.options, **_overrides(spec), "context_length": args.window})
        loaded = spec.load(args.path, options, self._tell_stage)
        try:
            for note in loaded.notes:
                self._context.log(note)
            if args.adapters:
                if loaded.set_adapters is None:
                    raise InvalidRequest(f"{args.model} takes no adapters; measure it without them.", field="adapters")
                loaded.set_adapters(args.adapters)
        except BaseException:
            loaded.runner.close()
            raise
        return loaded

    def _tell_stage(self, stage: str, share: float | None) -> None:
        from_native_code = share is not None  # nothing can be raised through that; the next stage tells again
        with contextlib.suppress(*(Cancelled,) if from_native_code else ()):
            self._context.progress(0, None, UNIT, stage=stage)

    # ---- the text as tokens ----------------------------------------------------------------------------------------

    def _text(self, loaded: LoadedModel) -> _Text:
        """The tokens, made once: a resumed job finds them in its folder.

        Raises:
            InvalidRequest: the text changed, is too short, or has what the vocabulary cannot hold.
        """
        args, path = self._args, self._context.directory / TOKENS
        known = _read(self._context.directory / TOKEN_FACTS)
        facts = TextFacts(str(known.get("sha256", "")), int(known.get("bytes", 0)))
        if not known or not path.is_file() or path.stat().st_size != 4 * int(known["tokens"]):
            facts = text_facts(read_text(args.text_path))
            if args.text_sha256 and facts.sha256 != args.text_sha256:
                raise InvalidRequest(f"The text {args.text_name} changed since this was asked for; remove it from the list and ask again.")
            count = self._encode(loaded, path, facts)
            write_atomic(self._context.directory / TOKEN_FACTS, json.dumps({"tokens": count, **asdict(facts)}))
        if path.stat().st_size < 8:
            raise InvalidRequest(f"{args.text_name} has {path.stat().st_size // 4} tokens for {args.model}; at least 2 are needed. Choose a longer text.")
        tokens: NDArray[np.uint32] = np.memmap(path, np.uint32, "r")
        return _Text(tokens, facts, self._first_bytes(loaded, int(tokens[0])))

    def _encode(self, loaded: LoadedModel, path: Path, facts: TextFacts) -> int:
        encoder = PieceEncoder(loaded.tokenizer, loaded.runner.context_length)
        made = path.with_suffix(".part")
        count = size = 0
        with made.open("wb") as file:
            for piece in pieces(read_text(self._args.text_path)):
                try:
                    ids = encoder.encode(piece)
                except InvalidRequest as error:
                    raise InvalidRequest(f"{self._args.text_name} cannot be read by {self._args.model}: {error.message}") from error
                count, size = count + len(ids), size + len(piece.encode("utf-8", "replace"))
                if count > TOKENS_LIMIT:
                    raise InvalidRequest(f"{self._args.text_name} has more than {TOKENS_LIMIT:,} tokens, the most that are read; choose a shorter text.")
                np.asarray(ids, np.uint32).tofile(file)
                self._context.progress(0, None, UNIT, stage=f"Reading the text, {100 * size // max(1, facts.bytes)} %")
        made.replace(path)
        return count

    @staticmethod
    def _first_bytes(loaded: LoadedModel, token: int) -> int:
        piece = loaded.tokenizer.piece(token)
        added = PieceEncoder(loaded.tokenizer, loaded.runner.context_length).adds_space and piece.startswith(b" ")
        return len(piece) - added

    # ---- score -----------------------------------------------------------------------------------------------------

    def _score(self, loaded: LoadedModel, tokens: NDArray[np.uint32], frame: Frame) -> Sums:
        sums = self._standing(frame)
        saved = time.monotonic()

        def tell() -> None:
            told = {"perplexity": sums.perplexity} if sums.scored else {}
            self._context.progress(sums.scored, frame.scored, UNIT, **told)

        tell()
        front = [int(loaded.tokenizer.bos_id or 0)] if frame.has_bos else []
        for _, span in frame.spans(sums.windows):
            began = time.monotonic()
            ids = front + tokens[span.begin : span.end].tolist()
            found = loaded.runner.score(ids, tell)[-(span.end - span.first) :]
            self._check(found, span.first)
            sums = sums.plus(found, time.monotonic() - began)
            if time.monotonic() - saved >= SAVE_INTERVAL_S:
                self._save(frame, sums)
                saved = time.monotonic()
            tell()
        self._save(frame, sums)
        return sums

    def _check(self, log_probabilities: Sequence[float] | NDArray[np.float32], first: int) -> None:
        wrong = np.flatnonzero(~np.isfinite(log_probabilities))
        if len(wrong):
            raise AppError(
                f"{self._args.model} gives no number for token {first + int(wrong[0]) + 1} of the text: its files are damaged, or the precision it was "
                "loaded with does not suffice. Load it with dtype float32, or download it again."
            )

    def _standing(self, frame: Frame) -> Sums:
        """What an earlier start of this job has done, if it laid the text out in the same way."""
        known = _read(self._context.directory / STANDING)
        return Sums(**known["sums"]) if known.get("frame") == asdict(frame) else Sums()

    def _save(self, frame: Frame, sums: Sums) -> None:
        write_atomic(self._context.directory / STANDING, json.dumps({"frame": asdict(frame), "sums": sums.to_dict()}))


def _overrides(spec: LoaderSpec) -> dict[str, Any]:
    return {name: value for name, value in OWN_OPTIONS if name in spec.options.model_fields}


def _checked(spec: LoaderSpec, options: Mapping[str, Any]) -> LoadOptions:
    try:
        return spec.options.model_validate(dict(options))
    except ValidationError as error:
        raise InvalidRequest(f"{spec.title}: {validation_sentence(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else gguf_parts(path)
    return sum(file.stat().st_size for file in files if file.is_file())
