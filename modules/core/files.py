"""Files that must not be torn or escaped: atomic writes, names below a folder, bounded YAML.

Knows nothing of what the files mean.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from modules.core.errors import InvalidRequest, NotFound

NAME_PATTERN = re.compile(r"[\w][\w .()+\-]{0,99}", re.UNICODE)
RESERVED_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))})
YAML_LIMIT_BYTES = 256 * 1024
YAML_DEPTH_LIMIT = 16
YAML_NODE_LIMIT = 20_000

Content = TypeVar("Content")


class ReadFiles(Generic[Content]):
    """What files say, read again only when their time of change or size is another one."""

    def __init__(self, read: Callable[[Path], Content]) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int], Content]] = {}

    def of(self, path: Path) -> Content:
        """What a file says now.

        Raises:
            FileNotFoundError: it is not there.
        """
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, self._read(path))
        return known[1]

    def forget(self, path: Path) -> None:
        """It was written or removed just now."""
        self._known.pop(path, None)


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replace a file as a whole: old or new content, never a part, also after kill -9 or on a full disk."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checked_name(name: str, what: str = "name", field: str = "") -> str:
    """A name that can be a file name everywhere, or `InvalidRequest` with the rule; `field` is where it was typed, if that is called otherwise."""
    trimmed = name.strip()
    if not NAME_PATTERN.fullmatch(trimmed) or trimmed.endswith(".") or trimmed.split(".")[0].lower() in RESERVED_NAMES:
        raise InvalidRequest(
            f"“{name[:60]}” cannot be a {what}: use 1 to 100 letters, digits, spaces and . ( ) + - _, beginning with a letter or digit.",
            field=field or what,
        )
    return trimmed


def path_below(root: Path, name: str, suffix: str = "", what: str = "name") -> Path:
    """The path of a checked name inside `root`; refuses anything that would leave it, symbolic links too."""
    path = root / (checked_name(name, what) + suffix)
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        raise InvalidRequest(f"“{name}” points outside its folder; rename it or copy the file in.", field=what)
    return path


def relative_below(root: Path, name: str, what: str = "model") -> Path:
    """An existing path like `folder/file.gguf` below `root`; each part is checked.

    Raises:
        NotFound: no such file or folder.
    """
    parts = name.replace("\\", "/").split("/")
    for part in parts:
        checked_name(part, what)
    path = root.joinpath(*parts)
    if not path.exists():
        raise NotFound(f"There is no {what} “{name}”. Choose one from the list or put it into {root.name}/.")
    return path


def read_yaml(text: str, source: str) -> Any:
    """Parse one small YAML document without anchors, tags or deep nesting.

    Raises:
        InvalidRequest: naming `source` and what is wrong with it.
    """
    if len(text.encode()) > YAML_LIMIT_BYTES:
        raise InvalidRequest(f"{source} is larger than {YAML_LIMIT_BYTES // 1024} KiB; shorten it.")
    depth = nodes = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            nodes += 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise InvalidRequest(f"{source} uses YAML anchors or tags; write the values out.")
            if depth > YAML_DEPTH_LIMIT or nodes > YAML_NODE_LIMIT:
                raise InvalidRequest(f"{source} is nested deeper than {YAML_DEPTH_LIMIT} or has more than {YAML_NODE_LIMIT} entries.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"{source} is not valid YAML: {str(error).splitlines()[0] if str(error) else error!r}.") from error


def read_choices(path: Path) -> dict[str, Any]:
    """The mapping in a small YAML file of choices; one that is missing or broken counts as empty."""
    try:
        stored = read_yaml(path.read_text(encoding="utf-8"), path.name)
    except (OSError, InvalidRequest, UnicodeDecodeError):
        return {}
    return stored if isinstance(stored, dict) else {}


class _Dumper(yaml.SafeDumper):
    """Writes the line ends that only YAML knows as escapes: bare, they would be read back as spaces or newlines."""

    def choose_scalar_style(self) -> str:
        """The quotes of a text."""
        text = getattr(self.event, "value", "")
        return '"' if any(end in text for end in "\x85\u2028\u2029") else str(super().choose_scalar_style())


def dump_yaml(value: Any) -> str:
    """YAML text in the order given, which `read_yaml` gives back."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_object(path: Path, limit_bytes: int) -> dict[str, Any]:
    """The JSON object in a small file; an empty one where there is none, or it is damaged or too large."""
    try:
        if path.stat().st_size > limit_bytes:
            return {}
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}
