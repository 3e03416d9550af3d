"""What can be taken from a repository: its files grouped into choices of a person, the rest named with the reason it is not offered.

Goes by names, sizes and, where it is given, the index of the weights; no file is read. Knows nothing of the hub or of the disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from modules.core.errors import InvalidRequest, NotFound
from modules.hub.names import RepoRef, RepoType, checked_path, quantization_in, shown
from modules.hub.repository import RemoteFile, total_bytes

Kind = Literal["gguf", "folder", "adapter", "file", "dataset"]

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.(?P<suffix>gguf|safetensors)", re.IGNORECASE)
NAMED_PART = re.compile(r"(?P<stem>.+)-[0-9]{5}-of-(?P<total>[0-9]{5})\.(?P<suffix>bin|pt|pth|safetensors)")
INDEX = ".safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SMALL_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken")
SMALL_NAMES = frozenset({"readme.md", "license", "license.md", "licence", "licence.md", "notice"})
TEMPLATE_FOLDER = "additional_chat_templates"
OWN_RECORD = "paddock.json"  # this program's own record of where a model came from
PICKLE = "can run any program when it is opened; look for a safetensors or GGUF version of the model"
CODE = "is program code, which is never taken from a hub unless it is asked for by its name"
OTHER_ENGINE = "is for another engine; look for a safetensors or GGUF version of the model"
ARCHIVE = "is an archive; look for the model's own files"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".dill", ".nemo"), PICKLE),
        **dict.fromkeys((".py", ".pyc", ".ipynb", ".sh", ".bat", ".ps1", ".exe", ".dll", ".so", ".dylib", ".js", ".jar", ".msi"), CODE),
        **dict.fromkeys((".onnx", ".onnx_data", ".msgpack", ".h5", ".keras", ".tflite", ".ot", ".mlmodel", ".pb", ".engine", ".llamafile"), OTHER_ENGINE),
        **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar", ".zst"), ARCHIVE),
    }
)


def repo_type_of(kind: Kind) -> RepoType:
    """The kind of repository that holds such a thing."""
    return "dataset" if kind == "dataset" else "model"


@dataclass(frozen=True)
class Choice:
    """One thing to download: all its files, or none."""

    label: str
    kind: Kind
    files: tuple[RemoteFile, ...]
    quantization: str = ""
    is_addon: bool = False  # a projector: of use only beside a model
    notes: tuple[str, ...] = ()
    problem: str = ""  # why it cannot be taken; empty if it can

    @property
    def total_bytes(self) -> int:
        """All its files together."""
        return total_bytes(self.files)


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not offered, and why: “model.bin” “can run any program …”."""

    path: str
    reason: str


@dataclass(frozen=True)
class Choices:
    """What a repository offers; models by size, then adapters, then projectors."""

    choices: tuple[Choice, ...]
    refused: tuple[Refused, ...]

    def pick(self, ref: RepoRef) -> Choice | None:
        """The choice a link or a tag names; None if it names none.

        Raises:
            NotFound: a quantization that is not there.
        """
        for choice in self.choices:
            if ref.path and any(file.path == ref.path for file in choice.files):
                return choice
            if ref.quantization and choice.quantization == ref.quantization and not choice.is_addon:
                return choice
        if ref.quantization:
            found = sorted({choice.quantization for choice in self.choices if choice.quantization})
            raise NotFound(f"{ref.repo} has no {ref.quantization}; it has {', '.join(found) or 'no GGUF files'}.", field="repo")
        return None


def group(files: Sequence[RemoteFile], shards: Mapping[str, Sequence[str]] | None = None) -> Choices:
    """The choices of a repository; `shards` names the weight files of an index file, by its path, where it has been read."""
    safe: list[RemoteFile] = []
    refused: list[Refused] = []
    for file in files:
        reason = _refusal(file.path)
        if reason:
            refused.append(Refused(file.path, reason))
        else:
            safe.append(file)
    found = [*_gguf_choices(safe), *_folder_choices(safe, shards or {}, refused)]
    return Choices(tuple(sorted(found, key=_order)), tuple(refused))


def named_file(files: Sequence[RemoteFile], path: str) -> Choice:
    """One file that a person asked for by its name, whatever it is.

    Raises:
        NotFound: not in the repository.
        InvalidRequest: a name that is not safe on a disk.
    """
    file = next((file for file in files if file.path == path), None)
    if file is None:
        raise NotFound(f"The repository has no file “{shown(path)}”; choose one of its list.", field="files")
    reason = REFUSED.get(suffix_of(checked_path(path)), "")
    notes = (f"{path} {reason}.",) if reason else ()
    return Choice(path, "file", (file,), quantization_in(path), notes=notes)


def with_named(files: Sequence[RemoteFile], choice: Choice | None, paths: Sequence[str]) -> Choice:
    """A choice, or the small files of a folder without one, and beside them files that a person asked for by their names; of a part all parts.

    Raises:
        NotFound: one is not in the repository.
        InvalidRequest: a name that is not safe on a disk, or a choice that takes no others.
    """
    named = [name for path in paths for name in _all_parts(named_file(files, path).label, files)]
    folder = split_path(named[0])[0]
    if choice is None:
        beside = [file for file in files if split_path(file.path)[0] == folder and not _refusal(file.path) and _is_small(split_path(file.path)[1])]
        kind: Kind = "adapter" if all(split_path(name)[1].startswith("adapter_model.") for name in named) else "folder"
        choice = Choice(folder or kind, kind, tuple(beside))
    elif choice.kind not in ("folder", "adapter"):
        raise InvalidRequest(f"Files are taken by name beside a safetensors folder or an adapter; {choice.label} is neither. Leave --file out.", field="files")
    known = {file.path for file in choice.files}
    more = tuple(file for file in files if file.path in set(named) and file.path not in known)
    notes = tuple(f"{file.path} {REFUSED[suffix_of(file.path)]}" for file in more if suffix_of(file.path) in REFUSED)
    return replace(choice, files=(*choice.files, *more), notes=(*choice.notes, *notes), problem="")


def _all_parts(path: str, files: Sequence[RemoteFile]) -> list[str]:
    match = NAMED_PART.fullmatch(path)
    if match is None:
        return [path]
    shape = re.compile(rf"{re.escape(match['stem'])}-[0-9]{{5}}-of-{match['total']}\.{match['suffix']}")
    return [file.path for file in files if shape.fullmatch(file.path)]


def suffix_of(path: str) -> str:
    """The suffix of a path, in small letters: “.gguf”."""
    name = path.rpartition("/")[2]
    return "." + name.rpartition(".")[2].lower() if "." in name else ""


def split_path(path: str) -> tuple[str, str]:
    """Folder and name."""
    folder, _, name = path.rpartition("/")
    return folder, name


def missing_parts(paths: Iterable[str]) -> tuple[str, ...]:
    """Names of the numbered parts that a set of files lacks."""
    known = frozenset(paths)
    missing = []
    for path in sorted(known):
        match = PART.fullmatch(path)
        total = int(match["total"]) if match else 0
        if match and total <= 9999:
            names = [f"{match['stem']}-{number:05d}-of-{match['total']}.{match['suffix']}" for number in range(1, total + 1)]
            missing += [name for name in names if name not in known and name not in missing]
    return tuple(missing)


def _refusal(path: str) -> str:
    try:
        checked_path(path)
    except InvalidRequest:
        return "" if split_path(path)[1].startswith(".git") else "has a name that is not safe on a disk"
    if split_path(path)[1].lower() == OWN_RECORD:
        return "has the name of Paddock's own record"
    return REFUSED.get(suffix_of(path), "")


def _order(choice: Choice) -> tuple[int, int, str]:
    rank = 3 if choice.is_addon else {"gguf": 0, "folder": 0, "adapter": 1, "file": 2}[choice.kind]
    return rank, choice.total_bytes, choice.label


def _is_imatrix(path: str) -> bool:
    name = split_path(path)[1].lower()
    return name.startswith("imatrix") or ("imatrix" in name and not quantization_in(name))


def _gguf_choices(files: Sequence[RemoteFile]) -> list[Choice]:
    """One choice for each GGUF model, whether it is one file or numbered parts."""
    sets: dict[tuple[str, str], list[RemoteFile]] = {}
    for file in files:
        if suffix_of(file.path) == ".gguf" and not _is_imatrix(file.path):
            match = PART.fullmatch(file.path)
            sets.setdefault((match["stem"], match["total"]) if match else (file.path[:-5], ""), []).append(file)
    return [_gguf_choice(stem, sorted(found, key=lambda file: file.path)) for (stem, _), found in sets.items()]


def _gguf_choice(stem: str, files: list[RemoteFile]) -> Choice:
    name = split_path(stem)[1]
    is_addon = "mmproj" in name.lower()
    notes = ["lets the models of this repository see images: download it too, then load the model again"] if is_addon else []
    if len(files) > 1:
        notes.append(f"{len(files)} parts, taken together")
    if "lora" in name.lower():
        notes.append("by its name a LoRA adapter: if it is one, choose “adapter”")
    missing = missing_parts(file.path for file in files)
    problem = f"{len(missing)} of its parts are missing in the repository, first {missing[0]}; choose another." if missing else ""
    return Choice(stem, "gguf", tuple(files), quantization_in(stem), is_addon, tuple(notes), problem)


def _folder_choices(files: Sequence[RemoteFile], shards: Mapping[str, Sequence[str]], refused: list[Refused]) -> list[Choice]:
    """One choice for each folder with safetensors weights: a model that transformers loads, or an adapter."""
    folders: dict[str, dict[str, RemoteFile]] = {}
    for file in files:
        folder, name = split_path(file.path)
        folders.setdefault(folder, {})[name] = file
    found = []
    for folder, names in folders.items():
        weights = [name for name in names if suffix_of(name) == ".safetensors"]
        if ADAPTER_CONFIG in names:
            found += _adapter(folder, names, refused)
            weights = [name for name in weights if not name.startswith("adapter_")]
        if weights:
            found.append(_folder(folder, names, weights, folders, shards))
    return found


def _adapter(folder: str, names: Mapping[str, RemoteFile], refused: Sequence[Refused]) -> list[Choice]:
    label = folder or "LoRA adapter"
    if ADAPTER_WEIGHTS in names:
        return [Choice(label, "adapter", tuple(file for name, file in names.items() if name == ADAPTER_WEIGHTS or _is_small(name)))]
    pickles = [row.path for row in refused if split_path(row.path) == (folder, "adapter_model.bin")]
    if not pickles:
        return []
    problem = f"Its weights are only there as {pickles[0]}, which {PICKLE.partition(';')[0]}; ask the owner for {ADAPTER_WEIGHTS}."
    return [Choice(label, "adapter", (names[ADAPTER_CONFIG],), problem=problem)]


def _is_small(name: str) -> bool:
    return name.endswith(SMALL_SUFFIXES) or name.lower() in SMALL_NAMES


def _folder(
    folder: str,
    names: Mapping[str, RemoteFile],
    weights: Sequence[str],
    folders: Mapping[str, Mapping[str, RemoteFile]],
    shards: Mapping[str, Sequence[str]],
) -> Choice:
    """A model as transformers keeps it: one set of weights and the small files beside it."""
    stem, chosen, problem = _weight_set(folder, names, weights, shards)
    others = [name for name in weights if name not in chosen]
    small = [name for name in names if _is_small(name) and (not name.endswith(INDEX) or name == stem + INDEX) and name != ADAPTER_CONFIG]
    below = folders.get(f"{folder}/{TEMPLATE_FOLDER}".lstrip("/"), {})
    taken = [names[name] for name in (*chosen, *small)] + [file for name, file in below.items() if name.endswith(".jinja")]
    notes = []
    if others:
        notes.append(f"{len(others)} further weight files are left out, first {others[0]}")
    if "config.json" not in names:
        notes.append("has no config.json, so transformers cannot load it")
    if not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in names):
        notes.append("has no tokenizer beside it")
    return Choice(folder or "safetensors", "folder", tuple(taken), quantization_in(folder), notes=tuple(notes), problem=problem)


def _stem(name: str) -> str:
    match = PART.fullmatch(name)
    return match["stem"] if match else name.removesuffix(".safetensors")


def _weight_set(
    folder: str, names: Mapping[str, RemoteFile], weights: Sequence[str], shards: Mapping[str, Sequence[str]]
) -> tuple[str, list[str], str]:
    """Stem and files of the weights that belong together, and what is wrong: those of the index, or of the usual name, or the first."""
    listed = {name.removesuffix(INDEX): shards.get(f"{folder}/{name}".lstrip("/"), ()) for name in names if name.endswith(INDEX)}
    stems = {_stem(name) for name in weights} | {stem for stem, found in listed.items() if found}
    stem = min(stems, key=lambda stem: (stem != "model", stem not in listed, stem))
    chosen = sorted(set(listed.get(stem, ()))) or sorted(name for name in weights if _stem(name) == stem)
    missing = [name for name in chosen if name not in names] or [*missing_parts(chosen)]
    problem = ""
    if missing:
        problem = f"{len(missing)} of its weight files are missing in the repository, first {shown(missing[0])}; choose another model or revision."
    return stem, [name for name in chosen if name in names], problem
