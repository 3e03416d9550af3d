"""The step that makes the tables of several notebooks (notebook_tables.py). Knows SQL text only."""

from __future__ import annotations

# Before, each owner had one text and no notebook had an id. That text becomes the first notebook, with what could be undone.
NOTEBOOK_STEPS: tuple[str, ...] = (
    "ALTER TABLE notebooks RENAME TO notebooks_before",
    "ALTER TABLE notebook_snapshots RENAME TO snapshots_before",
    "DROP INDEX snapshots_of_owner",
    """CREATE TABLE notebooks (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        text TEXT NOT NULL,
        rev INTEGER NOT NULL,
        settings JSON NOT NULL,
        created_s FLOAT NOT NULL,
        updated_s FLOAT NOT NULL,
        opened INTEGER NOT NULL,
        deleted_s FLOAT)""",
    "CREATE INDEX notebooks_of_owner ON notebooks (owner, opened)",
    """CREATE TABLE notebook_snapshots (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        notebook_id TEXT NOT NULL REFERENCES notebooks (id) ON DELETE CASCADE,
        stack TEXT NOT NULL CHECK (stack IN ('undo', 'redo')),
        text TEXT NOT NULL,
        start INTEGER,
        stop INTEGER)""",
    "CREATE INDEX snapshots_of_notebook ON notebook_snapshots (notebook_id, stack, position)",
    """CREATE TABLE notebook_versions (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        notebook_id TEXT NOT NULL REFERENCES notebooks (id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('typed', 'written', 'alternative')),
        text TEXT NOT NULL,
        created_s FLOAT NOT NULL)""",
    "CREATE INDEX versions_of_notebook ON notebook_versions (notebook_id, position)",
    """INSERT INTO notebooks (id, owner, name, text, rev, settings, created_s, updated_s, opened)
        SELECT lower(hex(randomblob(13))), owner, '', text, rev, '{}', CAST(strftime('%s', 'now') AS FLOAT), CAST(strftime('%s', 'now') AS FLOAT), 1 FROM notebooks_before""",
    """INSERT INTO notebook_snapshots (notebook_id, stack, text)
        SELECT notebooks.id, snapshots_before.stack, snapshots_before.text
        FROM snapshots_before JOIN notebooks ON notebooks.owner = snapshots_before.owner ORDER BY snapshots_before.position""",
    "DROP TABLE snapshots_before",
    "DROP TABLE notebooks_before",
)
