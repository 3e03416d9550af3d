"""Data sets from the hub: any file of a data set's repository, and the well-known texts that perplexities are compared by.

Both are downloads like those of models, into a folder of datasets/ with its record of origin, so that training sees them as well. Knows no page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.job import TERMINAL, JobSnapshot
from modules.hub.evaluation_texts import EvaluationText, read_evaluation_texts
from modules.hub.inventory import Installed, installed
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.training.rows import data_files, holds_rows, is_readable, known_kinds

if TYPE_CHECKING:
    from modules.hub.names import RepoRef
    from modules.hub.repository import Repository

KIND = "download"
NAMED = 10  # files that a sentence lists
NUMBERS_TRIED = 1000


@dataclass(frozen=True)
class FetchedText:
    """A well-known text that lies in datasets/."""

    text: EvaluationText
    name: str  # of the data set
    path: Path  # its file


@dataclass(frozen=True)
class TextRow:
    """A well-known text for lists: where it lies, or the job that brings it."""

    text: EvaluationText
    name: str = ""  # of the data set, once it is there
    job: JobSnapshot | None = None  # one that has not brought it


def fetched_texts(folder: Path, texts: Sequence[EvaluationText] | None = None) -> tuple[FetchedText, ...]:
    """The well-known texts below a folder of data sets, by the records of what was downloaded."""
    wanted = {(text.repo, text.path): text for text in texts or read_evaluation_texts().texts}
    found: dict[str, FetchedText] = {}
    for item in installed(folder):
        for file in item.provenance.files if item.provenance.kind == "dataset" else ():
            text = wanted.get((item.provenance.repo, file.path))
            if text is not None:
                found.setdefault(text.id, FetchedText(text, _name(item, file.placed), item.folder / file.placed))
    return tuple(found.values())


def _name(item: Installed, placed: str) -> str:
    """What the data set is called: a folder of one file is that file."""
    try:
        is_single = len(data_files(item.folder)) == 1
    except AppError:
        is_single = False
    return item.folder.name if is_single else f"{item.folder.name}/{placed}"


class DatasetFetching:
    """All verbs on data sets of the hub. One event loop calls it."""

    def __init__(self, folder: Path, hub: HubService, jobs: JobService) -> None:
        self._folder = folder
        self._hub = hub
        self._jobs = jobs
        self._texts = read_evaluation_texts().texts
        self._begin_lock = asyncio.Lock()

    # ---- well-known texts ------------------------------------------------------------------------------------------

    async def texts(self, owner: str) -> tuple[TextRow, ...]:
        """All of the list, with what is there and what is on its way."""
        there = {found.text.id: found.name for found in await asyncio.to_thread(fetched_texts, self._folder, self._texts)}
        jobs = await self._downloads(owner)
        return tuple(TextRow(text, there.get(text.id, ""), None if text.id in there else _of(text, jobs)) for text in self._texts)

    async def fetch_text(self, owner: str, text_id: str) -> JobSnapshot:
        """Begin to fetch one, or go on with what was begun.

        Raises:
            NotFound: there is none of that name.
            Conflict: it is there already.
            HubError: offline.
        """
        async with self._begin_lock:  # of two clicks the second finds the job of the first
            return await self._fetch_text(owner, text_id)

    async def _fetch_text(self, owner: str, text_id: str) -> JobSnapshot:
        row = next((row for row in await self.texts(owner) if row.text.id == text_id), None)
        if row is None:
            raise NotFound(f"There is no text “{text_id[:60]}” in the list; choose one of it.", field="text")
        if row.name:
            raise Conflict(f"{row.text.title} is there already, as the data set “{row.name}”; choose it, or delete it to fetch it again.", field="text")
        job = row.job
        if job is not None and job.status == "interrupted":
            return await self._jobs.resume(owner, job.id)
        if job is not None and job.status not in TERMINAL:
            return job
        if job is not None:  # what it fetched is kept, and the next one goes on from there
            await self._jobs.remove(owner, job.id)
        text = row.text
        name = await asyncio.to_thread(self._free_name, text.id)
        return await self._hub.download(owner, {"repo": text.repo, "revision": text.revision, "files": [text.path], "kind": "dataset", "name": name})

    def _free_name(self, base: str) -> str:
        names = (base, *(f"{base}-{number}" for number in range(2, NUMBERS_TRIED)))
        return next(name for name in names if not (self._folder / name).exists() and not (self._folder / name).is_symlink())

    # ---- any file --------------------------------------------------------------------------------------------------

    async def fetch(self, owner: str, reference: str) -> JobSnapshot:
        """Begin to fetch the file of a data set that a person named: owner/name/path, or a link to it.

        Raises:
            InvalidRequest: not a name or link of a data set, or it has several files and none is named, or one that cannot be read.
            Conflict: it is there already.
            HubError: offline, or with what the hub says.
        """
        ref, repository = await self._hub.open_dataset(reference)
        path = _chosen(ref, repository)
        file = repository.file(path)
        there = await asyncio.to_thread(self._there, repository.repo, path, (file.sha256 or file.git_sha1) if file else "")
        if there:
            raise Conflict(f"{path} of {repository.repo} is there already, as the data set “{there}”; choose it in the list.", field="reference")
        return await self._hub.download(owner, {"repo": repository.repo, "revision": ref.revision, "files": [path], "kind": "dataset"})

    def _there(self, repo: str, path: str, digest: str) -> str:
        known = [(item, file) for item in installed(self._folder) if item.provenance.repo == repo for file in item.provenance.files]
        return next((_name(item, file.placed) for item, file in known if file.path == path and (file.sha256 or file.git_sha1) == digest), "")

    async def fetching(self, owner: str) -> tuple[JobSnapshot, ...]:
        """Downloads of data sets that have not ended, the newest first."""
        return tuple(job for job in await self._downloads(owner) if job.status not in TERMINAL)

    async def _downloads(self, owner: str) -> list[JobSnapshot]:
        return [job for job in await self._jobs.list(owner) if job.kind == KIND and job.args.get("kind") == "dataset"]


def _of(text: EvaluationText, jobs: Sequence[JobSnapshot]) -> JobSnapshot | None:
    """The newest job for a text that has not brought it."""
    wanted: tuple[Any, ...] = (text.repo, text.revision, [text.path])
    return next((job for job in jobs if (job.args.get("repo"), job.args.get("revision"), job.args.get("files")) == wanted and job.status != "done"), None)


def _chosen(ref: RepoRef, repository: Repository) -> str:
    """The one file that is meant.

    Raises:
        InvalidRequest: there are several, or none that can be read.
    """
    below = f"{ref.path}/" if ref.path else ""
    paths = [file.path for file in repository.files]
    if ref.path in paths:
        if not is_readable(Path(ref.path)):
            raise InvalidRequest(f"“{ref.path}” is of no kind that can be read. {known_kinds()}", field="reference")
        return ref.path
    readable = sorted(path for path in paths if path.startswith(below) and holds_rows(PurePosixPath(path).name))
    if len(readable) == 1:
        return readable[0]
    where = f"{repository.repo}/{ref.path}".rstrip("/")
    if not readable:
        raise InvalidRequest(f"{where} holds no file that can be read, at {ref.revision}. {known_kinds()}", field="reference")
    shown = ", ".join(readable[:NAMED]) + (" …" if len(readable) > NAMED else "")
    raise InvalidRequest(f"{where} has {len(readable)} files: {shown}. Name one: {repository.repo}/{readable[0]}.", field="reference")
