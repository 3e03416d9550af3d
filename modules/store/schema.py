"""The tables. Knows names and types; how a database comes to have them is written in migrations.py.

Times are seconds since 1970. `position` is the order of creation, which a clock that jumps cannot disturb.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy import column as light_column
from sqlalchemy import table as light_table


class StoredText(TypeDecorator[str]):
    """Text that SQLite can take: half of a surrogate pair, which JSON allows, becomes “?”."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Before it is written or compared."""
        return storable(value) if value is not None else None


def storable(text: str) -> str:
    """The text without halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


metadata = MetaData()

conversations = Table(
    "conversations",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("title", StoredText, nullable=False),
    Column("title_is_auto", Boolean, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("head_id", Text),
    Column("rev", Integer, nullable=False),
    Index("conversations_of_owner", "owner", "pinned", "updated_s"),
    sqlite_autoincrement=True,
)

messages = Table(
    "messages",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("conversation_id", Text, ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    # No cascade from parent to child: SQLite ends one after 1000 levels, and a conversation may be longer.
    Column("parent_id", Text, ForeignKey("messages.id", deferrable=True, initially="DEFERRED")),
    Column("role", Text, nullable=False),
    Column("content", StoredText, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("model", StoredText, nullable=False),
    Column("status", Text, nullable=False),
    Column("error", StoredText, nullable=False),
    Column("receipt", JSON(none_as_null=True)),
    Index("messages_of_conversation", "conversation_id", "position"),
    Index("messages_of_parent", "parent_id"),
    sqlite_autoincrement=True,
)

images = Table(
    "images",
    metadata,
    Column("hash", Text, primary_key=True),  # SHA-256 of the file
    Column("kind", Text, nullable=False),
    Column("file", LargeBinary, nullable=False),
)

message_images = Table(
    "message_images",
    metadata,
    Column("message_id", Text, ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("hash", Text, ForeignKey("images.hash"), nullable=False),
    Index("message_images_of_image", "hash"),
)

notebooks = Table(
    "notebooks",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("text", StoredText, nullable=False),
    Column("rev", Integer, nullable=False),
)

notebook_snapshots = Table(
    "notebook_snapshots",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("owner", Text, ForeignKey("notebooks.owner", ondelete="CASCADE"), nullable=False),
    Column("stack", Text, nullable=False),  # undo | redo
    Column("text", StoredText, nullable=False),
    Index("snapshots_of_owner", "owner", "stack", "position"),
    sqlite_autoincrement=True,
)

# Full-text indexes over messages.content and conversations.title, kept by triggers; rowid is the position of the row.
message_search = light_table("message_search", light_column("rowid", Integer))
title_search = light_table("title_search", light_column("rowid", Integer))
