"""The work of the job kind "download": all chosen files of one commit, verified, then one rename into models/, loras/ or datasets/.

Everything is fetched below `.partial` of the target's own disk; the target is absent until all of it is there. The same function resumes:
what is fetched stays, and the commit of the first start is kept in the job's folder. The token comes through the context, never through
the arguments. Knows nothing of queues and processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr, ValidationError

from modules.core.errors import HubError, InvalidRequest, JobConflict
from modules.core.files import path_below, sync_folder, write_atomic
from modules.core.job import JobContext
from modules.hub.choices import INDEX, REFUSED, Kind, missing_parts, repo_type_of, split_path, suffix_of
from modules.hub.client import HubClient
from modules.hub.fetcher import Fetcher, FetchPolicy, check_space, disk_error, kept_bytes
from modules.hub.inventory import (
    PARTIAL_FOLDER,
    Provenance,
    StoredFile,
    add_to_record,
    read_record,
    staging_lock,
)
from modules.hub.lock import FileLock
from modules.hub.names import (
    OFFICIAL_ENDPOINT,
    checked_path,
    checked_repo,
    checked_revision,
    folder_name,
    shown,
)
from modules.hub.repository import RemoteFile, Repository
from modules.hub.transport import Access, Transport

TOKEN_SECRET = "hf_token"
PLAN_FILE = "plan.json"
FILES_LIMIT = 2000


class DownloadArgs(BaseModel, frozen=True, extra="forbid"):
    """What to download and what to call it; no secret, because these are written to the disk."""

    repo: str = Field(description="Repository as owner/name.")
    revision: str = Field("main", description="Branch, tag or commit.")
    files: tuple[str, ...] = Field(min_length=1, max_length=FILES_LIMIT, description="Paths in the repository: all files of one choice.")
    kind: Kind = Field("gguf", description="gguf, folder (safetensors), adapter, file, or dataset (of a repository of data).")
    name: str = Field("", max_length=100, description="Folder below models/, loras/ or datasets/; empty takes owner__name.")
    named: tuple[str, ...] = Field((), description="Those of the files that can run programs and were asked for by name on the command line.")
    endpoint: str = Field(OFFICIAL_ENDPOINT, description="Address of the hub or of a mirror.")
    token_to_mirror: bool = Field(False, description="Send the token to a mirror too.")
    models_dir: Path = Field(description="Folder with models.")
    loras_dir: Path = Field(description="Folder with LoRA adapters.")
    datasets_dir: Path = Field(Path("datasets"), description="Folder with data sets.")


def run(args: DownloadArgs, context: JobContext) -> Mapping[str, Any]:
    """Download, or go on where an earlier run of the same job ended.

    Raises:
        Cancelled: the person asked to stop; what was fetched is kept.
        AppError: with the cure; what was fetched is kept.
    """
    return download(args, context, FetchPolicy())


def download(args: DownloadArgs, context: JobContext, policy: FetchPolicy) -> Mapping[str, Any]:
    """`run` with a chosen patience."""
    return asyncio.run(_Download(args, context, policy).run())


def target_of(args: DownloadArgs) -> Path:
    """Where the download will lie: a file for a single one, else a folder.

    Raises:
        InvalidRequest: names, kinds or files that do not go together.
    """
    checked_repo(args.repo, repo_type_of(args.kind))
    checked_revision(args.revision)
    for path in args.files:
        checked_path(path)
        reason = REFUSED.get(suffix_of(path), "")
        if reason and args.kind != "file" and path not in args.named:
            raise InvalidRequest(f"{path} {reason}. To take it all the same, ask for it alone, as a file.", field="files")
    wrong = next((path for path in args.files if suffix_of(path) != ".gguf"), "") if args.kind == "gguf" else ""
    if wrong:
        raise InvalidRequest(f"{wrong} is no GGUF file; choose “folder” or “file” for it.", field="files")
    missing = missing_parts(args.files)
    if missing and args.kind != "file":
        raise InvalidRequest(f"{len(missing)} parts are not among the chosen files, first {missing[0]}; a model in parts needs all of them.", field="files")
    root = {"adapter": args.loras_dir, "dataset": args.datasets_dir}.get(args.kind, args.models_dir)
    folder = path_below(root, args.name or folder_name(args.repo))
    return folder / split_path(args.files[0])[1] if _is_single(args) else folder


def free_name(args: DownloadArgs, suffix: str = "") -> str:
    """A folder name that is not taken yet: owner__name, then with the suffix, then numbered."""
    base = args.name or folder_name(args.repo)
    names = [base, *([f"{base[: 99 - len(suffix)]}-{suffix}"] if suffix else []), *(f"{base[:96]}-{number}" for number in range(2, 100))]
    return next((name for name in names if not target_of(args.model_copy(update={"name": name})).exists()), base)


def _is_single(args: DownloadArgs) -> bool:
    return len(args.files) == 1 and (args.kind in ("file", "dataset") or suffix_of(args.files[0]) == ".gguf")


def _placed(paths: Sequence[str]) -> dict[str, str]:
    """Where each file lies below the target's folder: without the folders that all have in common."""
    folders = [split_path(path)[0].split("/") if "/" in path else [] for path in paths]
    depth = 0
    while all(len(folder) > depth and folder[depth] == folders[0][depth] for folder in folders):
        depth += 1
    placed = {path: "/".join(path.split("/")[depth:]) for path in paths}
    names = {name.lower() for name in placed.values()}
    inside = {"/".join(name.split("/")[:length]) for name in names for length in range(1, name.count("/") + 1)}
    if len(names) < len(paths) or names & inside:
        raise InvalidRequest("Two of the files would lie under the same name on a disk that ignores capitals; choose them apart.", field="files")
    return placed


class _Download:
    """One run of the job."""

    def __init__(self, args: DownloadArgs, context: JobContext, policy: FetchPolicy) -> None:
        self._args = args
        self._context = context
        self._policy = policy
        token = context.secrets.get(TOKEN_SECRET, "")
        self._access = Access(args.endpoint, SecretStr(token) if token else None, args.token_to_mirror)
        self._have: dict[str, int] = {}
        self._done: set[str] = set()
        self._total: int | None = None
        self._file = ""
        self._moved = 0

    async def run(self) -> Mapping[str, Any]:
        """Work, and say four times a second how far it is."""
        work = asyncio.create_task(self._work())
        try:
            while not work.done():
                self._report()
                await asyncio.wait({work}, timeout=self._policy.report_s)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        result = work.result()
        self._report()
        return result

    def _report(self) -> None:
        counts = {"files_done": len(self._done), "files": len(self._args.files)}
        self._context.progress(sum(self._have.values()), self._total, "bytes", file=self._file, **counts)

    async def _work(self) -> Mapping[str, Any]:
        target = target_of(self._args)
        _placed(self._args.files)
        plan = self._saved_plan()
        if plan is not None and self._is_published(plan, target):
            return self._result(plan, target)
        _check_free(target)
        plan = plan or await self._make_plan()
        folder = target.parent if _is_single(self._args) else target
        staging = folder.parent / PARTIAL_FOLDER / _staging_name(plan)
        try:
            with _held(staging_lock(staging), target), _held(folder.parent / PARTIAL_FOLDER / f"{_key(str(target))}.lock", target):
                await self._stage(plan, staging)
                await asyncio.to_thread(self._publish, plan, staging, target)
        except OSError as error:
            raise disk_error(error, folder.parent) from error
        return self._result(plan, target)

    def _saved_plan(self) -> Provenance | None:
        """The plan of an earlier run: the same commit, although the branch may have moved."""
        try:
            return Provenance.model_validate_json((self._context.directory / PLAN_FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    async def _make_plan(self) -> Provenance:
        now = await HubClient(self._access, self._policy.limits).repository(self._args.repo, self._args.revision, repo_type_of(self._args.kind))
        plan = _plan(self._args, now, self._access.endpoint)
        write_atomic(self._context.directory / PLAN_FILE, plan.model_dump_json())
        self._context.log(f"{plan.repo} at {plan.commit}: {len(plan.files)} files, {plan.total_bytes} bytes")
        return plan

    async def _stage(self, plan: Provenance, staging: Path) -> None:
        """Bring all files into `staging`, the list of weight files first."""
        staging.mkdir(parents=True, exist_ok=True)
        self._have = {file.placed: min(file.size, kept_bytes(staging / file.placed)) for file in plan.files}
        self._total = plan.total_bytes
        check_space(staging, self._total - sum(self._have.values()), self._policy.reserve_bytes)
        async with Transport(self._access, self._policy.limits) as transport:
            fetcher = Fetcher(transport, plan.repo, plan.commit, self._policy, plan.repo_type)
            lists = [file for file in plan.files if file.placed.endswith(INDEX)]
            await self._fetch_all(fetcher, lists, staging)
            for file in lists:
                _check_index(staging / file.placed, file.placed, plan)
            await self._fetch_all(fetcher, [file for file in plan.files if file not in lists], staging)

    async def _fetch_all(self, fetcher: Fetcher, files: Sequence[StoredFile], staging: Path) -> None:
        """Several at a time; the first error ends the others."""
        places = asyncio.Semaphore(self._policy.files_at_once)

        async def fetch(file: StoredFile) -> None:
            async with places:
                self._file = file.path
                remote = RemoteFile(file.path, file.size, file.sha256, file.git_sha1)
                self._moved += await fetcher.fetch(remote, staging / file.placed, lambda have: self._have.update({file.placed: have}))
                self._done.add(file.placed)

        tasks = [asyncio.create_task(fetch(file)) for file in files]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _publish(self, plan: Provenance, staging: Path, target: Path) -> None:
        """One rename; before it the target is absent, after it all there."""
        known = {file.placed for file in plan.files}
        for path in [path for path in staging.rglob("*") if path.is_file() and path.relative_to(staging).as_posix() not in known]:
            path.unlink()
        for folder in [staging, *(path for path in staging.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        provenance = plan.model_copy(update={"fetched": datetime.now(UTC).isoformat(timespec="seconds")})
        _check_free(target)
        if _is_single(self._args):
            target.parent.mkdir(exist_ok=True)
            add_to_record(target.parent, provenance)
            (staging / plan.files[0].placed).rename(target)
            shutil.rmtree(staging, ignore_errors=True)
        else:
            add_to_record(staging, provenance, staging_lock(staging).with_suffix(".record.lock"))
            staging.rename(target)
        sync_folder(target.parent)

    def _is_published(self, plan: Provenance, target: Path) -> bool:
        """Whether an earlier run of this job got as far as the rename."""
        folder = target.parent if _is_single(self._args) else target
        return target.exists() and any(known.is_same(plan) for known in read_record(folder).downloads)

    def _result(self, plan: Provenance, target: Path) -> Mapping[str, Any]:
        folder = target.parent if _is_single(self._args) else target
        shown = [file.placed for file in plan.files if suffix_of(file.placed) == ".gguf" and "mmproj" not in file.placed.lower()]
        shown = [plan.files[0].placed] if _is_single(self._args) else shown if plan.kind == "gguf" else []
        name = f"{folder.name}/{shown[0]}" if shown else folder.name
        self._total = plan.total_bytes
        self._have = {file.placed: file.size for file in plan.files}
        self._done = set(self._have)
        facts = {"repo": plan.repo, "commit": plan.commit, "kind": plan.kind, "licence": plan.licence}
        return {"name": name, "path": str(target), "bytes": plan.total_bytes, "moved_bytes": self._moved, "files": len(plan.files), **facts}


def _plan(args: DownloadArgs, now: Repository, endpoint: str) -> Provenance:
    """Which bytes are wanted, by the list of files at one commit."""
    known = {file.path: file for file in now.files}
    missing = [path for path in args.files if path not in known]
    if missing:
        raise HubError(
            f"{args.repo} has no file “{missing[0]}” at {now.commit[:12]}; the repository has changed: open it again and choose anew.", reason="entry"
        )
    placed = _placed(args.files)
    files = [
        StoredFile(path=path, placed=placed[path], size=known[path].size, sha256=known[path].sha256, git_sha1=known[path].git_sha1)
        for path in sorted(args.files)
    ]
    return Provenance(
        repo=args.repo,
        revision=args.revision,
        commit=now.commit,
        endpoint=endpoint,
        kind=args.kind,
        licence=now.licence,
        gated=now.gated,
        files=tuple(files),
    )


def _check_index(path: Path, placed: str, plan: Provenance) -> None:
    """Whether all weight files that a list names are part of the download.

    Raises:
        HubError: one is not.
    """
    try:
        named = json.loads(path.read_bytes())["weight_map"].values()
        wanted = {str(name) for name in named}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HubError(f"{placed} of {plan.repo} is no list of weight files; choose another revision.", reason="malformed") from None
    folder = split_path(placed)[0]
    known = {split_path(file.placed)[1] for file in plan.files if split_path(file.placed)[0] == folder}
    missing = sorted(wanted - known)
    if missing:
        raise HubError(
            f"{placed} names {len(missing)} weight files that are not part of this download, first “{shown(missing[0])}”; choose the whole model, "
            "or another revision if the repository lacks them.",
            reason="incomplete",
        )


def _check_free(target: Path) -> None:
    """Refuse a name that is taken, before anything is fetched."""
    parent = target.parent
    taken = target if target.exists() or target.is_symlink() else parent if parent.exists() and not parent.is_dir() else None
    if taken is not None:
        raise JobConflict(f"{parent.name}/{target.name} is there already; give another name, or remove it first.", field="name")


@contextmanager
def _held(path: Path, target: Path) -> Iterator[None]:
    with FileLock(path) as lock:
        if not lock.acquire():
            raise JobConflict(f"{target.name} is being downloaded by another job; wait for it or cancel it.", field="name")
        yield


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _staging_name(plan: Provenance) -> str:
    """The same for the same bytes, so that another job goes on where a cancelled one ended."""
    files = sorted(f"{file.placed} {file.sha256 or file.git_sha1}" for file in plan.files)
    return f"{plan.repo.replace('/', '__')[:60]}-{_key('|'.join(files))}"
