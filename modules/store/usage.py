"""What people had computed, by day and model: added up as it comes, read by person and from a day on."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select
from sqlalchemy.dialects.sqlite import insert

from modules.store.database import Database
from modules.store.usage_records import Spender, Spent
from modules.store.usage_tables import usage


class UsageStore:
    """The usage in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, spent: Mapping[Spender, Spent]) -> None:
        """Add to what is there, all of it or nothing."""
        with self._database.write() as connection:
            for who, much in spent.items():
                values = {name: getattr(much, name) for name in Spent.__slots__}
                statement = insert(usage).values(**who._asdict(), **values)
                added = {name: usage.c[name] + statement.excluded[name] for name in values}
                connection.execute(statement.on_conflict_do_update(index_elements=list(Spender._fields), set_=added))

    def counted_tokens(self, person: str, day: str) -> int:
        """What a quota counts of a person's day."""
        tokens = func.sum(usage.c.prompt_tokens - usage.c.reused_tokens + usage.c.completion_tokens)
        with self._database.read() as connection:
            return int(connection.execute(select(tokens).where(usage.c.person == person, usage.c.day == day)).scalar() or 0)

    def read(self, first_day: str, person: str | None = None) -> dict[Spender, Spent]:
        """From a day on, of one person or of all; the newest day first."""
        query = select(usage).where(usage.c.day >= first_day).order_by(usage.c.day.desc(), usage.c.person, usage.c.model)
        if person is not None:
            query = query.where(usage.c.person == person)
        with self._database.read() as connection:
            return {
                Spender(row.person, row.day, row.model): Spent(row.requests, row.prompt_tokens, row.reused_tokens, row.completion_tokens, row.compute_s)
                for row in connection.execute(query)
            }
