"""The step that makes the tables of kept prompts (prompt_tables.py). Knows SQL text only."""

from __future__ import annotations

PROMPT_STEPS: tuple[str, ...] = (
    "CREATE TABLE prompts (message_id TEXT NOT NULL PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE, form BLOB NOT NULL)",
    "CREATE TABLE prompt_texts (hash TEXT NOT NULL PRIMARY KEY, text BLOB NOT NULL)",
    """CREATE TABLE prompt_uses (
        message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        hash TEXT NOT NULL REFERENCES prompt_texts (hash),
        PRIMARY KEY (message_id, hash)) WITHOUT ROWID""",
    "CREATE INDEX prompt_uses_of_text ON prompt_uses (hash)",
    """CREATE TRIGGER prompt_texts_unused AFTER DELETE ON prompt_uses
        WHEN NOT EXISTS (SELECT 1 FROM prompt_uses WHERE hash = old.hash) BEGIN
        DELETE FROM prompt_texts WHERE hash = old.hash;
    END""",
)
