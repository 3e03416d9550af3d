"""Models of the hub for the front ends: search, look into a repository, download, and the token that opens gated ones.

The hub is asked only when a person does something here; with `offline` it is not asked at all. Knows no page.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import SecretStr, ValidationError

from modules.core.errors import HubError, InvalidRequest
from modules.core.files import write_atomic
from modules.core.job import JobSnapshot
from modules.core.settings import Settings, validation_sentence
from modules.hub.download import TOKEN_SECRET, DownloadArgs, free_name, target_of
from modules.hub.first_models import FirstModels, read_first_models
from modules.loaders.machine import available_bytes
from modules.services.jobs import JobService

if TYPE_CHECKING:
    from modules.hub.choices import Choice, Choices
    from modules.hub.client import HubClient, Sort
    from modules.hub.inventory import Provenance, Update
    from modules.hub.names import RepoRef
    from modules.hub.repository import Account, Repository, SearchRow
    from modules.hub.transport import Access

TOKEN_FILE = "hub_token"
TOKEN_LIMIT = 500
COMMIT = re.compile(r"[0-9a-f]{40}")  # the page downloads a commit; what is newer is on the branch
ASKED = ("repo", "revision", "files", "kind", "name")
INDEX_LIMIT_BYTES = 16 << 20
CARD_HEAD = re.compile(r"\A---\s*\n.*?\n---\s*\n", re.DOTALL)
OVERHEAD_FACTOR = 1.1  # cache and buffers of a short context, beside the weights
OVERHEAD_BYTES = 400_000_000
SMALL_PARAMETER_BYTES, FOLDER_PARAMETER_BYTES = 0.58, 4.0  # Q4_K_M; float32, as folders are held on a processor
NO_FILTERS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class HubState:
    """How the hub is asked."""

    endpoint: str
    offline: bool
    has_token: bool
    memory_available_bytes: int
    first: FirstModels  # suggestions for a first model


@dataclass(frozen=True)
class OpenedRepository:
    """A repository as a person chooses from it."""

    repository: Repository
    choices: Choices
    picked: int  # index of the choice that the pasted link names; -1 if it names none
    card: str  # Markdown
    installed: frozenset[str]  # labels of choices that are on this machine already


def needed_bytes(choice: Choice) -> int:
    """Memory that a choice takes about, once loaded."""
    return int(choice.total_bytes * OVERHEAD_FACTOR) + OVERHEAD_BYTES


def most_parameters(free_bytes: int, library: str) -> int:
    """The largest model that could run: a GGUF file quantized to four bits, or a folder as a processor holds it, beside what a short context takes."""
    bytes_each = FOLDER_PARAMETER_BYTES if library == "safetensors" else SMALL_PARAMETER_BYTES
    return max(1, int((free_bytes - OVERHEAD_BYTES) / OVERHEAD_FACTOR / bytes_each))


class HubService:
    """All verbs on the hub. Downloads are jobs: see `JobService`."""

    def __init__(self, settings: Settings, jobs: JobService | None = None) -> None:
        self._settings = settings
        self._jobs = jobs
        self._token_file = settings.state_dir / TOKEN_FILE
        self._first = read_first_models()

    # ---- how it is asked -------------------------------------------------------------------------------------------

    def state(self) -> HubState:
        """Where models come from, and how much memory is free for them."""
        settings = self._settings
        return HubState(settings.hub_endpoint, settings.offline, bool(self._token()), psutil.virtual_memory().available, self._first)

    async def set_token(self, token: str) -> str:
        """Keep a token, readable by this account only, after the hub has said whose it is; empty forgets it. Returns the account's name.

        Raises:
            InvalidRequest: not a token.
            HubError: the hub refuses it.
        """
        token = token.strip()
        if not token:
            self._token_file.unlink(missing_ok=True)
            return ""
        if len(token) > TOKEN_LIMIT:
            raise InvalidRequest(f"A token has at most {TOKEN_LIMIT} letters, this has {len(token)}; copy it again.", field="token")
        account: Account = await self._client(token).whoami()
        await asyncio.to_thread(write_atomic, self._token_file, token, mode=0o600)
        return account.name

    def secret(self, name: str) -> str:
        """What a download needs to know and must not be stored."""
        return self._token() if name == TOKEN_SECRET else ""

    def _token(self) -> str:
        try:
            return self._token_file.read_text(encoding="utf-8").strip()
        except OSError:
            return self._settings.hub_token.get_secret_value() if self._settings.hub_token else ""

    def _access(self, token: str = "") -> Access:
        from modules.hub.transport import Access

        secret, settings = token or self._token(), self._settings
        return Access(settings.hub_endpoint, SecretStr(secret) if secret else None, settings.token_to_mirror, settings.offline)

    def _client(self, token: str = "") -> HubClient:
        from modules.hub.client import HubClient

        return HubClient(self._access(token))

    # ---- look ------------------------------------------------------------------------------------------------------

    async def search(self, query: str, filters: Mapping[str, Any] = NO_FILTERS, sort: Sort = "downloads") -> tuple[SearchRow, ...]:
        """Models whose name contains the query. Of the `filters` see `SearchFilters`; `runs_here` leaves out what is too large for the free memory.

        Raises:
            InvalidRequest: letters that no author, task or licence has.
            HubError: with the cure.
        """
        from modules.hub.repository import SearchFilters

        wanted = {name: value for name, value in filters.items() if name != "runs_here"}
        if filters.get("runs_here"):
            most = most_parameters(available_bytes(), str(wanted.get("library") or ""))
            wanted["most_parameters"] = min(most, wanted.get("most_parameters") or most)
        return await self._client().search(query.strip(), SearchFilters(**wanted), sort=sort)

    async def open(self, text: str) -> OpenedRepository:
        """What the repository, link or file that a person pasted offers.

        Raises:
            InvalidRequest: not a name or link of the hub.
            NotFound: the file or quantization named is not there.
            HubError: with the cure.
        """
        from modules.hub.choices import Choices, group, named_file
        from modules.hub.names import parse_reference

        ref = parse_reference(text, self._settings.hub_endpoint)
        client = self._client()
        repository = await client.repository(ref.repo, ref.revision)
        card, shards = await asyncio.gather(client.card(ref.repo, repository.commit), self._shards(client, repository))
        found = group(repository.files, shards)
        picked = found.pick(ref)
        if picked is None and ref.path:
            picked = named_file(repository.files, ref.path)
            found = Choices((picked, *found.choices), found.refused)
        installed = await asyncio.to_thread(self._installed, repository.repo, found)
        index = found.choices.index(picked) if picked is not None else -1
        return OpenedRepository(repository, found, index, CARD_HEAD.sub("", card.replace("\r\n", "\n")), installed)

    async def open_dataset(self, text: str) -> tuple[RepoRef, Repository]:
        """The data set that a person pasted: what of it is meant, and all its files.

        Raises:
            InvalidRequest: not a name or link of a data set.
            HubError: with the cure.
        """
        from modules.hub.names import parse_dataset_reference

        ref = parse_dataset_reference(text, self._settings.hub_endpoint)
        return ref, await self._client().repository(ref.repo, ref.revision, "dataset")

    async def read_range(self, repo: str, revision: str, path: str, start: int, length: int) -> bytes:
        """Bytes of a file of a repository: a header; fewer come back where the file ends.

        Raises:
            InvalidRequest: an impossible name.
            HubError: with the cure.
        """
        from modules.hub.names import RepoRef

        return await self._client().read_range(RepoRef(repo, revision), path, start, length)

    async def _shards(self, client: HubClient, repository: Repository) -> Mapping[str, tuple[str, ...]]:
        """The weight files that each index of the repository names; one that cannot be read names none."""
        from modules.hub.choices import INDEX
        from modules.hub.names import RepoRef

        ref = RepoRef(repository.repo, repository.commit)
        found = {}
        for file in repository.files:
            if file.path.endswith(INDEX) and 0 < file.size <= INDEX_LIMIT_BYTES:
                raw = await client.read_range(ref, file.path, 0, file.size)
                try:
                    found[file.path] = tuple(sorted({str(name) for name in json.loads(raw)["weight_map"].values()}))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue
        return found

    async def newer(self, provenance: Provenance) -> Update | None:
        """What changed in a repository since a download; None if its commit is still the newest.

        Raises:
            HubError: with the cure.
        """
        from modules.hub.inventory import find_update
        from modules.hub.names import checked_repo

        branch = "main" if COMMIT.fullmatch(provenance.revision) else provenance.revision
        return find_update(provenance, await self._client().repository(checked_repo(provenance.repo), branch))

    def _installed(self, repo: str, found: Choices) -> frozenset[str]:
        from modules.hub.inventory import installed

        known = [item for root in (self._settings.models_dir, self._settings.loras_dir) for item in installed(root) if item.provenance.repo == repo]
        held = [{(file.path, file.sha256 or file.git_sha1) for file in item.provenance.files} for item in known]
        return frozenset(
            choice.label
            for choice in found.choices
            if any({(file.path, file.sha256 or file.git_sha1) for file in choice.files} <= files for files in held)
        )

    # ---- download --------------------------------------------------------------------------------------------------

    async def download(self, owner: str, wanted: Mapping[str, Any]) -> JobSnapshot:
        """Begin to fetch files of a repository: `repo`, `revision` (best a commit), `files`, `kind` and perhaps `name`.

        Raises:
            InvalidRequest: names, kinds or files that do not go together, or a name that is taken.
            HubError: offline.
        """
        settings = self._settings
        if settings.offline:
            raise HubError("Offline mode is on, so nothing is downloaded; start Paddock without --offline.", reason="offline")
        ours = {
            "models_dir": settings.models_dir, "loras_dir": settings.loras_dir, "datasets_dir": settings.datasets_dir, "endpoint": settings.hub_endpoint,
            "token_to_mirror": settings.token_to_mirror,
        }  # fmt: skip
        try:
            args = DownloadArgs.model_validate({**{key: wanted[key] for key in ASKED if key in wanted}, **ours})
        except ValidationError as error:
            raise InvalidRequest(f"Download: {validation_sentence(error)}", field="files") from error
        if target_of(args).exists():  # another version of it: both are kept
            args = args.model_copy(update={"name": free_name(args, args.revision[:12].replace("/", "-"))})
        assert self._jobs is not None, "without jobs the hub can only be looked at"
        return await self._jobs.submit(owner, "download", args.model_dump(mode="json"))
