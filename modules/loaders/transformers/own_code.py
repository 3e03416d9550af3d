"""The Python files that a model folder brings, for the one folder whose code the command line trusts: copied, compared with their hashes, and only then imported.

The one place that imports code of a folder. What is imported comes from a copy that only this account reads; the folder itself, another
repository and the network have no say. Knows nothing of records and commits: the permission names files and hashes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from modules.core.errors import LoadFailed, MissingRequirement, UnsupportedFormat, first_line
from modules.core.trusted_code import TrustedCode, read_code_file
from modules.loaders.folder_header import FolderHeader, read_json

REFERENCE = re.compile(r"([A-Za-z_]\w*)\.[A-Za-z_]\w*", re.ASCII)


class OwnCode:
    """The classes of one folder."""

    def __init__(self, header: FolderHeader, trusted: TrustedCode) -> None:
        """Check what config.json names, and copy the files.

        Raises:
            UnsupportedFormat: it names code of another repository, or code that is not there.
            LoadFailed: a file is not the one that was looked at.
        """
        self._name = header.path.name
        self._classes = named_classes(header)
        for reference in self._classes.values():
            match = REFERENCE.fullmatch(reference)
            if "--" in reference:
                raise UnsupportedFormat(f"{self._name} wants code of another repository ({reference[:120]}), which is never run; choose another model.")
            if match is None or f"{match[1]}.py" not in trusted.files:
                raise UnsupportedFormat(f"{self._name} names code that is not in its folder ({reference[:120]}); fetch that Python file too, with server.py download and --file.")
        self._copy = _private_copy(trusted)
        self.note = f"This model runs Python files of its own ({', '.join(sorted(trusted.files))[:200]}), as --trust-code allows for {trusted.pin}."

    def find(self, kind: str) -> Any:
        """The class that the folder has for `AutoConfig`, `AutoModelForCausalLM` or `AutoTokenizer`; None if it has none.

        Raises:
            MissingRequirement: its code needs a package that is not there.
            LoadFailed: its code fails.
        """
        reference = self._classes.get(kind)
        if not reference:
            return None
        try:
            return self._imported(reference)
        except MemoryError:
            raise
        except ImportError as error:
            raise MissingRequirement(f"The code of {self._name} needs a package that is not installed ({first_line(error)}); install it, or choose another model.") from error
        except Exception as error:  # it may raise anything
            raise LoadFailed(f"The code of {self._name} fails ({type(error).__name__}: {first_line(error)}); it may be made for another version of transformers.") from error

    def _imported(self, reference: str) -> Any:
        import transformers.dynamic_module_utils as library

        library.HF_MODULES_CACHE = str(self._copy / "imported")  # else the account's own, where files of other programs lie
        return library.get_class_from_dynamic_module(reference, str(self._copy / "files"), local_files_only=True)


def named_classes(header: FolderHeader) -> dict[str, str]:
    """What a folder's configs name as code of its own: kind → file.Class. A fast tokenizer goes before a slow one."""
    found: dict[str, str] = {}
    for config in _configs(header):
        names = config.get("auto_map")
        if isinstance(names, list):  # of a tokenizer, as older versions wrote it
            names = {"AutoTokenizer": names}
        for kind, value in names.items() if isinstance(names, dict) else ():
            given = [part for part in (value if isinstance(value, list) else [value]) if part]
            if given:
                found[str(kind)] = str(given[-1])
                if foreign := next((str(part) for part in given if "--" in str(part)), ""):
                    found[str(kind)] = foreign
    return found


def _configs(header: FolderHeader) -> Iterator[Mapping[str, Any]]:
    yield header.config
    if (header.path / "tokenizer_config.json").is_file():
        yield read_json(header.path / "tokenizer_config.json")


def code_files(header: FolderHeader) -> tuple[str, ...]:
    """The Python files that a folder's configs name, whether they are there or not."""
    matches = (REFERENCE.fullmatch(reference) for reference in named_classes(header).values())
    return tuple(sorted({f"{match[1]}.py" for match in matches if match is not None}))


def _private_copy(trusted: TrustedCode) -> Path:
    """The files as they were looked at, where only this account writes; copies of processes that are gone are deleted.

    Raises:
        LoadFailed: a file is another one by now.
    """
    room = Path(trusted.room)
    room.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in room.iterdir():
        if left.name.isdigit() and not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(trusted.copy_folder, ignore_errors=True)
    trusted.copy_folder.mkdir(mode=0o700)
    files = trusted.copy_folder / "files"
    for name, sha256 in trusted.files.items():
        source = Path(trusted.folder) / name
        try:
            content = read_code_file(source)
        except (OSError, ValueError):
            content = b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LoadFailed(f"{name} of {Path(trusted.folder).name} was changed while it was loaded, so nothing was run; load it again.")
        target = files / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return trusted.copy_folder
