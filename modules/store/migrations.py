"""How a database file gets its tables, version by version (`PRAGMA user_version`).

A step that was released is never changed: a new one is added at the end. Knows SQL text only.
"""

from __future__ import annotations

from sqlalchemy import Connection

from modules.core.errors import AppError
from modules.store.account_steps import ACCOUNT_STEPS
from modules.store.file_steps import FILE_STEPS
from modules.store.notebook_steps import NOTEBOOK_STEPS
from modules.store.prompt_steps import PROMPT_STEPS
from modules.store.usage_steps import USAGE_STEPS

_FIRST = (
    """CREATE TABLE conversations (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        title TEXT NOT NULL,
        title_is_auto BOOLEAN NOT NULL,
        created_s FLOAT NOT NULL,
        updated_s FLOAT NOT NULL,
        pinned BOOLEAN NOT NULL,
        settings JSON NOT NULL,
        head_id TEXT,
        rev INTEGER NOT NULL)""",
    "CREATE INDEX conversations_of_owner ON conversations (owner, pinned, updated_s)",
    """CREATE TABLE messages (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        parent_id TEXT REFERENCES messages (id) DEFERRABLE INITIALLY DEFERRED,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        created_s FLOAT NOT NULL,
        updated_s FLOAT NOT NULL,
        model TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('complete', 'streaming', 'stopped', 'failed')),
        error TEXT NOT NULL,
        receipt JSON)""",
    "CREATE INDEX messages_of_conversation ON messages (conversation_id, position)",
    "CREATE INDEX messages_of_parent ON messages (parent_id)",
    "CREATE INDEX messages_growing ON messages (status) WHERE status = 'streaming'",
    """CREATE TABLE notebooks (
        owner TEXT NOT NULL PRIMARY KEY,
        text TEXT NOT NULL,
        rev INTEGER NOT NULL)""",
    """CREATE TABLE notebook_snapshots (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL REFERENCES notebooks (owner) ON DELETE CASCADE,
        stack TEXT NOT NULL CHECK (stack IN ('undo', 'redo')),
        text TEXT NOT NULL)""",
    "CREATE INDEX snapshots_of_owner ON notebook_snapshots (owner, stack, position)",
    # Full-text indexes. A message that still grows is not indexed: that would rewrite its words every second.
    """CREATE VIRTUAL TABLE message_search USING fts5 (
        content, content='messages', content_rowid='position', tokenize='unicode61 remove_diacritics 2', prefix='2 3')""",
    """CREATE TRIGGER message_search_insert AFTER INSERT ON messages WHEN new.status <> 'streaming' BEGIN
        INSERT INTO message_search (rowid, content) VALUES (new.position, new.content);
    END""",
    """CREATE TRIGGER message_search_delete AFTER DELETE ON messages WHEN old.status <> 'streaming' BEGIN
        INSERT INTO message_search (message_search, rowid, content) VALUES ('delete', old.position, old.content);
    END""",
    """CREATE TRIGGER message_search_leave AFTER UPDATE OF content, status ON messages WHEN old.status <> 'streaming' BEGIN
        INSERT INTO message_search (message_search, rowid, content) VALUES ('delete', old.position, old.content);
    END""",
    """CREATE TRIGGER message_search_enter AFTER UPDATE OF content, status ON messages WHEN new.status <> 'streaming' BEGIN
        INSERT INTO message_search (rowid, content) VALUES (new.position, new.content);
    END""",
    """CREATE VIRTUAL TABLE title_search USING fts5 (
        title, content='conversations', content_rowid='position', tokenize='unicode61 remove_diacritics 2', prefix='2 3')""",
    """CREATE TRIGGER title_search_insert AFTER INSERT ON conversations BEGIN
        INSERT INTO title_search (rowid, title) VALUES (new.position, new.title);
    END""",
    """CREATE TRIGGER title_search_delete AFTER DELETE ON conversations BEGIN
        INSERT INTO title_search (title_search, rowid, title) VALUES ('delete', old.position, old.title);
    END""",
    """CREATE TRIGGER title_search_update AFTER UPDATE OF title ON conversations BEGIN
        INSERT INTO title_search (title_search, rowid, title) VALUES ('delete', old.position, old.title);
        INSERT INTO title_search (rowid, title) VALUES (new.position, new.title);
    END""",
)

_IMAGES = (
    "CREATE TABLE images (hash TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, file BLOB NOT NULL)",
    """CREATE TABLE message_images (
        message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        place INTEGER NOT NULL,
        hash TEXT NOT NULL REFERENCES images (hash),
        PRIMARY KEY (message_id, place))""",
    "CREATE INDEX message_images_of_image ON message_images (hash)",
    """CREATE TRIGGER images_unused AFTER DELETE ON message_images
        WHEN NOT EXISTS (SELECT 1 FROM message_images WHERE hash = old.hash) BEGIN
        DELETE FROM images WHERE hash = old.hash;
    END""",
)

_RATINGS = (
    "ALTER TABLE messages ADD COLUMN rating INTEGER NOT NULL DEFAULT 0 CHECK (rating IN (-1, 0, 1))",
    "ALTER TABLE messages ADD COLUMN edited_from TEXT",
    # Edits of before were not marked, but only they are whole and have neither a model nor a receipt. Which version was edited
    # is not known; people edit what they see, and that mostly was the newest one.
    """UPDATE messages SET edited_from = (
        SELECT earlier.id FROM messages AS earlier
        WHERE earlier.conversation_id = messages.conversation_id AND earlier.parent_id IS messages.parent_id
            AND earlier.position < messages.position
        ORDER BY earlier.position DESC LIMIT 1)
        WHERE role = 'assistant' AND status = 'complete' AND model = '' AND receipt IS NULL""",
)

_KEEPING = (
    # What was deleted: a row for each thing a person deleted at once. The conversation is named even when only messages of it went.
    """CREATE TABLE bin (
        id TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        what TEXT NOT NULL CHECK (what IN ('conversation', 'message')),
        title TEXT NOT NULL,
        deleted_s FLOAT NOT NULL,
        head_id TEXT)""",
    "CREATE INDEX bin_of_owner ON bin (owner, deleted_s)",
    "CREATE INDEX bin_of_conversation ON bin (conversation_id)",
    "ALTER TABLE conversations ADD COLUMN tags JSON NOT NULL DEFAULT '[]'",
    "ALTER TABLE conversations ADD COLUMN bin_id TEXT",
    "ALTER TABLE messages ADD COLUMN bin_id TEXT REFERENCES bin (id) ON DELETE CASCADE",
    "ALTER TABLE messages ADD COLUMN pinned BOOLEAN NOT NULL DEFAULT 0",
    "ALTER TABLE messages ADD COLUMN speaker TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX messages_of_bin ON messages (bin_id) WHERE bin_id IS NOT NULL",
    # All that makes a tree, in an index: in a row it would stand behind the text.
    "DROP INDEX messages_of_conversation",
    "CREATE INDEX messages_of_conversation ON messages (conversation_id, position, bin_id, parent_id, id)",
    "DROP INDEX conversations_of_owner",
    "CREATE INDEX conversations_of_owner ON conversations (owner, pinned, updated_s) WHERE bin_id IS NULL",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _IMAGES, _RATINGS, _KEEPING, FILE_STEPS, NOTEBOOK_STEPS, PROMPT_STEPS, ACCOUNT_STEPS, USAGE_STEPS)


def migrate(connection: Connection) -> None:
    """Bring a database to the newest version, inside the transaction that is open.

    Raises:
        AppError: the file was written by a newer Paddock.
    """
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if version > len(MIGRATIONS):
        raise AppError(
            f"The conversations were saved by a newer Paddock (layout {version}; this one reads up to {len(MIGRATIONS)}). "
            "Update Paddock, or start it with another --state-dir."
        )
    for steps in MIGRATIONS[version:]:
        for statement in steps:
            connection.exec_driver_sql(statement)
    if version < len(MIGRATIONS):
        connection.exec_driver_sql(f"PRAGMA user_version = {len(MIGRATIONS)}")
