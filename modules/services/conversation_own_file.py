"""Our own file of a conversation read message by message, so that it may be of any size: once to check it, once more while it is stored.

Of a message only the value that is being read is parsed at once, so a hostile file costs little more memory than an honest one. Knows no store.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

from pydantic import ValidationError

from modules.core.errors import InvalidRequest
from modules.core.settings import validation_sentence
from modules.services.conversation_files import FORMAT, FileHead, FileMessage, FileTree
from modules.store.records import NewConversation, NewMessage
from modules.training.json_rows import JsonSource

OWN_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*\"format\"\s*:\s*\"%s\"" % FORMAT.encode())
MESSAGES_LIMIT = 1_000_000
ATTACHED = ("images", "files")  # lists of a message that may be long
ATTACHED_LIMIT = 100  # of each; how many a message may have is checked with the message
PROMPT = "prompt"
MESSAGE_LIMIT_CHARS = 256 << 20  # in the file, with its images, files and prompt
STRUCTURE_LIMIT_CHARS = 8 << 20  # of a list or an object in it: parsed, it takes many times the memory of a text
M = TypeVar("M", FileHead, FileMessage)


def begins_as_own(beginning: bytes) -> bool:
    """Whether a file that begins so is one that Paddock wrote."""
    return OWN_BEGINNING.match(beginning) is not None


class OwnFile:
    """A file that holds one conversation in our own form."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def conversation(self) -> NewConversation | None:
        """What is to be stored, with messages that are read again as they are taken; None where more follows the conversation.

        Raises:
            InvalidRequest: it cannot be read; the sentence says where and why.
        """
        source = self._begun()
        head: dict[str, Any] = {}
        tree: FileTree | None = None
        for name in source.members():
            if name != "messages":
                value = source.value(STRUCTURE_LIMIT_CHARS)
                head.update({name: value} if name in FileHead.model_fields else {})
            elif tree is not None:
                raise InvalidRequest(f"{self._name} names its messages twice; the file is damaged.", field="file")
            else:
                tree = FileTree()
                deque(self._messages(source, tree), maxlen=0)
        if source.next_char():
            return None
        if tree is None:
            raise InvalidRequest(f"{self._name} has no messages; it is cut off or was changed. Export the conversation again.", field="file")
        return tree.conversation(_valid(FileHead, head, self._name), _Again(self))

    def messages(self) -> Iterator[NewMessage]:
        """The messages alone, from the first one on.

        Raises:
            InvalidRequest: as above.
        """
        source = self._begun()
        for name in source.members():
            if name == "messages":
                yield from self._messages(source, FileTree())
                return
            source.value(STRUCTURE_LIMIT_CHARS)

    def _begun(self) -> JsonSource:
        self._file.seek(0)
        if self._file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            self._file.seek(0)
        return JsonSource(self._file, self._name)

    def _messages(self, source: JsonSource, tree: FileTree) -> Iterator[NewMessage]:
        for number in source.elements():
            if number > MESSAGES_LIMIT:
                raise InvalidRequest(f"{self._name} has more than {MESSAGES_LIMIT:,} messages, the most that one conversation holds; divide it.", field="file")
            yield tree.placed(_valid(FileMessage, _message(source, self._name), f"Message {number} of {self._name}"))


class _Again:
    """The messages of a file, read from its beginning whenever they are asked for."""

    def __init__(self, file: OwnFile) -> None:
        self._file = file

    def __iter__(self) -> Iterator[NewMessage]:
        return self._file.messages()


def _message(source: JsonSource, file_name: str) -> dict[str, Any]:
    """An object whose images, files and prompt are read piece by piece."""
    values: dict[str, Any] = {}
    read = _MessageValues(source, file_name)
    for name in source.members():
        begins = source.next_char()
        if name in ATTACHED and begins == "[":
            values[name] = list(_attached(read, name))
        elif name == PROMPT and begins == "{":
            values[name] = {part: read.object() if source.next_char() == "{" else read.value() for part in source.members()}
        else:
            values[name] = read.value()
    return values


def _attached(read: _MessageValues, name: str) -> Iterator[dict[str, Any]]:
    for number in read.source.elements():
        if number > ATTACHED_LIMIT:
            raise InvalidRequest(f"{read.file_name}: a message has more than {ATTACHED_LIMIT} {name}; the file is damaged.", field="file")
        yield read.object()


class _MessageValues:
    """The values of one message, which are in memory together."""

    def __init__(self, source: JsonSource, file_name: str) -> None:
        self.source, self.file_name = source, file_name
        self._until = source.passed + MESSAGE_LIMIT_CHARS

    def value(self) -> Any:
        """The next one."""
        found = self.source.value(STRUCTURE_LIMIT_CHARS)
        if self.source.passed > self._until:
            raise InvalidRequest(
                f"{self.file_name}, line {self.source.line}: a message with all that belongs to it is longer than {MESSAGE_LIMIT_CHARS >> 20} MiB, "
                "the most that is read; take what is attached to it out of the file.",
                field="file",
            )
        return found

    def object(self) -> dict[str, Any]:
        """The next one, value by value."""
        return {key: self.value() for key in self.source.members()}


def _valid(kind: type[M], values: Mapping[str, Any], where: str) -> M:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(f"{where} cannot be read: {validation_sentence(error)}", field="file") from error
