"""Prompts that replies were written from, kept with them: what a prompt is made of is the caller's business; here it is a form and texts by hash."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from modules.store.conversations import batches
from modules.store.database import Database
from modules.store.images import file_of
from modules.store.message_rows import owned_message
from modules.store.prompt_tables import prompt_texts, prompt_uses, prompts
from modules.store.records import NewPrompt, StoredPrompt
from modules.store.schema import storable


class PromptStore:
    """Prompts of replies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, owner: str, message_id: str, form: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Keep the prompt of a reply; one that is kept already stays.

        Raises:
            NotFound: there is no such message, or it is another owner's; so below.
        """
        with self._database.write() as connection:
            owned_message(connection, owner, message_id)
            _put(connection, message_id, NewPrompt(form, texts, tuple(texts)))

    def get(self, owner: str, message_id: str) -> StoredPrompt | None:
        """The prompt of a reply; None where none was kept."""
        with self._database.read() as connection:
            owned_message(connection, owner, message_id)
            row = connection.execute(select(prompts.c.form).where(prompts.c.message_id == message_id)).one_or_none()
            if row is None:
                return None
            used = select(prompt_texts).join(prompt_uses, prompt_uses.c.hash == prompt_texts.c.hash).where(prompt_uses.c.message_id == message_id)
            texts = {found.hash: zlib.decompress(found.text).decode() for found in connection.execute(used)}
            form: dict[str, Any] = json.loads(zlib.decompress(row.form))
            return StoredPrompt(form, texts, {key: file for key in form.get("images", ()) if (file := file_of(connection, key)) is not None})


def put_prompts(connection: Connection, pairs: Iterable[tuple[str, NewPrompt | str | None]]) -> None:
    """Give messages that have just been stored their prompts, new ones or those of others."""
    for message_id, prompt in pairs:
        if isinstance(prompt, str):
            _copy(connection, prompt, message_id)
        elif prompt is not None:
            _put(connection, message_id, prompt)


def _put(connection: Connection, message_id: str, new: NewPrompt) -> None:
    form = zlib.compress(json.dumps(new.form).encode())
    if not connection.execute(insert(prompts).values(message_id=message_id, form=form).on_conflict_do_nothing()).rowcount:
        return
    known = _known(connection, new.texts)
    rows = [{"hash": key, "text": zlib.compress(storable(text).encode())} for key, text in new.texts.items() if key not in known]
    if rows:
        connection.execute(insert(prompt_texts), rows)
    if new.uses:
        connection.execute(insert(prompt_uses), [{"message_id": message_id, "hash": key} for key in new.uses])


def _copy(connection: Connection, old: str, new: str) -> None:
    for table, kept in ((prompts, prompts.c.form), (prompt_uses, prompt_uses.c.hash)):
        found = connection.execute(select(kept).where(table.c.message_id == old)).scalars().all()
        if found:
            connection.execute(insert(table), [{"message_id": new, kept.name: value} for value in found])


def _known(connection: Connection, hashes: Iterable[str]) -> set[str]:
    return {key for batch in batches(list(hashes)) for key in _among(connection, batch)}


def _among(connection: Connection, batch: list[str]) -> Iterator[str]:
    return connection.execute(select(prompt_texts.c.hash).where(prompt_texts.c.hash.in_(batch))).scalars()
