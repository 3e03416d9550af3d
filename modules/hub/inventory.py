"""Where installed models came from: the record beside each of them, what is newer at the hub, and what old downloads left behind.

The record is `paddock.json` in the model's folder; it names every file with its hash, so that it can be checked years later. Knows the
disk; asks the hub nothing by itself.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from modules.core.files import write_atomic
from modules.hub.choices import OWN_RECORD, Kind, repo_type_of, split_path, suffix_of
from modules.hub.lock import FileLock
from modules.hub.names import RepoType
from modules.hub.repository import Repository

PARTIAL_FOLDER = ".partial"  # below models/ and loras/: what is not whole yet
RECORD_LIMIT_BYTES = 4 << 20
BLOCK_BYTES = 1 << 20
LOCK_WAIT_S = 0.02


class StoredFile(BaseModel, frozen=True):
    """A file as it was fetched and where it lies."""

    path: str  # in the repository
    placed: str  # below the folder of the record
    size: int
    sha256: str = ""
    git_sha1: str = ""


class Provenance(BaseModel, frozen=True):
    """One download: what was fetched from where."""

    repo: str
    revision: str  # the branch that was asked for
    commit: str
    endpoint: str
    kind: Kind
    licence: str = ""
    gated: bool = False
    fetched: str = ""  # ISO 8601
    files: tuple[StoredFile, ...] = ()

    @property
    def repo_type(self) -> RepoType:
        """The kind of repository it came from."""
        return repo_type_of(self.kind)

    @property
    def total_bytes(self) -> int:
        """All its files together."""
        return sum(file.size for file in self.files)

    def is_same(self, other: Provenance) -> bool:
        """Whether the same files of the same commit are meant."""
        return (self.repo, self.commit, self.files) == (other.repo, other.commit, other.files)


class Record(BaseModel, frozen=True):
    """The content of `paddock.json`."""

    format: int = 1
    downloads: tuple[Provenance, ...] = ()


@dataclass(frozen=True)
class Installed:
    """A download that lies on the disk as a whole."""

    folder: Path
    provenance: Provenance

    def path_of(self, file: StoredFile) -> Path:
        """Where a file of it lies."""
        return self.folder / file.placed


@dataclass(frozen=True)
class Update:
    """What is newer at the hub."""

    commit: str
    changed: tuple[str, ...]  # other bytes under the same name
    removed: tuple[str, ...]  # no longer there

    @property
    def matters(self) -> bool:
        """Whether any file of the download is another one now."""
        return bool(self.changed or self.removed)


def read_record(folder: Path) -> Record:
    """The record of a folder; an absent or broken one is empty."""
    try:
        with (folder / OWN_RECORD).open("rb") as file:
            return Record.model_validate_json(file.read(RECORD_LIMIT_BYTES))
    except (OSError, ValidationError):
        return Record()


def add_to_record(folder: Path, provenance: Provenance, lock_path: Path | None = None) -> None:
    """Write down a download; an older one of the same files is replaced. Two at once wait for each other at the lock."""
    _add(folder, provenance, lock_path)


def installed(root: Path) -> tuple[Installed, ...]:
    """All downloads below models/, loras/ or datasets/ whose files are there, by folder."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")) if root.is_dir() else []
    found = (Installed(folder, provenance) for folder in folders for provenance in read_record(folder).downloads)
    return tuple(item for item in found if not _absent(item))


def _absent(item: Installed) -> bool:
    """Whether a file is missing or points out of its folder."""
    return not _is_inside(item) or not all(item.path_of(file).is_file() for file in item.provenance.files)


def _is_inside(item: Installed) -> bool:
    """Whether all its files lie in its folder: records are files that anybody may have written."""
    paths = [item.path_of(file) for file in item.provenance.files]
    return bool(paths) and all(path.resolve().is_relative_to(item.folder.resolve()) for path in paths)


def origin_of(root: Path, path: Path) -> Installed | None:
    """The download that brought the model at `path`, below `root`; some of its files may be missing. None if nothing is known of one."""
    parts = path.relative_to(root).parts
    inner = "/".join(parts[1:])
    is_folder = path.is_dir()
    if not inner and not is_folder:
        return None
    for provenance in reversed(read_record(root / parts[0]).downloads):
        item = Installed(root / parts[0], provenance)
        if is_folder:
            own = [file for file in provenance.files if split_path(file.placed)[0] == inner and suffix_of(file.placed) != ".gguf"]
        else:
            own = [file for file in provenance.files if file.placed == inner]
        if own and _is_inside(item) and any(item.path_of(file).is_file() for file in own):
            return item
    return None


def record_lock(folder: Path) -> Path:
    """The lock of whoever writes the record of a folder in models/ or loras/."""
    return folder.parent / PARTIAL_FOLDER / f"{hashlib.sha256(folder.name.encode()).hexdigest()[:16]}.record.lock"


def announce_rename(folder: Path, old: str, new: str) -> None:
    """Write into the record of a folder that what lies at `old` is about to lie at `new`; what it says of `old` stays, and counts for nothing once that is gone.

    Whoever is killed between this and the rename leaves a record that is right in both cases.
    """

    def moved(placed: str) -> str:
        return new + placed.removeprefix(old) if placed == old or placed.startswith(old + "/") else placed

    def present(known: Provenance) -> int:
        return sum((folder / file.placed).is_file() for file in known.files)

    for known in sorted(read_record(folder).downloads, key=present, reverse=True):  # what an earlier rename left behind comes last
        files = tuple(file.model_copy(update={"placed": moved(file.placed)}) for file in known.files)
        if files != known.files and known in read_record(folder).downloads:
            _add(folder, known.model_copy(update={"files": files}), before=known)


def forget_place(folder: Path, place: str) -> None:
    """Drop from the record of a folder what only speaks of something that no longer lies at `place`: another file of that name is another file."""
    with _writing(folder):
        known = read_record(folder).downloads
        present = {item: {file.placed for file in item.files if (folder / file.placed).is_file()} for item in known}
        gone = [
            item
            for item in known
            if any(file.placed == place or file.placed.startswith(place + "/") for file in item.files)
            and (not present[item] or any(present[item] < present[other] for other in known))
        ]
        if gone and not (folder / place).exists():
            _write(folder, [item for item in known if item not in gone])


def forget_files(folder: Path, places: frozenset[str]) -> None:
    """Drop from the record of a folder files that a person had deleted; the rest of their download stays known."""
    with _writing(folder):
        known = [(item, tuple(file for file in item.files if file.placed not in places)) for item in read_record(folder).downloads]
        if any(len(files) < len(item.files) for item, files in known):
            _write(folder, [item.model_copy(update={"files": files}) for item, files in known if files])


def _write(folder: Path, downloads: Iterable[Provenance]) -> None:
    write_atomic(folder / OWN_RECORD, Record(downloads=tuple(downloads)).model_dump_json(indent=1) + "\n")


@contextmanager
def _writing(folder: Path, lock_path: Path | None = None) -> Iterator[None]:
    with FileLock(lock_path or record_lock(folder)) as lock:
        while not lock.acquire():
            time.sleep(LOCK_WAIT_S)
        yield


def _add(folder: Path, provenance: Provenance, lock_path: Path | None = None, before: Provenance | None = None) -> None:
    """Write down a download; others of the same files go, but for the one it is about to follow."""
    placed = {file.placed for file in (*provenance.files, *(before.files if before else ()))}
    with _writing(folder, lock_path):
        known = read_record(folder).downloads
        others = [item for item in known if item == before or not placed & {file.placed for file in item.files}]
        _write(folder, (*others, provenance))


def find_update(provenance: Provenance, now: Repository) -> Update | None:
    """What changed since the download; None if the commit is still the newest."""
    if now.commit == provenance.commit:
        return None
    known = {file.path: (file.size, file.sha256 or file.git_sha1) for file in now.files}
    changed = [file.path for file in provenance.files if file.path in known and known[file.path] != (file.size, file.sha256 or file.git_sha1)]
    removed = [file.path for file in provenance.files if file.path not in known]
    return Update(now.commit, tuple(changed), tuple(removed))


def damaged_files(item: Installed) -> Iterator[str]:
    """Names of files whose bytes are no longer those that were fetched; reads everything, so it takes a while."""
    for file in item.provenance.files:
        try:
            is_right = hash_stored(item.path_of(file), file) == (file.sha256 or file.git_sha1)
        except OSError:
            is_right = False
        if not is_right:
            yield file.placed


def is_stored(content: bytes, file: StoredFile) -> bool:
    """Whether these bytes are those that were fetched as that file."""
    digest = hashlib.sha256(content) if file.sha256 else hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return len(content) == file.size and digest.hexdigest() == (file.sha256 or file.git_sha1)


def hash_stored(path: Path, file: StoredFile, read: Callable[[int], None] = lambda count: None) -> str:
    """The hash of the kind by which a stored file is known; `read` is told of the bytes as they come."""
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False) if file.git_sha1 and not file.sha256 else hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            read(len(block))
    return digest.hexdigest()


def sweep(root: Path, older_than_s: float) -> int:
    """Remove what downloads left unfinished for so long and nobody is working on; gives the bytes that are free again."""
    freed = 0
    folder = root / PARTIAL_FOLDER
    for staging in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not staging.is_dir():
            continue
        with FileLock(staging_lock(staging)) as lock:
            if not lock.acquire():
                continue
            files = [path for path in staging.rglob("*") if path.is_file()]
            newest = max((path.stat().st_mtime for path in (staging, *files)), default=0.0)
            if time.time() - newest >= older_than_s:
                freed += sum(path.stat().st_size for path in files)
                shutil.rmtree(staging, ignore_errors=True)
    for path in folder.glob("*.lock"):  # of processes that were killed
        with FileLock(path) as lock:
            lock.acquire()
    return freed


def staging_lock(staging: Path) -> Path:
    """The lock of whoever works in a folder of unfinished files."""
    return staging.with_name(staging.name + ".lock")
