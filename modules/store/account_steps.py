"""The step that makes the tables of accounts (account_tables.py). Knows SQL text only."""

from __future__ import annotations

ACCOUNT_STEPS: tuple[str, ...] = (
    """CREATE TABLE users (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL CHECK (role IN ('chat', 'manage', 'admin')),
        password TEXT NOT NULL,
        created_s FLOAT NOT NULL,
        disabled BOOLEAN NOT NULL DEFAULT 0,
        daily_tokens INTEGER)""",
    """CREATE TABLE sessions (
        digest TEXT NOT NULL PRIMARY KEY,
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_s FLOAT NOT NULL,
        seen_s FLOAT NOT NULL,
        expires_s FLOAT NOT NULL,
        agent TEXT NOT NULL)""",
    "CREATE INDEX sessions_of_user ON sessions (user_id, created_s)",
    """CREATE TABLE api_keys (
        id TEXT NOT NULL PRIMARY KEY,
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        digest TEXT NOT NULL,
        scopes JSON NOT NULL,
        created_s FLOAT NOT NULL,
        expires_s FLOAT,
        used_s FLOAT,
        revoked_s FLOAT)""",
    "CREATE INDEX api_keys_of_user ON api_keys (user_id, created_s)",
)
