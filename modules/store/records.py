"""Values that the store hands out. Plain and frozen; knows no SQL, so that importing it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from modules.core.messages import ImageKind

MessageStatus = Literal["complete", "streaming", "stopped", "failed"]


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
class ConversationSummary:
    """One line of the list of conversations; `messages` counts all versions."""

    id: str
    title: str
    created_s: float  # seconds since 1970
    updated_s: float
    pinned: bool
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

    @property
    def version_index(self) -> int:
        """Place among the versions, from 1."""
        return self.version_ids.index(self.id) + 1 if self.id in self.version_ids else 1

    @property
    def version_count(self) -> int:
        """How many versions there are, at least 1."""
        return max(1, len(self.version_ids))


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


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to be stored as a whole; `head` is the index of the message shown last."""

    title: str
    settings: dict[str, Any]
    messages: tuple[NewMessage, ...] = ()
    head: int | None = None
    title_is_auto: bool = False
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class NotebookRecord:
    """The text of an owner's notebook."""

    text: str
    rev: int
    can_undo: bool
    can_redo: bool
