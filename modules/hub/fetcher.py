"""The bytes of one file: resumed where they ended, whoever ended it, and on the disk under their name only when their hash is right.

huggingface_hub's own download begins anew after a kill, accepts a flipped bit and gives up at a reset connection; this one does not.
Beside the file `a.gguf` lie, while it is fetched, `.a.gguf.part` (bytes), `.a.gguf.part.json` (of what) and `.a.gguf.lock`; no file of a
repository can have such a name. Knows nothing of repositories beyond one address, nor of where files go in the end.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx2

from modules.core.errors import HubError
from modules.core.files import sync_folder, write_atomic
from modules.hub.client import CONTENT_RANGE, file_url
from modules.hub.lock import FileLock
from modules.hub.names import RepoType
from modules.hub.refusals import Subject, refusal, retry_after_s, unreachable
from modules.hub.repository import RemoteFile
from modules.hub.transport import Limits, Transport

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
TEMPORARY = frozenset({408, 425, 429})
SIGNATURE_REFUSALS = frozenset({403, 416})  # of the storage behind the hub: another address, signed anew, may be right
RECORD_LIMIT_BYTES = 8192


@dataclass(frozen=True)
class FetchPolicy:
    """How patient and how careful a download is."""

    limits: Limits = field(default_factory=Limits)
    files_at_once: int = 2
    block_bytes: int = 1 << 20  # read at once when what is there already is hashed
    retries: int = 8  # in a row without a new byte
    first_wait_s: float = 0.5
    longest_wait_s: float = 30  # between two tries of ours
    longest_asked_wait_s: float = 600  # of what `Retry-After` may ask for
    lock_wait_s: float = 0.1
    report_s: float = 0.25
    reserve_bytes: int = 256 << 20  # of the disk, left free


class InterruptedFetchError(Exception):
    """The bytes stopped coming for a reason that may pass; holds the error to show if it does not."""

    def __init__(self, error: HubError, wait_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait_s = wait_s  # what the server asked for


class WrongBytesError(Exception):
    """All bytes are there and their hash is not the announced one."""


def size_text(size_bytes: float) -> str:
    """A size for people: 4.0 MB, 7.3 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{int(size_bytes)} bytes"


def check_space(folder: Path, needed_bytes: int, reserve_bytes: int) -> None:
    """Refuse before anything is fetched what the disk cannot hold.

    Raises:
        HubError: with what is needed, what is free, and the cure.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + reserve_bytes:
        raise HubError(
            f"The download needs {size_text(needed_bytes)} more and {size_text(max(0, free - reserve_bytes))} is free on the disk of {folder.name}/ "
            f"({size_text(reserve_bytes)} are kept back); free some space and resume, or choose a smaller file.",
            reason="no_space",
        )


def disk_error(error: OSError, folder: Path) -> HubError:
    """The error for a disk that refused."""
    if error.errno in FULL_DISK:
        return HubError(
            f"The disk of {folder.name}/ is full; what was fetched is kept: free some space and resume.", reason="no_space"
        )
    return HubError(f"{folder.name}/ cannot be written: {error.strerror or 'unknown fault'}; check the disk and its permissions, then resume.", reason="disk")


def kept_bytes(target: Path) -> int:
    """How many bytes of a file are on the disk already, finished or not."""
    for path in (target, _beside(target, ".part")):
        if path.is_file():
            return path.stat().st_size
    return 0


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}{suffix}")


class Part:
    """The unfinished file: its bytes on the disk, how many, and their hash so far."""

    def __init__(self, stream: BinaryIO, file: RemoteFile) -> None:
        self._stream = stream
        self._file = file
        self.moved = 0  # bytes that came from the net
        self._begin()

    def _begin(self) -> None:
        self._hash: Any = hashlib.sha256() if self._file.sha256 else hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)
        self.have = 0

    def restart(self) -> None:
        """Begin anew with no bytes."""
        self._stream.seek(0)
        self._stream.truncate()
        self._begin()

    async def take_up(self, block_bytes: int, progress: Callable[[int], None]) -> None:
        """Hash the bytes that are there: their number is no proof of what they are."""
        self._begin()
        self._stream.seek(0)
        while self.have < self._file.size and (block := self._stream.read(min(block_bytes, self._file.size - self.have))):
            self._hash.update(block)
            self.have += len(block)
            progress(self.have)
            await asyncio.sleep(0)
        self._stream.seek(self.have)
        self._stream.truncate()

    def add(self, piece: bytes) -> None:
        """Write and hash bytes that came."""
        view = memoryview(piece)
        while view:
            view = view[self._stream.write(view) :]
        self._hash.update(piece)
        self.have += len(piece)
        self.moved += len(piece)

    def is_right(self) -> bool:
        """Whether the bytes are the announced ones."""
        return bool(self._hash.hexdigest() == (self._file.sha256 or self._file.git_sha1))


class Fetcher:
    """Fetches files of one repository at one commit over an open transport."""

    def __init__(self, transport: Transport, repo: str, commit: str, policy: FetchPolicy | None = None, repo_type: RepoType = "model") -> None:
        self._transport = transport
        self._repo = repo
        self._repo_type = repo_type
        self._commit = commit
        self._policy = policy or FetchPolicy()

    async def fetch(self, file: RemoteFile, target: Path, progress: Callable[[int], None]) -> int:
        """Bring one file to `target`; gives the bytes that were moved for it. Ends at once when its task is cancelled; call again to resume.

        Raises:
            HubError: refused, failed for good, wrong bytes twice, or no space; what was fetched is kept.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_beside(target, ".lock"))
        while not lock.acquire():
            await asyncio.sleep(self._policy.lock_wait_s)
        with lock:
            if target.is_file() and target.stat().st_size == file.size:  # its bytes were checked before it got this name
                progress(file.size)
                return 0
            try:
                return await self._fetch_checked(file, target, progress)
            except OSError as error:
                raise disk_error(error, target.parent) from error

    async def _fetch_checked(self, file: RemoteFile, target: Path, progress: Callable[[int], None]) -> int:
        """Fetch until the hash is right, beginning anew once."""
        try:
            return await self._fetch_once(file, target, progress)
        except WrongBytesError:
            _beside(target, ".part").replace(_beside(target, ".bad"))
        try:
            moved = await self._fetch_once(file, target, progress)
        except WrongBytesError:
            _beside(target, ".part").replace(_beside(target, ".bad"))
            raise HubError(
                f"{file.path} arrived twice with other bytes than {self._transport.access.host} announces (its checksum is wrong); it is kept aside as "
                f"{_beside(target, '.bad').name} and not used. Check proxy and memory, or try another mirror or revision.",
                reason="checksum",
            ) from None
        _beside(target, ".bad").unlink(missing_ok=True)
        return moved

    async def _fetch_once(self, file: RemoteFile, target: Path, progress: Callable[[int], None]) -> int:
        path, record = _beside(target, ".part"), _beside(target, ".part.json")
        wanted = {"path": file.path, "size": file.size, "sha256": file.sha256, "git_sha1": file.git_sha1}
        if _read_record(record) != wanted:
            path.unlink(missing_ok=True)
            write_atomic(record, json.dumps(wanted))
        check_space(target.parent, file.size - (path.stat().st_size if path.exists() else 0), self._policy.reserve_bytes)
        with path.open("r+b" if path.exists() else "w+b", buffering=0) as stream:
            part = Part(stream, file)
            await part.take_up(self._policy.block_bytes, progress)
            await self._fill(file, part, progress)
            if not part.is_right():
                raise WrongBytesError(file.path)
            await asyncio.to_thread(os.fsync, stream.fileno())
        path.replace(target)
        sync_folder(target.parent)
        record.unlink(missing_ok=True)
        return part.moved

    async def _fill(self, file: RemoteFile, part: Part, progress: Callable[[int], None]) -> None:
        """Ask again and again until all bytes are there; each time anew at the hub, because signed addresses expire."""
        tries, most = 0, part.have
        while part.have < file.size:
            wait_s: float | None = None
            host = self._transport.access.host
            try:
                await self._take(file, part, progress)
                error = HubError(f"{host} ends {file.path} after {part.have} of {file.size} bytes; try again later.", reason="short")
            except InterruptedFetchError as interruption:
                error, wait_s = interruption.error, interruption.wait_s
            if part.have >= file.size:
                return
            tries = 0 if part.have > most else tries + 1
            most = max(most, part.have)
            if tries > self._policy.retries:
                raise error
            await asyncio.sleep(self._pause_s(tries) if wait_s is None else wait_s)

    def _pause_s(self, tries: int) -> float:
        pause = min(self._policy.longest_wait_s, self._policy.first_wait_s * 2.0 ** max(0, tries - 1))
        return pause * random.uniform(0.75, 1.25)

    async def _take(self, file: RemoteFile, part: Part, progress: Callable[[int], None]) -> None:
        """Add what one answer brings.

        Raises:
            InterruptedFetchError: the connection failed, or the hub wants to be asked later.
        """
        access = self._transport.access
        url = file_url(access.endpoint, self._repo, self._commit, file.path, self._repo_type)
        try:
            async with self._transport.open(url, start=part.have) as response:
                self._check(response, file, part)
                async with aclosing(response.aiter_raw()) as pieces:
                    async for piece in pieces:
                        if part.have + len(piece) > file.size:
                            raise _too_long(file, access.host)
                        part.add(piece)
                        progress(part.have)
        except httpx2.TransportError as error:
            raise InterruptedFetchError(unreachable(error, access)) from None

    def _check(self, response: httpx2.Response, file: RemoteFile, part: Part) -> None:
        """Whether an answer brings the bytes that follow; an answer from the beginning makes the part begin anew.

        Raises:
            InterruptedFetchError: an answer that may be another one later.
            HubError: a refusal, or another file.
        """
        access, status = self._transport.access, response.status_code
        if status not in (200, 206):
            raise self._refused(response, file, part)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise HubError(f"{access.host} packs {file.path} although it was asked not to; a proxy may do that: go around it.", reason="encoding")
        if status == 206 and not _continues(response.headers, part.have, file.size):
            part.restart()
            raise InterruptedFetchError(HubError(f"{access.host} gives another part of {file.path} than was asked for; try another mirror.", reason="range"))
        if status == 200 and part.have:
            part.restart()
        length = response.headers.get("content-length", "")
        if length.isdigit() and part.have + int(length) > file.size:
            raise _too_long(file, access.host)

    def _refused(self, response: httpx2.Response, file: RemoteFile, part: Part) -> Exception:
        """What to raise for an answer that is no success."""
        access, status = self._transport.access, response.status_code
        if status == 416:  # fewer bytes there than here
            part.restart()
        is_storage = not self._transport.is_hub(response.url) and 400 <= status < 500 and status not in TEMPORARY
        error = (
            _storage_refusal(status, file, access.host)
            if is_storage
            else refusal(status, response.headers, Subject(self._repo, self._commit, file.path, self._repo_type), access)
        )
        if status in TEMPORARY or status >= 500 or (is_storage and status in SIGNATURE_REFUSALS):
            return InterruptedFetchError(error, retry_after_s(response.headers, self._policy.longest_asked_wait_s))
        return error


def _storage_refusal(status: int, file: RemoteFile, host: str) -> HubError:
    return HubError(f"The storage behind {host} does not give {file.path} (status {status}); try again later, or use another mirror.", reason="storage", status=status)


def _too_long(file: RemoteFile, host: str) -> HubError:
    return HubError(
        f"{host} sends more than the {file.size} bytes that it announces for {file.path}; the repository may have been tampered with: choose another.",
        reason="size",
    )


def _continues(headers: httpx2.Headers, start: int, size: int) -> bool:
    match = CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    return match is not None and int(match[1]) == start and match[3] in ("*", str(size))


def _read_record(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(RECORD_LIMIT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
