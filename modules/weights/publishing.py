"""Results that appear as a whole or not at all: made below `.partial` of their own disk, given their name by one rename, never over something.

What a killed job left behind is removed by whoever comes next. Knows nothing of what is made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from modules.core.errors import AppError
from modules.core.files import path_below, sync_folder
from modules.hub.inventory import PARTIAL_FOLDER, staging_lock
from modules.hub.lock import FileLock
from modules.loaders.machine import size_text

STAGING_PREFIX = "made-"  # beside the folders of downloads, which are resumed; these begin anew
RESERVE_BYTES = 256 << 20  # kept back, so that the rest of the server goes on
NUMBERS_TRIED = 1000
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


@contextlib.contextmanager
def staging(root: Path, key: str) -> Iterator[Path]:
    """An empty folder on the disk of `root`, gone afterwards whatever happens; what it lay in goes too, unless others need it.

    Raises:
        AppError: the disk refused, also while the caller writes.
    """
    folder = root / PARTIAL_FOLDER / f"{STAGING_PREFIX}{key}"
    try:
        remove_abandoned(root)
        with FileLock(staging_lock(folder)) as lock:
            if not lock.acquire():
                raise AppError("Another process works on the same job; wait for it to end.")
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise _disk_error(error, root) from error
    finally:
        _remove_if_empty(folder.parent)


def remove_abandoned(root: Path) -> None:
    """Remove what killed jobs left behind in `root`: nobody holds the lock of it any more."""
    for path in sorted((root / PARTIAL_FOLDER).glob(f"{STAGING_PREFIX}*")):
        with FileLock(path if path.suffix == ".lock" else staging_lock(path)) as lock:
            if lock.acquire() and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
    _remove_if_empty(root / PARTIAL_FOLDER)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # others work in it, or have something to go on with, or it is gone
        folder.rmdir()


def check_room(root: Path, needed_bytes: int) -> None:
    """Refuse before anything is written what the disk cannot hold.

    Raises:
        AppError: with what is needed, what is free, and the cure.
    """
    free = shutil.disk_usage(root).free
    if free < needed_bytes + RESERVE_BYTES:
        raise AppError(
            f"The result needs {size_text(needed_bytes)} and {size_text(max(0, free - RESERVE_BYTES))} is free on the disk of {root.name}/ "
            f"({size_text(RESERVE_BYTES)} are kept back); free some space, then try again."
        )


def _disk_error(error: OSError, root: Path) -> AppError:
    if error.errno in FULL_DISK:
        return AppError(f"The disk of {root.name}/ is full and nothing was kept; free some space, then try again.")
    return AppError(f"{root.name}/ cannot be used: {error.strerror or error}; check the disk and its permissions, then try again.")


def numbered(name: str, suffix: str = "") -> tuple[str, ...]:
    """A name, then the same with numbers, each with the suffix."""
    room = 100 - len(suffix)
    return (name[:room] + suffix, *(f"{name[: room - 5]}-{number}{suffix}" for number in range(2, NUMBERS_TRIED)))


def publish_file(made: Path, root: Path, names: Sequence[str]) -> Path:
    """Give a finished file the first name that is free.

    Raises:
        AppError: none is.
        OSError: the disk refused.
    """
    for target in (path_below(root, name) for name in names):
        if target.exists():
            continue
        try:
            os.link(made, target)  # refuses a name that was taken meanwhile, which a rename would not
            made.unlink()
        except FileExistsError:
            continue
        except OSError:  # a disk without links
            made.rename(target)
        sync_folder(root)
        return target
    raise _all_taken(names)


def publish_folder(made: Path, root: Path, names: Sequence[str]) -> Path:
    """Give a finished folder the first name that is free.

    Raises:
        AppError: none is.
        OSError: the disk refused.
    """
    sync_folder(made)
    for target in (path_below(root, name) for name in names):
        if target.exists():
            continue
        try:
            made.rename(target)  # refuses a folder that came meanwhile
        except OSError as error:
            if error.errno in TAKEN:
                continue
            raise
        sync_folder(root)
        return target
    raise _all_taken(names)


def _all_taken(names: Sequence[str]) -> AppError:
    return AppError(f"“{names[0]}” and all numbered names after it are taken; delete or rename one of them.")
