"""What the hub says about models: rows of a search, a repository at one commit with its files, an account.

Values only. Text in them comes from the hub: it may be shown, escaped, and is never used as a path before `names.py` has checked it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LICENCE_TAG = "license:"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: large ones are known by their SHA-256, small ones by their git blob hash."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class Repository:
    """A model repository at one commit."""

    repo: str
    commit: str
    revision: str = "main"  # the branch that was asked for
    gated: bool = False
    private: bool = False
    licence: str = ""
    task: str = ""
    updated: str = ""  # ISO 8601, empty if unknown
    downloads: int = 0
    likes: int = 0
    parameters: int = 0  # 0 if unknown
    tags: tuple[str, ...] = ()
    files: tuple[RemoteFile, ...] = ()

    def file(self, path: str) -> RemoteFile | None:
        """The file of that path."""
        return next((file for file in self.files if file.path == path), None)

    @property
    def total_bytes(self) -> int:
        """All files together."""
        return total_bytes(self.files)


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """What models must be like to be found; empty and 0 leave a thing open."""

    author: str = ""
    task: str = ""  # like text-generation
    library: str = ""  # gguf or safetensors
    licence: str = ""  # like apache-2.0
    least_parameters: int = 0
    most_parameters: int = 0

    def params(self) -> list[tuple[str, str]]:
        """As the hub is asked."""
        bounds = [("min", self.least_parameters), ("max", self.most_parameters)]
        size = ",".join(f"{name}:{_short(count)}" for name, count in bounds if count > 0)
        wanted = [
            ("author", self.author), ("pipeline_tag", self.task), ("filter", self.library),
            ("filter", f"{LICENCE_TAG}{self.licence}" if self.licence else ""), ("num_parameters", size),
        ]  # fmt: skip
        return [(name, value) for name, value in wanted if value]

    def holds(self, row: SearchRow) -> bool:
        """Whether a row is of the size that was asked for: the hub may count otherwise. One whose size is not known is not."""
        if not self.least_parameters and not self.most_parameters:
            return True
        return bool(row.parameters) and row.parameters >= self.least_parameters and (not self.most_parameters or row.parameters <= self.most_parameters)


def _short(parameters: int) -> str:
    """A number of parameters as the hub writes it, in millions."""
    return f"{max(1, round(parameters / 1e6))}M"


@dataclass(frozen=True, slots=True)
class SearchRow:
    """One model found."""

    repo: str
    downloads: int = 0
    likes: int = 0
    updated: str = ""
    task: str = ""
    licence: str = ""
    gated: bool = False
    parameters: int = 0  # 0 if unknown
    formats: tuple[str, ...] = ()  # gguf, safetensors
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """Whose token it is."""

    name: str
    full_name: str = ""


def total_bytes(files: Sequence[RemoteFile]) -> int:
    """The size of files together."""
    return sum(file.size for file in files)
