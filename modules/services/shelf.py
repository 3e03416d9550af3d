"""What is known of models or adapters beside their headers, put together for their list: origin, note, use, verification, template.

Reads the disk and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.hub.inventory import origin_of
from modules.hub.verify import Verification
from modules.services.library_facts import Facts, FactStore, TemplateCheck
from modules.services.library_files import LibraryFiles, names_in
from modules.services.stock import Item


@dataclass(frozen=True)
class Shelved:
    """What is known of a model or adapter beside its header."""

    name: str
    repo: str = ""
    commit: str = ""
    licence: str = ""
    fetched: str = ""  # ISO 8601
    note: str = ""
    used_s: float = 0.0  # when it was last loaded or put into use, seconds since 1970; 0 if never
    verified: str = ""  # ISO 8601; empty if never
    verified_state: str = ""  # good, damaged, changed (since it was verified), or kept: there was nothing to compare with yet
    has_hashes_since: str = ""  # no record: its files are compared with what they were then
    damaged: tuple[str, ...] = ()
    rename_part: str = ""  # the part of its name that a rename changes; empty if it cannot be renamed
    deletes: tuple[str, ...] = ()  # others that lie in it and would go along
    template: TemplateCheck | None = None  # of the template in force, as it was examined at the last load; None: not known
    read_only: str = ""  # why it can be neither renamed nor deleted here; empty if it can


class ShelfReader:
    """Answers for one folder, and for what lies in those of other programs."""

    def __init__(self, folder: Path, facts: FactStore) -> None:
        self._folder = folder
        self._facts = facts

    def rows(self, items: Sequence[Item], used: Mapping[str, float], templates: Mapping[str, str]) -> tuple[Shelved, ...]:
        """All of them, in the order of their list; `templates` names the prompt templates chosen for some."""
        names = [item.name for item in items]
        return tuple(self._row(item, names, used.get(item.name, 0.0), templates.get(item.name, "")) for item in items)

    def _row(self, item: Item, names: Sequence[str], used_s: float, template: str) -> Shelved:
        root = root_of(item, self._folder)
        files = LibraryFiles(root)
        try:
            places = files.places(item.path)
            changed_s = _changed_s(item.path)
        except OSError:  # removed meanwhile
            return Shelved(item.name)
        origin = origin_of(root, item.path) if not item.source else None
        facts = self._facts.read(item.name)
        found = facts.verification
        from_hub = origin.provenance if origin else None
        return Shelved(
            name=item.name,
            repo=from_hub.repo if from_hub else "",
            commit=from_hub.commit if from_hub else "",
            licence=(from_hub.licence if from_hub else "") or item.licence,
            fetched=from_hub.fetched if from_hub else "",
            note=facts.note,
            used_s=used_s or (facts.learned.used_s if facts.learned else 0.0),
            verified=found.date if found else "",
            verified_state=_state_of(found, root) if found else "",
            has_hashes_since=found.since if found else "",
            damaged=found.damaged if found else (),
            rename_part=files.renamed_place(item.path).rpartition("/")[2] if not item.source else "",
            deletes=tuple(name for name in names_in(places, names) if name != item.name) if not item.source else (),
            template=_checked(facts, template, changed_s),
            read_only=read_only_sentence(item, "rename or delete"),
        )


def root_of(item: Item, own: Path) -> Path:
    """The folder below which the files of something are named."""
    return item.path.parent if item.source else own


def read_only_sentence(item: Item, verb: str) -> str:
    """Why something cannot be changed here; empty if it can."""
    return f"It lies in a folder of another program ({item.source}), which is only read here; {verb} it there." if item.source else ""


def _state_of(found: Verification, root: Path) -> str:
    """Whether what was found still says something about the files as they are."""
    for file in found.files:
        try:
            state = (root / file.path).stat()
            is_same = (state.st_size, state.st_mtime_ns) == (file.size, file.mtime_ns)
        except OSError:
            is_same = not file.found
        if not is_same:
            return "changed"
    return "damaged" if found.damaged else "good" if found.compared else "kept"


def _changed_s(path: Path) -> float:
    """When its files last changed; of a folder those that lie in it directly."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _checked(facts: Facts, template: str, changed_s: float) -> TemplateCheck | None:
    """What was found about the template in force; None if that is not known of the files as they are."""
    learned = facts.learned
    if learned is None or not learned.examined_s or learned.examined_s < changed_s:
        return None
    if learned.template_check is not None and learned.template_check.name == template:
        return learned.template_check
    return None if template else TemplateCheck(doubts=learned.template_doubts)
