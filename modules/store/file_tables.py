"""The tables of files attached to messages: the text that was read from each once, by its hash."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

from modules.store.schema import StoredText, metadata

file_texts = Table(
    "file_texts",
    metadata,
    Column("hash", Text, primary_key=True),  # SHA-256 of the text
    Column("text", StoredText, nullable=False),
)

attachments = Table(
    "attachments",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("conversation_id", Text, ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("message_id", Text, ForeignKey("messages.id", ondelete="CASCADE")),  # none: it waits for the next message to be sent
    Column("hash", Text, ForeignKey("file_texts.hash"), nullable=False),
    Column("name", StoredText, nullable=False),
    Column("kind", Text, nullable=False),
    Column("note", StoredText, nullable=False),
    Column("characters", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Index("attachments_of_conversation", "conversation_id", "position"),
    Index("attachments_of_message", "message_id", "position"),
    Index("attachments_of_text", "hash"),
    sqlite_autoincrement=True,
)
