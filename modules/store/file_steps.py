"""The step that makes the tables of attached files (file_tables.py). Knows SQL text only."""

from __future__ import annotations

FILE_STEPS: tuple[str, ...] = (
    "CREATE TABLE file_texts (hash TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL)",
    """CREATE TABLE attachments (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        message_id TEXT REFERENCES messages (id) ON DELETE CASCADE,
        hash TEXT NOT NULL REFERENCES file_texts (hash),
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        note TEXT NOT NULL,
        characters INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL)""",
    "CREATE INDEX attachments_of_conversation ON attachments (conversation_id, position)",
    "CREATE INDEX attachments_of_message ON attachments (message_id, position)",
    "CREATE INDEX attachments_of_text ON attachments (hash)",
    """CREATE TRIGGER file_texts_unused AFTER DELETE ON attachments
        WHEN NOT EXISTS (SELECT 1 FROM attachments WHERE hash = old.hash) BEGIN
        DELETE FROM file_texts WHERE hash = old.hash;
    END""",
)
