"""Documents attached to messages: read in a child, kept as text until they are sent, and then for as long as their message is there."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from modules.core.errors import InvalidRequest
from modules.core.messages import FILE_LIMIT
from modules.services.attachment_reader import ReadFile, ReadRequest
from modules.services.reading_child import answer_of
from modules.services.storage import Storage
from modules.store.records import NewFile, StoredFile, is_private

COMMAND = (sys.executable, "-m", "modules.services.attachment_reader")
CHILD_LIMIT_S = 30.0
CHILDREN = 2  # at a time
FILE_LIMIT_BYTES = 32 << 20
NAME_LIMIT = 200
PASTED = "pasted text"


class AttachmentService:
    """All verbs on attached documents."""

    def __init__(self, state_dir: Path, storage: Storage) -> None:
        self._folder = state_dir / "incoming"
        self._storage = storage
        self._children = asyncio.Semaphore(CHILDREN)

    async def add(self, owner: str, conversation_id: str, name: str, pieces: AsyncIterator[bytes]) -> StoredFile:
        """Read a file and keep its text for the next message of a conversation.

        Raises:
            InvalidRequest: it is no document that can be read, or too large; or as many as a message can have wait already.
            NotFound: there is no such conversation.
        """
        shown = _cleaned(name)
        if is_private(conversation_id) or not self._storage.on_disk:
            whose = "a private conversation takes none" if is_private(conversation_id) else "a server that several people share takes none"
            raise InvalidRequest(f"A document is written to the disk to be read, so {whose}. Paste its text.", field="file")
        await self.waiting(owner, conversation_id)  # nothing is read for nobody
        path = self._folder / secrets.token_hex(16)
        try:
            size_bytes = await _written(path, pieces, shown)
            if not size_bytes:
                raise InvalidRequest(f"{shown} is empty; attach a file with text in it.", field="file")
            async with self._children:
                found = await asyncio.to_thread(_read, ReadRequest(name=shown, path=str(path)))
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        new = NewFile(shown, found.kind, found.text, found.note, size_bytes)
        return await self._storage.of(conversation_id).run(lambda stores: stores.files.add(owner, conversation_id, new, FILE_LIMIT))

    async def add_text(self, owner: str, conversation_id: str, text: str) -> StoredFile:
        """Keep a long text that was pasted for the next message.

        Raises:
            InvalidRequest: nothing in it, or as many as a message can have wait already.
        """
        if not text.strip():
            raise InvalidRequest("There is nothing in the pasted text.", field="text")
        waiting = await self.waiting(owner, conversation_id)
        count = sum(file.kind == PASTED for file in waiting)
        new = NewFile(f"Pasted text {count + 1}.txt", PASTED, text.replace("\r\n", "\n"), _lines(text), len(text.encode("utf-8", "replace")))
        return await self._storage.of(conversation_id).run(lambda stores: stores.files.add(owner, conversation_id, new, FILE_LIMIT))

    async def waiting(self, owner: str, conversation_id: str) -> tuple[StoredFile, ...]:
        """Those that go with the next message."""
        return await self._storage.of(conversation_id).run(lambda stores: stores.files.waiting(owner, conversation_id))

    async def remove(self, owner: str, conversation_id: str, attachment_id: str) -> None:
        """Take one back before it is sent."""
        await self._storage.of(conversation_id).run(lambda stores: stores.files.remove(owner, conversation_id, attachment_id))

    async def text(self, owner: str, attachment_id: str) -> tuple[StoredFile, str]:
        """An attachment, and what was read from it.

        Raises:
            NotFound: there is none, or it is another owner's.
        """
        return await self._storage.of(attachment_id).run(lambda stores: stores.files.text(owner, attachment_id))


def _read(request: ReadRequest) -> ReadFile:
    """What the child reads."""
    too_long = f"{request.name} could not be read within {CHILD_LIMIT_S:.0f} s. Attach a part of it, or its text."
    answer = answer_of(COMMAND, request.model_dump_json(), name=request.name, limit_s=CHILD_LIMIT_S, too_long=too_long)
    if refused := answer.get("error"):
        raise InvalidRequest(refused, field="file")
    return ReadFile.model_validate(answer)


async def _written(path: Path, pieces: AsyncIterator[bytes], name: str) -> int:
    """Put what arrives into a file; how many bytes that were."""
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True, mode=0o700)
    size_bytes = 0
    file = await asyncio.to_thread(path.open, "wb")
    try:
        async for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > FILE_LIMIT_BYTES:
                raise InvalidRequest(f"{name} has more than {FILE_LIMIT_BYTES >> 20} MiB, the limit of an attachment. Attach a part of it.", field="file")
            await asyncio.to_thread(file.write, piece)
    finally:
        await asyncio.to_thread(file.close)
    return size_bytes


def _cleaned(name: str) -> str:
    """The last part of a name, without what cannot be shown."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(letter if letter.isprintable() else " " for letter in last).strip()
    return shown[-NAME_LIMIT:] or "file"


def _lines(text: str) -> str:
    count = text.count("\n") + 1
    return f"{count:,} {'line' if count == 1 else 'lines'}"
