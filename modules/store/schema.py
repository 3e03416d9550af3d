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
    Column("tags", JSON, nullable=False, server_default="[]"),
    # The row of `bin` it was deleted with. No reference: `bin` refers to conversations already.
    Column("bin_id", Text),
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
    Column("rating", Integer, nullable=False, server_default="0"),  # 1 good, -1 bad, 0 not rated
    # The version that a person edited into this one. No reference: it stays an edit when that version is gone, or in a copy.
    Column("edited_from", Text),
    Column("bin_id", Text, ForeignKey("bin.id", ondelete="CASCADE")),
    Column("pinned", Boolean, nullable=False, server_default="0"),  # stays in the prompt when others are left out
    Column("speaker", StoredText, nullable=False, server_default=""),  # the name shown instead of the role's; empty: the role's
    Index("messages_of_conversation", "conversation_id", "position", "bin_id", "parent_id", "id"),
    Index("messages_of_parent", "parent_id"),
    Index("messages_of_bin", "bin_id"),
    sqlite_autoincrement=True,
)

# What a person deleted at once: a conversation, or a message with all that follow it. What is in it is read nowhere else.
deleted = Table(
    "bin",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("what", Text, nullable=False),  # conversation | message
    Column("title", StoredText, nullable=False),
    Column("deleted_s", Float, nullable=False),
    Column("head_id", Text),  # what the conversation showed last before messages of it were deleted
    Index("bin_of_owner", "owner", "deleted_s"),
    Index("bin_of_conversation", "conversation_id"),
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

# Full-text indexes over messages.content and conversations.title, kept by triggers; rowid is the position of the row.
message_search = light_table("message_search", light_column("rowid", Integer))
title_search = light_table("title_search", light_column("rowid", Integer))
