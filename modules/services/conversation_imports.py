"""Moving in: a file of conversations, of whatever program, becomes conversations of one's own, each stored as it is read.

Reading is in `conversation_formats.py`. A file on its way lies in the state folder without a name, so that nothing of it stays behind.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from modules.core.errors import InvalidRequest
from modules.services.conversation_files import imported
from modules.services.conversation_formats import FoundConversation, read_conversations
from modules.services.storage import Storage
from modules.store.records import NewConversation

FILE_LIMIT_BYTES = 8 << 30
CONVERSATIONS_LIMIT = 100_000
BATCH = 4  # read in one go in a thread
LISTED = 50  # of each kind in the report
NAME_LIMIT = 200


@dataclass(frozen=True, slots=True)
class ImportedConversation:
    """One that is there now."""

    id: str
    title: str


@dataclass(frozen=True, slots=True)
class RefusedConversation:
    """One that could not be taken, and why."""

    where: str
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of a file: all are counted, the first of each kind are named."""

    imported: int = 0
    empty: int = 0  # without a single message
    refused: int = 0
    formats: list[str] = field(default_factory=list)
    conversations: list[ImportedConversation] = field(default_factory=list)
    refusals: list[RefusedConversation] = field(default_factory=list)

    def refuse(self, where: str, reason: str) -> None:
        """Count one that could not be taken."""
        self.refused += 1
        if len(self.refusals) < LISTED:
            self.refusals.append(RefusedConversation(where, reason))


class ConversationImports:
    """Reads files of conversations for an owner."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder

    async def take(self, owner: str, name: str, pieces: AsyncIterable[bytes]) -> ImportReport:
        """Every conversation of a file as a new one; what could not be taken is in the report.

        Raises:
            InvalidRequest: the file is empty or larger than what is read, or the disk is full.
        """
        if not self._storage.on_disk:
            raise InvalidRequest("A file of conversations is written to the disk to be read, so a server that several people share takes none.", field="file")
        name = " ".join(name.split())[:NAME_LIMIT] or "The file"
        with await asyncio.to_thread(lambda: tempfile.TemporaryFile(dir=self._folder)) as file:
            await self._receive(file, pieces)
            file.seek(0)
            return await self._stored(owner, read_conversations(file, name))

    async def _receive(self, file: BinaryIO, pieces: AsyncIterable[bytes]) -> None:
        size = 0
        async for piece in pieces:
            size += len(piece)
            if size > FILE_LIMIT_BYTES:
                raise InvalidRequest(f"The file is larger than {FILE_LIMIT_BYTES >> 20:,} MiB, the most that is read; divide it.", field="file")
            try:
                await asyncio.to_thread(file.write, piece)
            except OSError as error:
                raise InvalidRequest(f"The file cannot be kept while it is read: {error.strerror or error}. Free some space, then try again.", field="file") from error
        if not size:
            raise InvalidRequest("The file is empty; choose one with conversations.", field="file")

    async def _stored(self, owner: str, found: Iterator[FoundConversation]) -> ImportReport:
        report = ImportReport()
        while batch := await asyncio.to_thread(lambda: list(islice(found, BATCH))):
            for conversation in batch:
                if report.imported >= CONVERSATIONS_LIMIT:
                    report.refuse(conversation.where, f"{CONVERSATIONS_LIMIT:,} conversations are taken from one file; divide it.")
                    return report
                await self._store_one(owner, conversation, report)
        return report

    async def _store_one(self, owner: str, found: FoundConversation, report: ImportReport) -> None:
        if found.values is None and found.new is None:
            report.refuse(found.where, found.problem)
            return
        if found.values is not None and not found.values.get("messages") and found.format != "Paddock":
            report.empty += 1
            return
        try:
            new = await asyncio.to_thread(_new, found)
            conversation_id = await self._storage.run(lambda stores: stores.messages.insert_tree(owner, new))
        except InvalidRequest as error:
            report.refuse(found.where, error.message)
            return
        report.imported += 1
        if found.format not in report.formats:
            report.formats.append(found.format)
        if len(report.conversations) < LISTED:
            report.conversations.append(ImportedConversation(conversation_id, new.title))


def _new(found: FoundConversation) -> NewConversation:
    return found.new if found.new is not None else imported(found.values or {})
