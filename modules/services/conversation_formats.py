"""Files of conversations, of whatever program: recognised by what is in them, read one conversation at a time, told in our own form.

Of a list only the conversation that is being read is in memory, of our own form only a message, of an archive one member is open. Knows no store; what a conversation may
be is checked in `conversation_files.py`.
"""

from __future__ import annotations

import codecs
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from modules.core.errors import InvalidRequest
from modules.services.conversation_files import FORMAT
from modules.services.conversation_own_file import OwnFile, begins_as_own
from modules.services.foreign_chatgpt import from_chatgpt, is_chatgpt
from modules.services.foreign_claude import from_claude, is_claude
from modules.services.foreign_markdown import from_markdown
from modules.services.foreign_messages import from_messages, is_message, is_messages
from modules.services.foreign_tavern import from_tavern, is_tavern
from modules.services.foreign_textgen import from_textgen, is_textgen
from modules.store.records import NewConversation
from modules.training.json_rows import json_rows

BEGINNING_BYTES = 1024
ARCHIVE_MARK = b"PK\x03\x04"
MEMBERS_LIMIT = 20_000
UNPACKED_LIMIT_BYTES = 8 << 30  # of an archive, all of its members that are read together
LINES_LIMIT = 50_000  # of a chat that is told line by line
OWN_MEMBER = re.compile(r"conversations([-_.]?\d+)?\.jsonl?", re.IGNORECASE)
MARKDOWN = (".md", ".markdown", ".txt")
MARKDOWN_LIMIT_BYTES = 32 << 20
READABLE = (".json", ".jsonl")
NOT_READ = frozenset({
    "user.json", "users.json", "user_settings.json", "message_feedback.json", "model_comparisons.json", "shared_conversations.json",
    "projects.json", "memories.json", "group_chats.json", "sora.json", "shopping.json", "settings.json",
})  # fmt: skip


class Format(NamedTuple):
    """A program's way to write a conversation."""

    title: str
    fits: Callable[[Mapping[str, Any]], bool]
    tell: Callable[[Mapping[str, Any]], dict[str, Any]]


def _is_own(values: Mapping[str, Any]) -> bool:
    return values.get("format") == FORMAT or ("head_id" in values and isinstance(values.get("messages"), list))


FORMATS: tuple[Format, ...] = (  # the first that fits
    Format("Paddock", _is_own, dict),
    Format("ChatGPT", is_chatgpt, from_chatgpt),
    Format("Claude", is_claude, from_claude),
    Format("text-generation-webui", is_textgen, from_textgen),
    Format("messages", is_messages, from_messages),
)
KNOWN = "Read are files of Paddock, ChatGPT, Claude, SillyTavern and text-generation-webui, lists of messages as OpenAI has them, ShareGPT, and chats in Markdown."


@dataclass(frozen=True, slots=True)
class FoundConversation:
    """One conversation of a file: its place there, whose form it had, and it in our own form or as what is to be stored; or why it cannot be read."""

    where: str
    format: str = ""
    values: dict[str, Any] | None = None
    new: NewConversation | None = None  # its messages are read from the file as they are taken
    problem: str = ""


class _Row(NamedTuple):
    where: str
    values: dict[str, Any]


def read_conversations(file: BinaryIO, name: str) -> Iterator[FoundConversation]:
    """All conversations of a file, which is read from its beginning. What cannot be read is found as a problem; nothing is raised for it."""
    beginning = file.read(BEGINNING_BYTES)
    file.seek(0)
    if beginning.startswith(ARCHIVE_MARK):
        yield from _of_archive(file, name)
    elif begins_as_own(beginning):
        yield from _of_own(file, name)
    elif _is_plain(beginning, name):
        yield _of_markdown(file, name)
    else:
        yield from _of_text(file, name)


def _of_own(file: BinaryIO, name: str) -> Iterator[FoundConversation]:
    try:
        new = OwnFile(file, name).conversation()
    except InvalidRequest as error:
        yield FoundConversation(name, "Paddock", problem=error.message)
        return
    if new is not None:
        yield FoundConversation(name, "Paddock", new=new)
        return
    file.seek(0)  # several, one behind the other
    yield from _of_text(file, name)


def _is_plain(beginning: bytes, name: str) -> bool:
    """Whether it is a text that is no JSON; a list or an object begins with a bracket, but so may Markdown."""
    begins = beginning.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return begins not in (b"", b"{") and (begins != b"[" or PurePosixPath(name).suffix.lower() in MARKDOWN)


def _of_markdown(file: BinaryIO, name: str) -> FoundConversation:
    raw = file.read(MARKDOWN_LIMIT_BYTES + 1)
    if len(raw) > MARKDOWN_LIMIT_BYTES:
        return FoundConversation(name, problem=f"{name} is neither JSON nor an archive, and as Markdown at most {MARKDOWN_LIMIT_BYTES >> 20} MiB are read; divide it.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return FoundConversation(name, problem=f"{name} is not UTF-8 text; save the file as UTF-8. {KNOWN}")
    return _told(name, "Markdown", lambda: from_markdown(text, name))


# ---- archives ------------------------------------------------------------------------------------------------------


def _of_archive(file: BinaryIO, name: str) -> Iterator[FoundConversation]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive)
            if not members:
                yield FoundConversation(name, problem=f"{name} holds no file of conversations (conversations.json). {KNOWN}")
            budget = _Budget(UNPACKED_LIMIT_BYTES)
            for member in members:
                yield from _of_member(archive, member, budget)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, ValueError) as error:
        yield FoundConversation(name, problem=f"{name} is a damaged archive: {str(error)[:200]}. Download it again.")


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Those that hold conversations: the ones that say so, or else everything that could."""
    readable = []
    for member in archive.infolist()[:MEMBERS_LIMIT]:
        base = PurePosixPath(member.filename.replace("\\", "/")).name.lower()
        if base.endswith(READABLE) and base not in NOT_READ and not base.startswith("."):
            readable.append((base, member))
    named = [member for base, member in readable if OWN_MEMBER.fullmatch(base)]
    return named or [member for _, member in readable]


def _of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> Iterator[FoundConversation]:
    name = member.filename[:200]
    if member.flag_bits & 1:
        yield FoundConversation(name, problem=f"{name} is locked with a password; unpack the archive, then import what is in it.")
        return
    try:
        with archive.open(member) as unpacked:
            yield from _of_text(io.BufferedReader(_Bounded(unpacked, budget)), name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield FoundConversation(name, problem=f"{name} in the archive is damaged: {str(error)[:200]}. Download the archive again.")


class _Budget:
    """How many bytes may still be unpacked."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        """Count bytes that came out.

        Raises:
            InvalidRequest: they are too many.
        """
        self.left -= count
        if self.left < 0:
            raise InvalidRequest(f"The archive unpacks to more than {UNPACKED_LIMIT_BYTES >> 30} GiB, the most that is read.")


class _Bounded(io.RawIOBase):
    """A member of an archive, counted as it comes out: what the archive says of its size is not believed."""

    def __init__(self, member: Any, budget: _Budget) -> None:
        self._member, self._budget = member, budget

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of the buffer."""
        piece = self._member.read(len(buffer))
        self._budget.take(len(piece))
        buffer[: len(piece)] = piece
        return len(piece)


# ---- texts ---------------------------------------------------------------------------------------------------------


def _of_text(file: BinaryIO, name: str) -> Iterator[FoundConversation]:
    rows = _rows(file, name)
    try:
        first = next(rows, None)
        if first is None:
            yield FoundConversation(name, problem=f"{name} is empty. {KNOWN}")
        elif is_tavern(first.values):
            yield _told(name, "SillyTavern", lambda: from_tavern([row.values for row in _few(chain((first,), rows), name)]))
        elif is_message(first.values):
            yield _told(name, "messages", lambda: from_messages({"messages": [row.values for row in _few(chain((first,), rows), name)]}))
        else:
            for row in chain((first,), rows):
                yield _of_row(row)
    except InvalidRequest as error:  # what follows cannot be found any more
        yield FoundConversation(name, problem=error.message)


def _few(rows: Iterator[_Row], name: str) -> Iterator[_Row]:
    for number, row in enumerate(rows):
        if number >= LINES_LIMIT:
            raise InvalidRequest(f"{name} has more than {LINES_LIMIT:,} messages, the most that one conversation holds; divide it.")
        yield row


def _of_row(row: _Row) -> FoundConversation:
    for form in FORMATS:
        if form.fits(row.values):
            return _told(row.where, form.title, lambda form=form: form.tell(row.values))  # type: ignore[misc]
    keys = ", ".join(f"“{key[:30]}”" for key in list(row.values)[:5])
    return FoundConversation(row.where, problem=f"{row.where} is no conversation that Paddock knows (it has {keys or 'nothing'}). {KNOWN}")


def _told(where: str, title: str, tell: Callable[[], dict[str, Any]]) -> FoundConversation:
    try:
        return FoundConversation(where, title, tell())
    except InvalidRequest as error:
        return FoundConversation(where, title, problem=error.message)


def _rows(file: BinaryIO, name: str) -> Iterator[_Row]:
    """The objects of a JSON file: of a list each, of one object that one, of lines each.

    Raises:
        InvalidRequest: naming the line that is wrong.
    """
    reader = file if isinstance(file, io.BufferedReader | io.BufferedRandom) else io.BufferedReader(file)  # type: ignore[type-var]
    if reader.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
        reader.read(len(codecs.BOM_UTF8))
    for where, values in json_rows(reader, name, unfold=False):
        inner = values.get("conversations")
        if isinstance(inner, list) and inner and not is_messages(values):  # a list of conversations in an object
            yield from (_Row(f"{where}, conversation {number}", item) for number, item in enumerate(inner, 1) if isinstance(item, dict))
        else:
            yield _Row(where, values)
