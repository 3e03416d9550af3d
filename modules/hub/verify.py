"""The work of the job kind "verify": read every file of a model or adapter and compare its hash with what was fetched.

In the caches of other programs a file's name is its hash. Of what came from elsewhere the hashes are kept the first time, so that a later look
can tell whether it changed. What was found is one small file, written by the job itself: it is there after a restart, whoever looked meanwhile.
Knows nothing of queues and processes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import NotFound
from modules.core.files import write_atomic
from modules.core.job import JobContext
from modules.hub.inventory import StoredFile, hash_stored, origin_of

FILES_LIMIT = 2000
NAME_LIMIT = 1000
RESULT_LIMIT_BYTES = 8 << 20
REPORT_S = 0.1
SHOWN_FILES = 100
SHA256, GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


class VerifyArgs(BaseModel, frozen=True, extra="forbid"):
    """What to read, and where to write what was found."""

    name: str = Field(min_length=1, max_length=NAME_LIMIT, description="The model or adapter, as the list names it.")
    root: Path = Field(description="Folder in which it lies.")
    place: str = Field(min_length=1, max_length=NAME_LIMIT, description="Its file or folder below that.")
    files: tuple[str, ...] = Field(max_length=FILES_LIMIT, description="Its files below that folder, for one that was not downloaded here.")
    result_path: Path = Field(description="Where to keep what was found.")


class CheckedFile(BaseModel, frozen=True):
    """A file as it was when it was read."""

    path: str  # below the folder of models or adapters
    size: int = 0
    mtime_ns: int = 0
    expected: str = ""  # the hash it should have
    found: str = ""  # the hash it has; empty if it could not be read

    @property
    def is_right(self) -> bool:
        """Whether its bytes are those that were expected."""
        return bool(self.found) and self.found == self.expected


class Verification(BaseModel, frozen=True):
    """What one look found."""

    name: str
    date: str  # ISO 8601
    since: str = ""  # when the hashes were first kept, for one without a record
    compared: bool = True  # the first look at one without a record only keeps its hashes
    files: tuple[CheckedFile, ...] = ()

    @property
    def damaged(self) -> tuple[str, ...]:
        """Files that are missing or other than they were."""
        return tuple(file.path for file in self.files if not file.is_right)


def read_verification(path: Path) -> Verification | None:
    """What was found the last time; None if nothing is known."""
    try:
        with path.open("rb") as file:
            return Verification.model_validate_json(file.read(RESULT_LIMIT_BYTES))
    except (OSError, ValidationError):
        return None


def run(args: VerifyArgs, context: JobContext) -> Mapping[str, Any]:
    """Read it and say which of its files are damaged.

    Raises:
        Cancelled: the person asked to stop; what was found before stays.
        NotFound: it is not there.
    """
    path = args.root / args.place
    if not path.exists():
        raise NotFound(f"There is no “{args.name[:100]}” any more; refresh the list.")
    origin = origin_of(args.root, path)
    named: dict[str, StoredFile] = {}
    before = read_verification(args.result_path) if origin is None else None
    if origin is None:
        named = _named_by_hash(args.root, args.files)
        stored = tuple(named.get(file.placed, file) for file in _stored_before(args.files, before))
    else:
        inner = origin.folder.relative_to(args.root).as_posix()
        stored = tuple(file.model_copy(update={"placed": f"{inner}/{file.placed}"}) for file in origin.provenance.files)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    is_known = origin is not None or all(file.placed in named for file in stored)
    since = "" if is_known else before.since if before is not None and before.since else now
    compared = is_known or any(file.sha256 for file in stored)
    found = Verification(name=args.name, date=now, since=since, compared=compared, files=_read_all(args.root, stored, context))
    write_atomic(args.result_path, found.model_dump_json() + "\n", mode=0o600)
    total = sum(file.size for file in found.files)
    damaged = list(found.damaged[:SHOWN_FILES])
    return {"name": args.name, "bytes": total, "files": len(found.files), "damaged": damaged, "compared": found.compared}


def _stored_before(paths: Sequence[str], before: Verification | None) -> tuple[StoredFile, ...]:
    """The files of one without a record: those that were there the last time must still be."""
    known = {file.path: file for file in before.files} if before is not None and before.since else {}
    rows = {path: known[path].expected if path in known else "" for path in (*known, *paths)}
    return tuple(StoredFile(path=path, placed=path, size=0, sha256=sha256) for path, sha256 in rows.items())


def _named_by_hash(root: Path, paths: Sequence[str]) -> dict[str, StoredFile]:
    """Files, or what they are links to, whose name is their hash: large ones by SHA-256, small ones as git does it."""
    named = {}
    for path in paths:
        name = (root / path).resolve().name.removeprefix("sha256-")
        if SHA256.fullmatch(name):
            named[path] = StoredFile(path=path, placed=path, size=0, sha256=name)
        elif GIT_SHA1.fullmatch(name) and (root / path).is_file():
            named[path] = StoredFile(path=path, placed=path, size=(root / path).stat().st_size, git_sha1=name)
    return named


def _read_all(root: Path, stored: Sequence[StoredFile], context: JobContext) -> tuple[CheckedFile, ...]:
    total = sum((root / file.placed).stat().st_size for file in stored if (root / file.placed).is_file())
    done = told_s = 0.0
    name = ""

    def read(count: int) -> None:
        nonlocal done, told_s
        done += count
        if time.monotonic() - told_s >= REPORT_S:
            told_s = time.monotonic()
            context.progress(done, total, "bytes", file=name)

    found = []
    for file in stored:
        name = file.placed
        found.append(_read_one(root / file.placed, file, read))
        if not found[-1].is_right:
            context.log(f"{file.placed} is damaged or missing")
    context.progress(done, total, "bytes", files_done=len(found), files=len(found))
    return tuple(found)


def _read_one(path: Path, file: StoredFile, read: Any) -> CheckedFile:
    """One file; without an expected hash it is right as it is."""
    try:
        if not path.is_file():  # a pipe would keep us waiting
            raise FileNotFoundError(path)
        state = path.stat()
        digest = hash_stored(path, file, read)
    except OSError:
        return CheckedFile(path=file.placed, expected=file.sha256 or file.git_sha1)
    expected = file.sha256 or file.git_sha1 or digest
    return CheckedFile(path=file.placed, size=state.st_size, mtime_ns=state.st_mtime_ns, expected=expected, found=digest)
