"""What can be asked of the hub: search, a repository at a commit, a model's card, the account of a token, bytes of a header.

huggingface_hub reads the answers and names the errors; `transport.py` asks. Each question is bounded in time and in size, and nothing is
kept between questions. Knows nothing of files on this disk.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

import httpx2

from modules.core.errors import HubError, InvalidRequest
from modules.hub.names import (
    COMMIT,
    OFFICIAL_ENDPOINT,
    RepoRef,
    RepoType,
    checked_path,
    checked_repo,
    checked_revision,
    repo_place,
)
from modules.hub.refusals import Subject, refusal, unreachable
from modules.hub.repository import LICENCE_TAG, Account, RemoteFile, Repository, SearchFilters, SearchRow
from modules.hub.transport import Access, Limits, Transport, origin, read_trust

Sort = Literal["downloads", "likes", "trending", "updated", "created"]
SORT_KEYS = (("downloads", "downloads"), ("likes", "likes"), ("trending", "trendingScore"), ("updated", "lastModified"), ("created", "createdAt"))
ROW_FIELDS = ("downloads", "likes", "lastModified", "pipeline_tag", "gated", "tags", "safetensors", "gguf")
ROWS_LIMIT = 100
QUERY_LIMIT = 200
CARD_LIMIT_BYTES = 1 << 20
RANGE_LIMIT_BYTES = 64 << 20
FILE_LIMIT_BYTES = 1 << 50
SHA1 = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
ANY_MODEL = SearchFilters()


class HubClient:
    """Questions to one hub with one token; `trust` saves reading the certificates again for each client."""

    def __init__(self, access: Access, limits: Limits | None = None, trust: ssl.SSLContext | None = None) -> None:
        self.access = access
        self.limits = limits or Limits()
        self._trust = trust

    async def search(
        self, query: str = "", filters: SearchFilters = ANY_MODEL, *, sort: Sort = "downloads", limit: int = 30
    ) -> tuple[SearchRow, ...]:
        """Models whose name contains the query and that are as asked for.

        Raises:
            InvalidRequest: a limit outside 1 to 100, an unknown order, or letters that no author, task or licence has.
            HubError: the hub refused or failed.
        """
        if not 1 <= limit <= ROWS_LIMIT:
            raise InvalidRequest(f"A search gives 1 to {ROWS_LIMIT} models, not {limit}.", field="limit")
        key = next((key for name, key in SORT_KEYS if name == sort), "")
        if not key or len(query) > QUERY_LIMIT:
            raise InvalidRequest(
                f"Search for at most {QUERY_LIMIT} letters and sort by one of {', '.join(name for name, _ in SORT_KEYS)}.", field="sort"
            )
        for field, value in (("author", filters.author), ("task", filters.task), ("licence", filters.licence), ("library", filters.library)):
            if value and not PLAIN_WORD.fullmatch(value):
                raise InvalidRequest(f"The {field} “{value[:40]}” has letters that no {field} of the hub has; correct it or leave it empty.", field=field)
        wanted = (("search", query), ("sort", key), ("limit", str(limit)))
        params = [(name, value) for name, value in wanted if value] + filters.params() + [("expand", name) for name in ROW_FIELDS]
        async with self._asking(Subject()) as transport:
            items, _ = await self._json(transport, f"{self.access.endpoint}/api/models", Subject(), params)
        return tuple(row for item in _listed(items, self.access)[:limit] if (row := _row(item)) is not None and filters.holds(row))

    async def repository(self, repo: str, revision: str = "main", repo_type: RepoType = "model") -> Repository:
        """A repository at the commit a revision stands for now, with all its files.

        Raises:
            InvalidRequest: an impossible name.
            HubError: gated, not there, or the hub failed.
        """
        subject = Subject(checked_repo(repo, repo_type), checked_revision(revision), repo_type=repo_type)
        url = f"{self.access.endpoint}/api/{repo_type}s/{repo}"
        async with self._asking(subject) as transport:
            item, _ = await self._json(transport, f"{url}/revision/{quote(revision, safe='')}", subject)
            facts = _repository(item, subject, self.access)
            files = [file async for file in self._tree(transport, f"{url}/tree/{facts.commit}", subject)]
        if len({file.path for file in files}) < len(files):
            raise malformed(self.access)
        return replace(facts, files=tuple(files))

    async def card(self, repo: str, revision: str = "main") -> str:
        """The text of a model's card (README.md, Markdown with a YAML head); empty if it has none.

        Raises:
            HubError: gated, not there, or the hub failed.
        """
        try:
            raw = await self.read_range(RepoRef(repo, revision), "README.md", 0, CARD_LIMIT_BYTES)
        except HubError as error:
            if error.details.get("reason") == "entry":
                return ""
            raise
        return raw.decode("utf-8", "replace")

    async def whoami(self) -> Account:
        """Whose token it is.

        Raises:
            HubError: no token, or one that the hub refuses.
        """
        if not self.access.sends_token:
            raise refusal(401, {}, Subject(), self.access)
        async with self._asking(Subject()) as transport:
            item, _ = await self._json(transport, f"{self.access.endpoint}/api/whoami-v2", Subject())
        name, full_name = (str(item.get(key) or "") for key in ("name", "fullname")) if isinstance(item, dict) else ("", "")
        if not name:
            raise malformed(self.access)
        return Account(name[:100], full_name[:200])

    async def read_range(self, ref: RepoRef, path: str, start: int, length: int) -> bytes:
        """Bytes of a file without fetching it: a header; fewer come back where the file ends.

        Raises:
            InvalidRequest: an impossible name, or more than 64 MiB.
            HubError: gated, not there, or the hub failed.
        """
        if start < 0 or not 0 < length <= RANGE_LIMIT_BYTES:
            raise InvalidRequest(f"A range has 1 to {RANGE_LIMIT_BYTES} bytes, not {length}.", field="length")
        subject = Subject(checked_repo(ref.repo), checked_revision(ref.revision), checked_path(path))
        url = file_url(self.access.endpoint, ref.repo, ref.revision, path)
        async with self._asking(subject) as transport, transport.open(url, start=start, end=start + length - 1) as response:
            if response.status_code == 416:  # behind the end
                return b""
            if response.status_code not in (200, 206):
                raise refusal(response.status_code, response.headers, subject, self.access)
            skip = start if response.status_code == 200 else 0
            if skip > RANGE_LIMIT_BYTES or (response.status_code == 206 and range_start(response.headers) != start):
                raise HubError(f"{self.access.host} cannot give a part of a file; use the official hub or another mirror.", reason="range")
            raw = bytearray()
            async with aclosing(response.aiter_raw()) as pieces:
                async for piece in pieces:
                    raw += piece
                    if len(raw) >= skip + length:
                        break
        return bytes(raw[skip : skip + length])

    @asynccontextmanager
    async def _asking(self, subject: Subject) -> AsyncIterator[Transport]:
        """One question, which ends in time whatever the hub does."""
        try:
            self._trust = self._trust or await read_trust()
            async with asyncio.timeout(self.limits.answer_s), Transport(self.access, self.limits, self._trust) as transport:
                yield transport
        except (httpx2.TransportError, TimeoutError) as error:
            raise unreachable(error, self.access) from None
        except httpx2.InvalidURL:
            raise malformed(self.access) from None

    async def _json(
        self, transport: Transport, url: str, subject: Subject, params: Sequence[tuple[str, str]] = ()
    ) -> tuple[Any, httpx2.Response]:
        value, response = await transport.get_json(url, params)
        if response.status_code != 200:
            raise refusal(response.status_code, response.headers, subject, self.access)
        return value, response

    async def _tree(self, transport: Transport, url: str, subject: Subject) -> AsyncIterator[RemoteFile]:
        """All files of a commit, page by page."""
        next_page, params = url, [("recursive", "true"), ("expand", "false")]
        for _ in range(self.limits.pages):
            items, response = await self._json(transport, next_page, subject, params)
            for item in _listed(items, self.access):
                if isinstance(item, dict) and item.get("type") == "file":
                    yield _file(item, self.access)
            link = response.links.get("next", {}).get("url", "")
            if not link:
                return
            next_page, params = self._own(httpx2.URL(url).join(link)), []
        raise HubError(f"{subject.repo} has more files than {self.limits.pages} pages of a list; choose another {subject.noun}.", reason="size")

    def _own(self, link: httpx2.URL) -> str:
        """The next page of a list, at the hub that was asked: a mirror may name the official one, and nobody else is asked."""
        endpoint = httpx2.URL(self.access.endpoint)
        if origin(link) == origin(endpoint):
            return str(link)
        if origin(link) == origin(httpx2.URL(OFFICIAL_ENDPOINT)):
            return str(link.copy_with(scheme=endpoint.scheme, host=endpoint.host, port=endpoint.port))
        raise malformed(self.access)


def file_url(endpoint: str, repo: str, revision: str, path: str, repo_type: RepoType = "model") -> str:
    """Where the hub gives the bytes of a file; large ones are redirected to its CDN."""
    return f"{endpoint}/{repo_place(repo, repo_type)}/resolve/{quote(revision, safe='')}/{quote(path)}"


def range_start(headers: httpx2.Headers) -> int:
    """Where a partial answer begins; -1 if it does not say."""
    match = CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    return int(match[1]) if match else -1


def malformed(access: Access) -> HubError:
    """The error for an answer that does not mean anything."""
    return HubError(
        f"{access.host} answered something that a model hub does not say; check the address of the hub, or update Paddock.", reason="malformed"
    )


def _parsed(build: Callable[..., Any], item: Any, access: Access) -> Any:
    """An answer as huggingface_hub understands it."""
    try:
        return build(**item)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise malformed(access) from None


def _listed(items: Any, access: Access) -> list[Any]:
    if not isinstance(items, list):
        raise malformed(access)
    return items


def _file(item: dict[str, Any], access: Access) -> RemoteFile:
    from huggingface_hub.hf_api import RepoFile

    entry = _parsed(RepoFile, {"xetHash": None, **item}, access)
    size, sha256 = (entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, "")
    known = isinstance(entry.path, str) and isinstance(entry.blob_id, str) and isinstance(sha256, str)
    if not known or not isinstance(size, int) or not 0 <= size <= FILE_LIMIT_BYTES:
        raise malformed(access)
    if (entry.lfs and not SHA256.fullmatch(sha256)) or not SHA1.fullmatch(entry.blob_id):
        raise malformed(access)
    return RemoteFile(entry.path, size, sha256, "" if sha256 else entry.blob_id)


def _tags(model: Any) -> tuple[str, ...]:
    return tuple(str(tag)[:100] for tag in (model.tags or ())[:100])


def _licence(tags: Iterable[str]) -> str:
    return next((tag.removeprefix(LICENCE_TAG) for tag in tags if tag.startswith(LICENCE_TAG)), "")


def _parameters(model: Any) -> int:
    found = model.safetensors.total if model.safetensors else (model.gguf or {}).get("total", 0)
    return found if isinstance(found, int) else 0


def _facts(model: Any) -> dict[str, Any]:
    """What rows and repositories have in common."""
    tags = _tags(model)
    return {
        "downloads": int(model.downloads or 0),
        "likes": int(model.likes or 0),
        "updated": model.last_modified.isoformat() if model.last_modified else "",
        "task": str(model.pipeline_tag or "")[:100],
        "licence": _licence(tags),
        "gated": bool(model.gated),
        "parameters": _parameters(model),
        "tags": tags,
    }


def _row(item: Any) -> SearchRow | None:
    """One model found; None for what this version does not understand."""
    from huggingface_hub.hf_api import ModelInfo

    try:
        model = ModelInfo(**item)
        facts = _facts(model)
        repo = checked_repo(model.id)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRequest):
        return None
    return SearchRow(repo, **facts, formats=tuple(name for name in ("gguf", "safetensors") if name in facts["tags"]))


def _repository(item: Any, subject: Subject, access: Access) -> Repository:
    from huggingface_hub.hf_api import ModelInfo

    model = _parsed(ModelInfo, item, access)
    if not isinstance(model.sha, str) or not COMMIT.fullmatch(model.sha):
        raise malformed(access)
    facts = _parsed(lambda **known: _facts(known["model"]), {"model": model}, access)
    return Repository(subject.repo, model.sha, subject.revision, private=bool(model.private), **facts)
