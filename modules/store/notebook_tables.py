"""The tables of notebooks: texts, what undo goes back to, and the versions of each. Made by notebook_steps.py."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, Table, Text

from modules.store.schema import StoredText, metadata

notebooks = Table(
    "notebooks",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("name", StoredText, nullable=False),  # empty: the first words of the text
    Column("text", StoredText, nullable=False),
    Column("rev", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("opened", Integer, nullable=False),  # counts up: the highest of an owner was opened last
    Column("deleted_s", Float),  # in the bin since then
    Index("notebooks_of_owner", "owner", "opened"),
    sqlite_autoincrement=True,
)

notebook_snapshots = Table(
    "notebook_snapshots",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("notebook_id", Text, ForeignKey("notebooks.id", ondelete="CASCADE"), nullable=False),
    Column("stack", Text, nullable=False),  # undo | redo
    Column("text", StoredText, nullable=False),
    Column("start", Integer),  # which part of it the generation was to replace; nothing: it went to the end
    Column("stop", Integer),
    Index("snapshots_of_notebook", "notebook_id", "stack", "position"),
    sqlite_autoincrement=True,
)

notebook_versions = Table(
    "notebook_versions",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("notebook_id", Text, ForeignKey("notebooks.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", StoredText, nullable=False),
    Column("created_s", Float, nullable=False),
    Index("versions_of_notebook", "notebook_id", "position"),
    sqlite_autoincrement=True,
)
