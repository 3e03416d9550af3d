"""Folders in which other programs keep their models: the cache of the hub's own client, LM Studio, Ollama, or any other folder. Only read.

Knows where each program puts what, and gives every model a name that stays the same and is no path. A link that leads out of its folder is
not followed. Reads names and Ollama's manifests; headers are read in `model_info.py`.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.loaders.model_paths import PART, leads_out, read_only_paths

log = logging.getLogger(__name__)

ENTRY_LIMIT = 20_000
MANIFEST_BYTES = 1 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")
SHORT_COMMIT = 12
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_HOST, OLLAMA_OWNER = "registry.ollama.ai", "library"  # what its own names leave out


@dataclass(frozen=True)
class Found:
    """A file or folder that may be a model."""

    name: str  # in its folder
    path: Path
    problem: str = ""  # why it is not read


@dataclass(frozen=True)
class FolderKind:
    """A program and how it keeps its models."""

    name: str
    title: str
    usual: Callable[[Mapping[str, str], Path], tuple[Path, ...]]  # environment, home → where it keeps them, the likeliest first
    fits: Callable[[Path], bool]  # whether a folder looks like one of its own
    find: Callable[[Path], Iterator[Found]]


@dataclass(frozen=True)
class OtherFolder:
    """One such folder of this machine."""

    tag: str  # names of its models begin with it and a colon
    kind: str
    path: Path

    @property
    def title(self) -> str:
        """The program, for people."""
        return kind_named(self.kind).title

    def models(self, name: str = "") -> Iterator[Found]:
        """Candidates with their whole names, or only the one of that name; what is not read has the reason.

        What may not be looked into, or goes away meanwhile, ends the list.
        """
        try:
            yield from self._models(name)
        except (OSError, RuntimeError) as error:
            log.warning("%s cannot be looked through: %s", self.path, error)

    def _models(self, name: str) -> Iterator[Found]:
        base = self.path.resolve()
        for found in kind_named(self.kind).find(self.path):
            whole = f"{self.tag}:{found.name}"
            if name and whole != name:
                continue
            outside = "" if found.problem else _outside(base, found.path)
            problem = found.problem or (
                f"{outside} is a link that leads out of {self.path}, and such links are not followed. Add the folder in which it really lies, or copy it into models/."
                if outside
                else ""
            )
            yield Found(whole, found.path, problem)


def _outside(base: Path, path: Path) -> str:
    """The name of a link that leads out of a folder, among the files of a model; empty if there is none."""
    part = PART.fullmatch(path.name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() != ".gguf" and not file.is_dir())  # those are models of their own
    else:
        files = sorted(path.parent.glob(f"{glob.escape(part['stem'])}-*")) if part else []
    return next((file.name for file in (path, *files) if leads_out(base, file)), "")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of somebody whom this machine does not know
        return Path(path)


# ---- any folder, LM Studio -----------------------------------------------------------------------------------------


def _plain_models(root: Path) -> Iterator[Found]:
    for path in read_only_paths(root):
        yield Found(path.relative_to(root).as_posix() if path != root else root.name, path)


# ---- the hub's cache -----------------------------------------------------------------------------------------------


def _hub_cache_places(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    named = [environ.get("HF_HUB_CACHE", ""), *(f"{environ[name]}/{inner}" for name, inner in (("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")) if environ.get(name))]
    return (*(_expanded(path) for path in named if path), home / ".cache" / "huggingface" / "hub")


def _hub_cache_models(root: Path) -> Iterator[Found]:
    """Every commit of every repository; its files are links to blobs beside it."""
    for repository in _folders(root, "models--"):
        for snapshot in _folders(repository / "snapshots", ""):
            commit = snapshot.name[:SHORT_COMMIT] if COMMIT.fullmatch(snapshot.name) else snapshot.name
            name = repository.name.removeprefix("models--").replace("--", "/") + "@" + commit
            for path in read_only_paths(snapshot):
                yield Found(name if path == snapshot else f"{name}/{path.relative_to(snapshot).as_posix()}", path)
            for path in _dead_links(snapshot):
                yield Found(f"{name}/{path.name}", path, f"What {path.name} leads to is no longer in the cache; fetch it again with the program that put it there.")


def _folders(root: Path, prefix: str) -> list[Path]:
    try:
        return sorted(entry for entry in root.iterdir() if entry.name.startswith(prefix) and not entry.name.startswith(".") and entry.is_dir())[:ENTRY_LIMIT]
    except OSError:
        return []


def _dead_links(snapshot: Path) -> list[Path]:
    return sorted(entry for entry in snapshot.iterdir() if entry.suffix in (".gguf", ".safetensors") and entry.is_symlink() and not entry.exists())


# ---- Ollama --------------------------------------------------------------------------------------------------------


def _ollama_places(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    named = environ.get("OLLAMA_MODELS", "")
    return (*([_expanded(named)] if named else []), home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))


def _ollama_models(root: Path) -> Iterator[Found]:
    """Manifests lie at host/owner/name/tag and name the blob that is the model: a GGUF file without an ending."""
    manifests = root / "manifests"
    for host in _folders(manifests, ""):
        for owner in _folders(host, ""):
            for model in _folders(owner, ""):
                for manifest in sorted(entry for entry in model.iterdir() if entry.is_file() and not entry.name.startswith(".")):
                    parts = [host.name, owner.name] if host.name != OLLAMA_HOST else [owner.name] if owner.name != OLLAMA_OWNER else []
                    yield _ollama_model(root, manifest, "/".join([*parts, f"{model.name}:{manifest.name}"]))


def _ollama_model(root: Path, manifest: Path, name: str) -> Found:
    again = f"Fetch it again: ollama pull {name}."
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(MANIFEST_BYTES))["layers"]
        layer = next((layer for layer in layers if layer["mediaType"] == OLLAMA_MODEL), None)
        if layer is None:
            return Found(name, manifest, f"{name} has no model of its own on this machine: its manifest names none.")
        digest, size = str(layer["digest"]), layer.get("size")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Found(name, manifest, f"Ollama's manifest of {name} cannot be read. {again}")
    if not DIGEST.fullmatch(digest):
        return Found(name, manifest, f"Ollama's manifest of {name} names no file that can be one of its own. {again}")
    blob = root / "blobs" / digest.replace(":", "-")
    if not blob.is_file():
        return Found(name, manifest, f"The file of {name} is not there. {again}")
    if isinstance(size, int) and blob.stat().st_size != size:
        return Found(name, blob, f"The file of {name} has {blob.stat().st_size} bytes, its manifest says {size}. {again}")
    return Found(name, blob)


KINDS: tuple[FolderKind, ...] = (
    FolderKind("hf", "Hugging Face cache", _hub_cache_places, lambda path: bool(_folders(path, "models--")), _hub_cache_models),
    FolderKind("ollama", "Ollama", _ollama_places, lambda path: (path / "manifests").is_dir() and (path / "blobs").is_dir(), _ollama_models),
    FolderKind(
        "lmstudio",
        "LM Studio",
        lambda _, home: (home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"),
        lambda path: path.is_dir() and bool({".lmstudio", "lm-studio"} & set(path.parts)),
        _plain_models,
    ),
    FolderKind("folder", "Folder", lambda environ, home: (), lambda path: path.is_dir(), _plain_models),
)


def kind_named(name: str) -> FolderKind:
    """The kind of that name; an unknown one is any folder."""
    return next((kind for kind in KINDS if kind.name == name), KINDS[-1])


def recognised(path: Path) -> tuple[FolderKind, Path]:
    """What a folder is, and the folder meant: people name a program's folder, its models lie in one inside."""
    for kind in KINDS[:-1]:
        for place in (path, path / "hub", path / "models"):
            if _fits(kind, place):
                return kind, place
    return KINDS[-1], path


def usual_folders(environ: Mapping[str, str], home: Path) -> tuple[tuple[FolderKind, Path], ...]:
    """The folders of other programs that are on this machine and hold something."""
    found = ((kind, path) for kind in KINDS for path in kind.usual(environ, home))
    return tuple(dict.fromkeys((kind, path.resolve()) for kind, path in found if _fits(kind, path)))


def _fits(kind: FolderKind, path: Path) -> bool:
    """Whether a folder looks like one of a program and holds something; one that may not be looked into does not."""
    try:
        return kind.fits(path) and any(path.iterdir())
    except OSError:
        return False
