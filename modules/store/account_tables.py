"""The tables of accounts: users, the browsers they are logged in with, and their API keys. Made by account_steps.py.

Of secrets there are only hashes: scrypt of passwords, SHA-256 of what is random and long (tokens of sessions, secrets of keys).
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, Table, Text

from modules.store.schema import StoredText, metadata

users = Table(
    "users",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),  # the owner of what is theirs
    Column("name", StoredText, nullable=False),
    Column("name_key", StoredText, nullable=False, unique=True),  # the name as it is compared
    Column("role", Text, nullable=False),  # chat | manage | admin
    Column("password", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("daily_tokens", Integer),  # at most so many a day; nothing: as many as they like
    sqlite_autoincrement=True,
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("seen_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("agent", StoredText, nullable=False),  # what the browser says it is
    Index("sessions_of_user", "user_id", "created_s"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", StoredText, nullable=False),
    Column("digest", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float),
    Column("used_s", Float),
    Column("revoked_s", Float),
    Index("api_keys_of_user", "user_id", "created_s"),
)
