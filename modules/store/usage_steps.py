"""The step that makes the table of usage (usage_tables.py). Knows SQL text only."""

from __future__ import annotations

USAGE_STEPS: tuple[str, ...] = (
    """CREATE TABLE usage (
        person TEXT NOT NULL,
        day TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        reused_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        compute_s FLOAT NOT NULL,
        PRIMARY KEY (person, day, model)) WITHOUT ROWID""",
    "CREATE INDEX usage_of_day ON usage (day)",
)
