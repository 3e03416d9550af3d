"""The table of usage: what each person had computed by each model on each day. Made by usage_steps.py."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, Table, Text

from modules.store.schema import StoredText, metadata

usage = Table(
    "usage",
    metadata,
    Column("person", Text, primary_key=True),
    Column("day", Text, primary_key=True),  # of UTC, as 2026-02-03
    Column("model", StoredText, primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("reused_tokens", Integer, nullable=False),  # of the prompts, not computed again
    Column("completion_tokens", Integer, nullable=False),
    Column("compute_s", Float, nullable=False),
    Index("usage_of_day", "day"),
)
