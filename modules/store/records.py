"""Values that the store hands out. Plain and frozen; knows no SQL, so that importing it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from modules.core.messages import ImageKind

MessageStatus = Literal["complete", "streaming", "stopped", "failed"]
Rating = Literal[-1, 0, 1]  # bad, not rated, good
NEW_TITLE = "New conversation"
PRIVATE_MARK = "p"  # first letter of the ids of private conversations and of all that belongs to them


def is_private(some_id: str) -> bool:
    """Whether an id is one of a private conversation, or of a message, file or entry of the bin that belongs to one."""
    return some_id.startswith(PRIVATE_MARK)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of a message; its file is read when it is needed."""

    kind: ImageKind
    hash: str  # SHA-256 of the file


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to be stored."""

    kind: ImageKind
    file: bytes


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file attached to a message, or waiting to be sent; what was read from it is fetched when it is needed."""

    id: str
    hash: str  # SHA-256 of what was read from it
    name: str
    kind: str  # what it was read as: text, CSV, HTML, DOCX, PDF, pasted text
    note: str  # what a person should know of the reading: pages, rows
    characters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be stored: what was read from it, and its name and size."""

    name: str
    kind: str
    text: str
    note: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """The prompt of a reply, to be stored with it: a form, and the texts that it names by their hashes; those that are stored already may be absent."""

    form: Mapping[str, Any]
    texts: Mapping[str, str]
    uses: tuple[str, ...]  # hashes of all texts


class StoredPrompt(NamedTuple):
    """A form, the texts it names, and the files of those images it names that are still there."""

    form: dict[str, Any]
    texts: Mapping[str, str]
    images: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Snippet:
    """Where a search found something: the words found and what stands around them."""

    before: str
    found: str
    after: str


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """One line of the list of conversations; `messages` counts all versions."""

    id: str
    title: str
    created_s: float  # seconds since 1970
    updated_s: float
    pinned: bool
    messages: int
    tags: tuple[str, ...] = ()
    key: str = ""  # of its place in the list: what comes after it is asked for with this
    snippet: Snippet | None = None  # of a search that found something in its messages


@dataclass(frozen=True, slots=True)
class DeletedRecord:
    """One thing in the bin: a conversation, or a message with all that follow it."""

    id: str
    conversation_id: str
    what: Literal["conversation", "message"]
    title: str  # of the conversation, or the first words of the message
    conversation_title: str
    deleted_s: float  # seconds since 1970
    messages: int


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message. Its versions are the messages with the same parent, itself included, oldest first."""

    id: str
    conversation_id: str
    parent_id: str | None
    role: str
    content: str
    created_s: float
    updated_s: float
    model: str = ""
    status: MessageStatus = "complete"
    error: str = ""
    receipt: dict[str, Any] | None = None
    version_ids: tuple[str, ...] = ()
    images: tuple[StoredImage, ...] = ()  # before its text
    rating: Rating = 0
    edited_from: str | None = None  # the version that a person edited into this one, if one did; it may be gone
    pinned: bool = False  # stays in the prompt when others are left out
    speaker: str = ""  # the name shown instead of the role's
    files: tuple[StoredFile, ...] = ()  # before its text

    @property
    def version_index(self) -> int:
        """Place among the versions, from 1."""
        return self.version_ids.index(self.id) + 1 if self.id in self.version_ids else 1

    @property
    def version_count(self) -> int:
        """How many versions there are, at least 1."""
        return max(1, len(self.version_ids))


@dataclass(frozen=True, slots=True)
class OutlineRow:
    """One message on the map of a conversation."""

    id: str
    parent_id: str | None
    role: str
    beginning: str  # of its text
    rating: Rating


@dataclass(frozen=True, slots=True)
class Outline:
    """The map of a conversation: all messages, oldest first, and the ids of those shown."""

    rows: tuple[OutlineRow, ...]
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """One conversation; `messages` is the path shown, root first (all messages, oldest first, when it is exported)."""

    id: str
    title: str
    title_is_auto: bool
    created_s: float
    updated_s: float
    pinned: bool
    settings: dict[str, Any]
    rev: int
    head_id: str | None = None
    messages: tuple[MessageRecord, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored with others; `parent` is the index of an earlier one of them."""

    role: str
    content: str
    parent: int | None
    created_s: float
    model: str = ""
    status: MessageStatus = "complete"
    error: str = ""
    receipt: dict[str, Any] | None = None
    images: tuple[NewImage | StoredImage, ...] = ()
    rating: Rating = 0
    edited_from: int | str | None = None  # index of an earlier one of them, or the id of one that is stored elsewhere
    pinned: bool = False
    speaker: str = ""
    files: tuple[NewFile | StoredFile | str, ...] = ()  # new, copied, or the id of one that waits in the conversation
    prompt: NewPrompt | str | None = None  # new, or that of the message with this id


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to be stored as a whole, its messages one after the other; `head` is the index of the one shown last."""

    title: str
    settings: dict[str, Any]
    messages: Iterable[NewMessage] = ()
    head: int | None = None
    title_is_auto: bool = False
    pinned: bool = False
    tags: tuple[str, ...] = ()
    created_s: float | None = None  # None: now; so for the other time
    updated_s: float | None = None
    places_in_settings: Mapping[str, int] = field(default_factory=dict)  # settings whose value is the id of one of the messages: its index
