"""What the page sees of a data set: its first rows as they stand, and the samples they become; all shortened, all proper Unicode.

Parquet is read by native code, so a process of its own does it: `python -m modules.services.dataset_views`, one JSON request on its input, one answer.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from modules.core.errors import AppError, InvalidRequest, error_from
from modules.core.messages import Message
from modules.core.process import be_expendable
from modules.services.reading_child import answer_of
from modules.training.formats import read_samples, recognise
from modules.training.rows import data_files, printable
from modules.training.samples import ChatSample, DatasetSpec, FeedbackSample, PairSample, Sample, TextSample

COMMAND = (sys.executable, "-m", "modules.services.dataset_views")
CHILD_LIMIT_S = 30.0
MEMORY_LIMIT_BYTES = 8 << 30  # of addresses of the child
NATIVE_SUFFIXES = (".parquet", ".pq")
ROWS_SHOWN = 10
COLUMNS_SHOWN = 100
VALUE_CHARS = 300
SAMPLES_SHOWN = 10
TEXT_CHARS = 4000
COUNT_S = 3.0  # how long a preview counts


@dataclass(frozen=True)
class ShownRow:
    """A row as it stands, its values shortened."""

    where: str
    values: dict[str, str]


@dataclass(frozen=True)
class Look:
    """What the first rows of a data set say."""

    name: str
    format: str
    columns: dict[str, str]
    found: tuple[str, ...]
    rows: tuple[ShownRow, ...]
    problem: str


@dataclass(frozen=True)
class ShownMessage:
    """A message, shortened."""

    role: str
    text: str


@dataclass(frozen=True)
class ShownSample:
    """A sample, shortened."""

    where: str
    kind: Literal["chat", "text", "pair", "feedback"]
    messages: tuple[ShownMessage, ...] = ()
    text: str = ""
    chosen: str = ""
    rejected: str = ""
    is_good: bool | None = None
    tools: int = 0


@dataclass(frozen=True)
class Preview:
    """What a data set becomes under a choice of columns."""

    samples: tuple[ShownSample, ...]
    count: int
    empty: int  # rows left out
    is_whole: bool  # all rows were counted; else there are more
    problem: str


class ViewRequest(BaseModel, frozen=True, extra="forbid"):
    """What is asked: a look at a path, or the samples of a data set."""

    path: Path
    name: str
    spec: DatasetSpec | None = None


def look_at(path: Path, name: str) -> Look:
    """The first rows, and what they seem to be. Blocks: for a thread.

    Raises:
        NotFound: there is no such file.
    """
    request = ViewRequest(path=path, name=name)
    return TypeAdapter(Look).validate_json(_asked(request)) if _is_native(path) else _look(request)


def preview_of(spec: DatasetSpec) -> Preview:
    """The first samples, how many there are, and the first thing that is wrong. Blocks: for a thread.

    Raises:
        NotFound: there is no such file.
    """
    request = ViewRequest(path=spec.path, name=spec.name, spec=spec)
    return TypeAdapter(Preview).validate_json(_asked(request)) if _is_native(spec.path) else _preview(request)


def _is_native(path: Path) -> bool:
    try:
        return any(file.suffix.lower() in NATIVE_SUFFIXES for file, _ in data_files(path))
    except InvalidRequest:
        return False  # it will be said in its place


def _look(request: ViewRequest) -> Look:
    found = recognise(request.path)
    columns = tuple(printable(column) for column in found.found[:COLUMNS_SHOWN])
    rows = tuple(
        ShownRow(row.where, {printable(column): _short(value, VALUE_CHARS) for column, value in list(row.values.items())[:COLUMNS_SHOWN]}) for row in found.rows[:ROWS_SHOWN]
    )
    chosen = {meaning: printable(column) for meaning, column in found.columns.items()}
    return Look(request.name, found.format or "", chosen, columns, rows, printable(found.problem))


def _preview(request: ViewRequest) -> Preview:
    assert request.spec is not None
    reading = read_samples(request.spec)
    samples: list[ShownSample] = []
    count, problem, is_whole = 0, "", False
    deadline = time.monotonic() + COUNT_S
    try:
        for sample in reading:
            count += 1
            if len(samples) < SAMPLES_SHOWN:
                samples.append(shown_sample(sample))
            elif time.monotonic() > deadline:
                break
        else:
            is_whole = True
    except AppError as error:
        problem = printable(error.message)
    return Preview(tuple(samples), count, reading.empty, is_whole, problem)


def _asked(request: ViewRequest) -> bytes:
    """The answer of a child."""
    too_long = f"{request.name} could not be looked at within {CHILD_LIMIT_S:.0f} s. Try again when the machine is less busy, or divide the file."
    answer = answer_of(COMMAND, request.model_dump_json(), name=request.name, limit_s=CHILD_LIMIT_S, too_long=too_long)
    if refused := answer.get("error"):
        raise error_from(refused["kind"], refused["message"])
    return json.dumps(answer["view"]).encode()


def main() -> None:
    """Answer the one request on standard input."""
    be_expendable(1000)
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    request = ViewRequest.model_validate_json(sys.stdin.buffer.read())
    view: TypeAdapter[Any] = TypeAdapter(Look if request.spec is None else Preview)
    try:
        answer: dict[str, Any] = {"view": view.dump_python(_look(request) if request.spec is None else _preview(request), mode="json")}
    except AppError as error:
        answer = {"error": {"kind": error.kind, "message": printable(error.message)}}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def _short(value: Any, limit: int) -> str:
    """A value as a short text that can be sent anywhere."""
    text = value if isinstance(value, str) else "" if value is None else _as_json(value)
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(type(value).__name__)


def _said(message: Message) -> str:
    calls = [call.get("function", call) for call in message.tool_calls or ()]
    return "\n".join(filter(None, (message.content, *(_as_json(call) for call in calls))))


def _messages(messages: Sequence[Message]) -> tuple[ShownMessage, ...]:
    return tuple(ShownMessage(message.role, _short(_said(message), TEXT_CHARS)) for message in messages)


def shown_sample(sample: Sample) -> ShownSample:
    """A sample as the page shows it."""
    match sample:
        case TextSample():
            return ShownSample(sample.where, "text", text=_short(sample.text, TEXT_CHARS))
        case ChatSample():
            return ShownSample(sample.where, "chat", _messages(sample.messages), tools=len(sample.tools))
        case PairSample():
            answers = [_short(_said(answer), TEXT_CHARS) for answer in (sample.chosen, sample.rejected)]
            return ShownSample(sample.where, "pair", _messages(sample.messages), chosen=answers[0], rejected=answers[1], tools=len(sample.tools))
        case FeedbackSample():
            return ShownSample(sample.where, "feedback", _messages((*sample.messages, sample.answer)), is_good=sample.is_good)


if __name__ == "__main__":
    main()
