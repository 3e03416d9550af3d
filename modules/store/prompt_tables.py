"""The tables of prompts that replies were written from: each text once, by its hash, however many prompts it is in. Both compressed."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, Table, Text

from modules.store.schema import metadata

prompts = Table(
    "prompts",
    metadata,
    Column("message_id", Text, ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    Column("form", LargeBinary, nullable=False),  # how the texts make the prompt
)

prompt_texts = Table(
    "prompt_texts",
    metadata,
    Column("hash", Text, primary_key=True),  # SHA-256 of the text
    Column("text", LargeBinary, nullable=False),
)

prompt_uses = Table(
    "prompt_uses",
    metadata,
    Column("message_id", Text, ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    Column("hash", Text, ForeignKey("prompt_texts.hash"), primary_key=True),
    Index("prompt_uses_of_text", "hash"),
)
