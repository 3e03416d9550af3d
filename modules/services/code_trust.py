"""Which model folders may run their own Python files: those that the command line named (`--trust-code NAME@COMMIT`), as long as the files are those of that commit.

Knows the record of downloads and the files; runs nothing. Nobody but the command line can add a name: no page, no request, no file of settings.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

from modules.core.errors import LoadFailed
from modules.core.model import ModelInfo
from modules.core.settings import Settings
from modules.core.trusted_code import FLAG, TrustedCode, read_code, split_trust
from modules.hub.inventory import Provenance, StoredFile, is_stored, read_record

log = logging.getLogger(__name__)


class CodeTrust:
    """The names and commits of one command line."""

    def __init__(self, settings: Settings) -> None:
        self._pins = dict(map(split_trust, settings.trust_code))
        self._models_dir = settings.models_dir
        self._room = settings.state_dir / "code"
        for name, pin in self._pins.items():
            log.warning("The Python files of %s at %s are run when that model is loaded: they can do whatever this account can (%s).", name, pin, FLAG)

    def pin_of(self, name: str) -> str:
        """The commit that is trusted for a model; empty for all others."""
        return self._pins.get(name, "")

    def permission(self, info: ModelInfo) -> TrustedCode | None:
        """What the child that loads a model may run of it; None if its code is not trusted. Reads and compares all its Python files.

        Raises:
            LoadFailed: they are not those that were named; what to do about it.
        """
        pin = self.pin_of(info.name)
        if not pin:
            return None
        contents = self._contents(info)
        if not contents:
            raise LoadFailed(f"{info.name} has no Python files that {FLAG} could allow; fetch them, or leave that option out.{self._fetching(info, ())}")
        value = _sum_of(contents) if pin.startswith("sha256:") else self._commit_of(info, contents)
        if value != pin:
            raise LoadFailed(f"The Python files of {info.name} are those of {value}, and {FLAG} names {pin}. If those that are there are trusted, pass {_shown(info, value)} instead.")
        return TrustedCode(folder=info.path, pin=pin, room=str(self._room), files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})

    def cure(self, info: ModelInfo, named: tuple[str, ...]) -> str:
        """What the person at the machine can do about a model that needs its own code, of which `named` are the files that its config names."""
        try:
            contents = self._contents(info)
            if not contents:
                return self._fetching(info, named)
            value = self._commit_of(info, contents)
        except LoadFailed as error:
            return f" {error.message}"
        return f" Its folder brings code of its own. Who has read that code and trusts it starts the server with {_shown(info, value)}: it then does whatever this account can."

    def _contents(self, info: ModelInfo) -> Mapping[str, bytes]:
        try:
            return read_code(Path(info.path))
        except ValueError as error:
            raise LoadFailed(f"{error}; that model cannot be used with its own code.") from None
        except OSError as error:
            raise LoadFailed(f"The Python files of {info.name} cannot be read: {error.strerror or error}. Check their permissions.") from error

    def _commit_of(self, info: ModelInfo, contents: Mapping[str, bytes]) -> str:
        """The one commit that all Python files of a folder are known to be of.

        Raises:
            LoadFailed: that cannot be said of one of them.
        """
        recorded = self._recorded(info)
        known = {name: recorded[name] for name in contents if name in recorded}
        if not known:
            value = _sum_of(contents)
            raise LoadFailed(f"The Python files of {info.name} were not downloaded by this server, so no commit is known of them. Who has read them and trusts them passes {_shown(info, value)}.")
        for name in contents:
            if name not in known:
                raise LoadFailed(f"{name} of {info.name} is not in the record of what was downloaded, so its code is not run. Delete that file, or fetch it: {_download(known, name)}.")
        for name, (_, file) in known.items():
            if not is_stored(contents[name], file):
                raise LoadFailed(f"{name} of {info.name} is not the file that was downloaded: somebody changed it, so its code is not run. Fetch it again: {_download(known, name)}.")
        commits = {(download.repo, download.commit) for download, _ in known.values()}
        if len(commits) > 1:
            raise LoadFailed(f"The Python files of {info.name} come from {len(commits)} commits, and only those of one are run. Fetch all of them together: {_download(known, *known)}.")
        return commits.pop()[1]

    def _recorded(self, info: ModelInfo) -> dict[str, tuple[Provenance, StoredFile]]:
        """What is known of the files of a model's folder, by their names in it."""
        folder = Path(info.path)
        if info.source or not folder.is_relative_to(self._models_dir):
            return {}
        top, *inner = folder.relative_to(self._models_dir).parts
        before = "".join(f"{part}/" for part in inner)
        return {
            file.placed.removeprefix(before): (download, file)
            for download in read_record(self._models_dir / top).downloads
            for file in download.files
            if file.placed.startswith(before)
        }

    def _fetching(self, info: ModelInfo, named: tuple[str, ...]) -> str:
        """How its Python files are fetched, where it is known from where."""
        recorded = self._recorded(info)
        if not recorded:
            return ""
        return f" Its code was not downloaded. To have it: {_download(recorded, *(named or ('NAME.py',)))}, with a --file for each Python file of the repository; nothing is run by that."


def _download(known: Mapping[str, tuple[Provenance, StoredFile]], *names: str) -> str:
    repo = next(iter(known.values()))[0].repo
    return f"python server.py download {repo} {' '.join(f'--file {shlex.quote(name)}' for name in names)}"


def _shown(info: ModelInfo, value: str) -> str:
    return f"{FLAG} {shlex.quote(f'{info.name}@{value}')}"


def _sum_of(contents: Mapping[str, bytes]) -> str:
    """One sum over the names and contents of files."""
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n".encode())
    return f"sha256:{total.hexdigest()}"
