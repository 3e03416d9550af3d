"""Texts for measuring perplexity: the shipped one, well-known ones, plain text files as they are, and the texts of data sets in any other format.

Data sets are read by a process of its own (`python -m modules.services.perplexity_texts`, one JSON request on its input, one answer): they may be long,
and native code reads some of them. What is made lies under the hash of its content, so that the same text is there once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from modules.core.errors import AppError, InvalidRequest, error_from
from modules.core.files import write_atomic
from modules.core.messages import Message
from modules.core.process import be_expendable
from modules.lab.text_pieces import read_text, text_facts
from modules.services.dataset_fetching import FetchedText, fetched_texts
from modules.services.datasets import DatasetService
from modules.services.reading_child import answer_of
from modules.training.formats import read_samples
from modules.training.general_text import PASSAGES
from modules.training.rows import TEXT_SUFFIXES, printable, read_rows
from modules.training.samples import ChatSample, DatasetSpec, FeedbackSample, PairSample, Sample, TextSample

COMMAND = (sys.executable, "-m", "modules.services.perplexity_texts")
CHILD_LIMIT_S = 300.0
MEMORY_LIMIT_BYTES = 8 << 30  # of addresses of the child
TEXT_LIMIT_BYTES = 256 << 20
BETWEEN = "\n\n"  # samples, and the messages of one
GENERAL_NAME = "General text"


class TextChoice(BaseModel, extra="forbid"):
    """A text as the page asks for it: a data set and how it is read, or without a name the shipped general text."""

    name: str = Field("", max_length=300)
    format: str = Field("", max_length=40)
    columns: dict[str, str] = Field(default_factory=dict, max_length=32)


@dataclass(frozen=True)
class PreparedText:
    """A text that a job can read."""

    name: str
    path: Path
    sha256: str


class TextRequest(BaseModel, frozen=True, extra="forbid"):
    """What the child is asked: write the texts of a data set into a file."""

    spec: DatasetSpec
    target: Path
    column: str = ""  # of a table whose rows are the text, empty ones too; without one the samples are
    joined_by: str = BETWEEN


class PerplexityTexts:
    """Prepares texts, in a folder for each owner."""

    def __init__(self, folder: Path, datasets: DatasetService) -> None:
        self._folder = folder
        self._datasets = datasets

    async def prepare(self, owner: str, choice: TextChoice) -> PreparedText:
        """The text, as a file.

        Raises:
            NotFound: there is no such data set.
            InvalidRequest: it cannot be read, is empty or too long; the message says where.
        """
        if not choice.name:
            return await asyncio.to_thread(self._general, owner)
        format, columns = choice.format, choice.columns
        if not format:
            known = next((found for found in await asyncio.to_thread(fetched_texts, self._datasets.folder) if found.name == choice.name), None)
            if known is not None:
                return await asyncio.to_thread(self._well_known, owner, known)
            look = await self._datasets.look(choice.name)
            if not look.format:
                raise InvalidRequest(look.problem or f"How “{choice.name}” is to be read cannot be told; choose its format.", field="text")
            format, columns = look.format, look.columns
        spec = await asyncio.to_thread(self._datasets.spec, choice.name, format, columns)
        return await asyncio.to_thread(self._prepared, owner, spec)

    def _general(self, owner: str) -> PreparedText:
        raw = BETWEEN.join(passage.text for passage in PASSAGES).encode()
        digest = hashlib.sha256(raw).hexdigest()
        path = self._of(owner) / f"{digest}.txt"
        if not path.is_file():
            write_atomic(path, raw, mode=0o600)
        return PreparedText(GENERAL_NAME, path, digest)

    def _of(self, owner: str) -> Path:
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:16]

    def _well_known(self, owner: str, known: FetchedText) -> PreparedText:
        """One of the list, put together as everybody does it, so that its numbers can be compared."""
        columns = {"text": known.text.column} if known.text.column else {}
        spec = self._datasets.spec(known.name, "text", columns).model_copy(update={"path": known.path})
        return self._prepared(owner, spec, known.text.column, known.text.joined_by)

    def _prepared(self, owner: str, spec: DatasetSpec, column: str = "", joined_by: str = BETWEEN) -> PreparedText:
        if spec.format == "text" and spec.path.is_file() and spec.path.suffix.lower() in TEXT_SUFFIXES:
            facts = text_facts(read_text(spec.path))
            path = spec.path
        else:
            made = self._of(owner) / f".{secrets.token_hex(8)}.part"
            made.parent.mkdir(parents=True, exist_ok=True)
            try:
                _ask(TextRequest(spec=spec, target=made, column=column, joined_by=joined_by))
                facts = text_facts(read_text(made))
                path = self._of(owner) / f"{facts.sha256}.txt"
                made.replace(path)
            finally:
                made.unlink(missing_ok=True)
        if not facts.bytes:
            raise InvalidRequest(f"“{spec.name}” has no text; choose another one.", field="text")
        return PreparedText(spec.name, path, facts.sha256)

    def tidy(self, owner: str, used: Collection[Path]) -> None:
        """Delete what no job of an owner needs any more."""
        for path in self._of(owner).glob("*"):
            if path not in used:
                path.unlink(missing_ok=True)


def _ask(request: TextRequest) -> None:
    """Let a child write the text."""
    name = request.spec.name
    too_long = f"The texts of {name} could not be read within {CHILD_LIMIT_S:.0f} s; divide it, or choose another one."
    answer = answer_of(COMMAND, request.model_dump_json(), name=name, limit_s=CHILD_LIMIT_S, too_long=too_long)
    if answer:
        raise error_from(answer["kind"], answer["message"], answer["details"])


def main() -> None:
    """Answer the one request on standard input: nothing, or an error."""
    be_expendable(1000)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    request = TextRequest.model_validate_json(sys.stdin.buffer.read())
    answer: dict[str, Any] = {}
    try:
        _write(request)
    except AppError as error:
        answer = {"kind": error.kind, "message": printable(error.message), "details": {"field": "text"}}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def _write(request: TextRequest) -> None:
    size, between = 0, ""
    with request.target.open("wb") as file:
        for text in _rows(request) if request.column else _sample_texts(request.spec):
            raw = (between + text).encode("utf-8", "replace")
            between = request.joined_by
            size += len(raw)
            if size > TEXT_LIMIT_BYTES:
                raise InvalidRequest(f"{request.spec.name} has more than {TEXT_LIMIT_BYTES >> 20} MiB of text, the most that is measured; choose a part of it.")
            file.write(raw)


def _rows(request: TextRequest) -> Iterator[str]:
    """A column of a table as it stands.

    Raises:
        InvalidRequest: a row has no text in it.
    """
    for row in read_rows(request.spec.path):
        text = row.values.get(request.column)
        if not isinstance(text, str):
            raise InvalidRequest(f"{row.where} has no text in the column “{request.column}”; delete the data set and fetch it again.")
        yield text


def _sample_texts(spec: DatasetSpec) -> Iterator[str]:
    return (BETWEEN.join(_texts(sample)) for sample in read_samples(spec))


def _texts(sample: Sample) -> Iterator[str]:
    """What a person would read of a sample, in order; of a pair the better answer."""
    match sample:
        case TextSample():
            yield sample.text
        case ChatSample():
            yield from _said(*sample.messages)
        case PairSample():
            yield from _said(*sample.messages, sample.chosen)
        case FeedbackSample():
            yield from _said(*sample.messages, sample.answer)


def _said(*messages: Message) -> Iterator[str]:
    return (message.content for message in messages if message.content.strip())


if __name__ == "__main__":
    main()
