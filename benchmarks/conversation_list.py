"""How long the list of 10,000 conversations takes: its first page, its last, and searches.

    python benchmarks/conversation_list.py

Times are milliseconds, medians of the repeats. Some words stand in every conversation, some in one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sqlalchemy import insert

from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.schema import conversations, messages

MANY = 10_000
WORDS = (
    "the", "of", "meadow", "horse", "fence", "water", "apple", "stone", "river", "cloud", "bridge", "garden", "window", "paper", "copper", "silver", "lantern",
    "winter", "summer", "morning",
)  # fmt: skip
QUESTIONS: tuple[dict[str, str], ...] = (
    {}, {"before": "0_60.0_61"}, {"search": "word7777"}, {"search": "meadow"}, {"search": "the of"}, {"search": "m"}, {"search": "word777"},
    {"search": "meadow word7777"}, {"search": "nowhere"}, {"search": "about lantern 5"},
)  # fmt: skip


def fill(database: Database) -> None:
    """Ten thousand conversations of two messages, of one owner."""
    common = {"owner": "ann", "title_is_auto": True, "pinned": False, "settings": {}, "rev": 1, "tags": []}
    base = {"updated_s": 1.0, "model": "", "status": "complete", "error": "", "rating": 0, "pinned": False, "speaker": ""}
    with database.write() as connection:
        rows = [{"id": f"c{n}", "title": f"About {WORDS[n % 20]} {n}", "created_s": n, "updated_s": n, "head_id": f"r{n}", **common} for n in range(MANY)]
        connection.execute(insert(conversations), rows)
        texts = [" ".join(WORDS[(n * 7 + place * place) % 20] for place in range(12)) for n in range(MANY)]
        asked = [{"id": f"q{n}", "conversation_id": f"c{n}", "parent_id": None, "role": "user", "content": f"word{n} {texts[n]}", "created_s": n, **base} for n in range(MANY)]
        told = [{**row, "id": f"r{n}", "parent_id": f"q{n}", "role": "assistant", "content": texts[-n]} for n, row in enumerate(asked)]
        connection.execute(insert(messages), asked + told)


def main() -> None:
    """Fill a database, then ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder))
        fill(database)
        store = ConversationStore(database)
        for question in QUESTIONS:
            took_ms = []
            for _ in range(repeats):
                begun_s = time.perf_counter()
                rows = store.list("ann", limit=60, **question)
                took_ms.append(1000 * (time.perf_counter() - begun_s))
            print(f"{question or 'first page'!s:40} {len(rows):3} rows  {statistics.median(took_ms):6.1f} ms ({min(took_ms):.1f} .. {max(took_ms):.1f})")
        database.close()


if __name__ == "__main__":
    main()
