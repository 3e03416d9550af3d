"""Rows become samples: which format a data set has, which column means what, and what is wrong with a row that does not fit.

Reads through `rows.py`; messages are understood in `turns.py`, columns guessed in `columns.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.core.errors import AppError, InvalidRequest
from modules.core.messages import Message, Role
from modules.training.columns import (
    checked_columns,
    found_columns,
    guessed,
    guessed_columns,
    listed,
    verdict_of,
)
from modules.training.rows import DataRow, printable, read_rows
from modules.training.samples import (
    FORMAT_TITLES,
    NEEDED,
    ChatSample,
    DatasetSpec,
    FeedbackSample,
    Format,
    PairSample,
    Sample,
    TextSample,
)
from modules.training.turns import (
    ROLE_KEYS,
    Turns,
    as_text,
    from_json_text,
    is_conversation,
    read_message,
    read_tools,
    read_turns,
)

HEAD_ROWS = 20  # that a format is recognised by
HEAD_CHARS = 4000  # of a plain text


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the first rows of a data set say."""

    format: Format | None
    columns: dict[str, str]  # meaning → column
    found: tuple[str, ...]  # columns
    rows: tuple[DataRow, ...]
    problem: str = ""


def recognise(path: Path) -> Recognition:
    """Look at the first rows.

    Raises:
        NotFound: there is no such file.
    """
    rows: list[DataRow] = []
    problem = ""
    try:
        rows.extend(islice(read_rows(path, head_chars=HEAD_CHARS), HEAD_ROWS))
    except InvalidRequest as error:
        problem = error.message
    format, columns = guessed(rows)
    found = found_columns(rows)
    if not rows:
        problem = problem or f"{path.name} is empty; choose a file with rows."
    elif format is None:
        problem = problem or f"What the columns {listed(found)} mean cannot be told from their names; choose it."
    else:
        problem = problem or _first_problem(rows, format, columns)
    return Recognition(format, columns, found, tuple(rows), problem)


def _first_problem(rows: list[DataRow], format: Format, columns: Mapping[str, str]) -> str:
    try:
        for row in rows:
            sample_of(row, format, columns)
    except AppError as error:
        return error.message
    return ""


def read_samples(spec: DatasetSpec) -> SampleReader:
    """All samples of a data set, in order; without columns those that the format usually has are taken.

    Raises:
        NotFound: there is no such file (while iterating, like all below).
        InvalidRequest: naming file, line and what is wrong.
    """
    return SampleReader(spec)


class SampleReader(Iterator[Sample]):
    """Samples one after the other, counting the rows read and those that were empty: nothing in a column that is needed."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.rows = 0
        self.empty = 0
        self._samples = self._read(spec)

    def __next__(self) -> Sample:
        return next(self._samples)

    def _read(self, spec: DatasetSpec) -> Iterator[Sample]:
        columns = checked_columns(spec.format, spec.columns) or default_columns(spec.path, spec.format)
        unseen = set(columns.values())
        found: dict[str, None] = {}
        for row in read_rows(spec.path):
            self.rows += 1
            unseen.difference_update(row.values)
            if unseen and len(found) < HEAD_ROWS:
                found.update(dict.fromkeys(row.values))
            sample = sample_of(row, spec.format, columns)
            if sample is None:
                self.empty += 1
            else:
                yield sample
        if unseen and self.rows:
            raise InvalidRequest(f"{spec.path.name} has no column {listed(sorted(unseen))}; its columns are {listed(found)}. Choose anew which column means what.", field="columns")


def default_columns(path: Path, format: Format) -> dict[str, str]:
    """The columns that a format usually has, as far as they are there.

    Raises:
        InvalidRequest: one that is needed is not there.
    """
    rows = list(islice(read_rows(path, head_chars=HEAD_CHARS), HEAD_ROWS))
    columns = guessed_columns(format, rows)
    missing = [meaning for meaning in NEEDED[format] if meaning not in columns]
    if missing and rows:
        raise InvalidRequest(f"{FORMAT_TITLES[format]}: which column of {path.name} is “{missing[0]}” cannot be told; its columns are {listed(found_columns(rows))}. Choose one.", field="columns")
    return columns


def sample_of(row: DataRow, format: Format, columns: Mapping[str, str]) -> Sample | None:
    """The sample of one row; None where nothing stands in a column that is needed.

    Raises:
        InvalidRequest: naming file, line and what is wrong.
    """
    try:
        return BUILDERS[format](_Cells(row, columns))
    except InvalidRequest as error:
        raise InvalidRequest(printable(f"{row.where}: {error.message}. Correct the row or take it out.")) from error


class _Cells:
    """The values of a row by their meanings."""

    def __init__(self, row: DataRow, columns: Mapping[str, str]) -> None:
        self.where, self._values, self._columns = row.where, row.values, columns

    def __contains__(self, meaning: str) -> bool:
        return meaning in self._columns

    def value(self, meaning: str, needed: bool = False) -> Any:
        """What stands there, None where nothing does; `needed` makes a row without the column a wrong one."""
        column = self._columns.get(meaning)
        if needed and column not in self._values:
            raise InvalidRequest(f"the column “{column or meaning}” is missing; this row has {listed(self._values)}")
        return self._values.get(column) if column is not None else None

    def read(self, meaning: str, function: Callable[[Any], Any], needed: bool = False) -> Any:
        """What a function makes of it; what it finds wrong is told with the column."""
        value = self.value(meaning, needed)
        try:
            return function(value)
        except InvalidRequest as error:
            raise InvalidRequest(f"column “{self._columns.get(meaning, meaning)}”: {error.message}") from error

    def text(self, meaning: str, needed: bool = False) -> str:
        """It as text."""
        return str(self.read(meaning, as_text, needed))

    def said(self, meaning: str, role: Role, needed: bool = False) -> Turns:
        """It as messages: a conversation, one message, or a text that `role` says."""
        made: Turns = self.read(meaning, lambda value: _said(value, role), needed)
        return made

    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that may be called."""
        made: tuple[Mapping[str, Any], ...] = self.read("tools", read_tools)
        return made


def _said(value: Any, role: Role) -> Turns:
    if is_conversation(value):
        return read_turns(value)
    held = from_json_text(value)
    if isinstance(held, dict) and any(key in held for key in ROLE_KEYS):
        return Turns((read_message(held, role),))
    text = as_text(value)
    return Turns((Message(role=role, content=text),)) if text.strip() else Turns()


def _prompt(cells: _Cells, first: str) -> Turns:
    """What leads to an answer: earlier messages, then the question with its input, behind a system text."""
    turns = cells.said(first, "user", first in NEEDED["instruction"])
    more = cells.text("input")
    if more.strip():
        if turns.messages and turns.messages[-1].role == "user":
            last = turns.messages[-1]
            turns = turns._replace(messages=(*turns.messages[:-1], last.model_copy(update={"content": f"{last.content}\n{more}"})))
        else:
            turns = turns._replace(messages=(*turns.messages, Message(role="user", content=more)))
    return turns


def _with_system(cells: _Cells, turns: Turns) -> Turns:
    text = cells.text("system")
    if not text.strip() or (turns.messages and turns.messages[0].role in ("system", "developer")):
        return turns
    return _joined(Turns((Message(role="system", content=text),)), turns)


def _joined(first: Turns, second: Turns) -> Turns:
    shift = len(first.messages)
    return Turns(first.messages + second.messages, first.unlearned | {place + shift for place in second.unlearned})


def _is_silent(turns: Turns) -> bool:
    return not any(message.content.strip() or message.tool_calls for message in turns.messages)


def _chat(cells: _Cells) -> Sample | None:
    turns: Turns = cells.read("messages", read_turns, needed=True)
    if _is_silent(turns):
        return None
    turns = _with_system(cells, turns)
    return ChatSample(cells.where, turns.messages, cells.tools(), turns.unlearned)


def _instruction(cells: _Cells) -> Sample | None:
    question, answer = _prompt(cells, "instruction"), cells.said("output", "assistant", needed=True)
    if _is_silent(question) or _is_silent(answer):
        return None
    turns = _with_system(cells, _joined(cells.read("history", _history), _joined(question, answer)))
    return ChatSample(cells.where, turns.messages, (), turns.unlearned)


def _history(value: Any) -> Turns:
    """Earlier turns: messages, or pairs of question and answer."""
    value = from_json_text(value)
    if not value or is_conversation(value):
        return read_turns(value or None)
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise InvalidRequest("a list of messages, or of pairs of question and answer, was expected")
    roles: tuple[Role, Role] = ("user", "assistant")
    return Turns(tuple(Message(role=role, content=as_text(words)) for pair in value for role, words in zip(roles, pair, strict=True)))


def _text(cells: _Cells) -> Sample | None:
    text = cells.text("text", needed=True)
    return TextSample(cells.where, text) if text.strip() else None


def _pair(cells: _Cells) -> Sample | None:
    chosen, rejected = (cells.said(meaning, "assistant", needed=True) for meaning in ("chosen", "rejected"))
    if _is_silent(chosen) or _is_silent(rejected):
        return None
    if chosen.messages[:-1] != rejected.messages[:-1]:
        raise InvalidRequest("the better and the worse answer begin with different messages; they may differ in the last one only")
    messages = _before(cells, chosen.messages[:-1])
    if not messages:
        return None
    answers = [_reply(turns.messages[-1]) for turns in (chosen, rejected)]
    return PairSample(cells.where, messages, answers[0], answers[1], cells.tools())


def _reply(message: Message) -> Message:
    if message.role != "assistant":
        raise InvalidRequest(f"an answer must be the assistant's, but its last message is of the role “{message.role}”")
    return message


def _before(cells: _Cells, leading: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt of an answer: what stands in the columns, or what the answer begins with where that is whole."""
    if "prompt" not in cells and "messages" not in cells and not leading:
        raise InvalidRequest("there is no prompt; choose the column that is “prompt” or “messages”")
    asked = _joined(cells.read("messages", read_turns), _prompt(cells, "prompt"))
    if any(message.role == "user" for message in leading):
        asked = Turns(leading)
    elif leading:
        asked = Turns(asked.messages + leading)
    return () if _is_silent(asked) else _with_system(cells, asked).messages


def _feedback(cells: _Cells) -> Sample | None:
    label = cells.value("label", needed=True)
    answer = cells.said("answer", "assistant", needed=True) if "answer" in cells else Turns()
    before = _before(cells, answer.messages[:-1])
    if "answer" not in cells:
        before, answer = before[:-1], Turns(before[-1:])
    if not before or _is_silent(answer):
        return None
    is_good = verdict_of(label)
    if is_good is None:
        raise InvalidRequest(f"the mark must be true or false, 1 or 0, good or bad; got “{str(label)[:60]}”")
    return FeedbackSample(cells.where, before, _reply(answer.messages[-1]), is_good)


BUILDERS: Mapping[Format, Callable[[_Cells], Sample | None]] = MappingProxyType({
    "messages": _chat, "sharegpt": _chat, "instruction": _instruction, "text": _text, "preference": _pair, "feedback": _feedback,
})  # fmt: skip
