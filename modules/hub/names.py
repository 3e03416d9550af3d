"""Names of the hub: what a person pastes becomes a repository, a revision and a path; what a hub sends becomes a safe file name.

Knows spelling only: nothing is asked of any server. Names that a hub sends are hostile until they pass here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from modules.core.errors import InvalidRequest
from modules.core.files import RESERVED_NAMES, checked_name

RepoType = Literal["model", "dataset"]  # the hub keeps data sets in repositories of their own, below datasets/

OFFICIAL_ENDPOINT = "https://huggingface.co"
OFFICIAL_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
OTHER_SECTIONS = frozenset({"datasets", "spaces", "collections", "papers", "docs", "blog", "posts", "settings", "buckets"})
FILE_PAGES = frozenset({"tree", "blob", "resolve", "raw", "blame", "commits", "commit"})
TEXT_LIMIT = 1000
DEPTH_LIMIT = 8
PATH_LIMIT = 400

REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ =@()\[\]-]{0,199}")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,99}")
COMMIT = re.compile(r"[0-9a-f]{40}")
# How the weights of a GGUF file are stored, as its name says it
QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:IQ\d_[A-Z]+\d*(?:_R\d)?|TQ\d_\d|Q\d_K(?:_(?:XXL|XL|XS|[SML]))?|Q\d_[01](?:_\d_\d)?|BF16|FP?16|FP?32|MXFP4(?:_[A-Z]+)?|NVFP4)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RepoRef:
    """What a person named: a repository, and perhaps a revision, a file or folder in it, or a quantization."""

    repo: str
    revision: str = "main"
    path: str = ""
    quantization: str = ""  # "owner/name:Q4_K_M", as other programs write it


def shown(text: str) -> str:
    """A hostile name as part of a sentence: short and printable."""
    return "".join(letter if letter.isprintable() else "�" for letter in text[:80]) + ("…" if len(text) > 80 else "")


def repo_noun(repo_type: RepoType) -> str:
    """What a repository holds, for sentences."""
    return "data set" if repo_type == "dataset" else "model"


def repo_place(repo: str, repo_type: RepoType) -> str:
    """The page of a repository below the address of a hub; its files lie below that."""
    return f"datasets/{repo}" if repo_type == "dataset" else repo


def checked_repo(repo: str, repo_type: RepoType = "model") -> str:
    """The id of a repository: owner/name.

    Raises:
        InvalidRequest: anything else.
    """
    parts = repo.split("/")
    if len(parts) != 2 or not all(REPO_PART.fullmatch(part) for part in parts) or "--" in repo or ".." in repo:
        example = "Salesforce/wikitext" if repo_type == "dataset" else "Qwen/Qwen3-0.6B"
        raise InvalidRequest(f"“{shown(repo)}” is no {repo_noun(repo_type)} of the hub: give owner/name, like {example}, or a link to its page.", field="repo")
    return repo


def checked_revision(revision: str) -> str:
    """A branch, tag or commit.

    Raises:
        InvalidRequest: letters a revision never has, or longer than 100.
    """
    if not REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision[-1] in "/.":
        raise InvalidRequest(
            f"“{shown(revision)}” cannot be a branch or commit: use 1 to 100 letters, digits and . _ - /, for example main.", field="revision"
        )
    return revision


def _is_safe_segment(segment: str) -> bool:
    return bool(SEGMENT.fullmatch(segment)) and segment[-1] not in ". " and segment.split(".")[0].rstrip().lower() not in RESERVED_NAMES


def checked_path(path: str) -> str:
    """The path of a file in a repository, safe to be one below a folder of any system; nothing is changed in it.

    Raises:
        InvalidRequest: a name that could leave its folder, or that Windows or a terminal would take for something else.
    """
    segments = path.split("/")
    if len(path) > PATH_LIMIT or len(segments) > DEPTH_LIMIT or not all(_is_safe_segment(segment) for segment in segments):
        raise InvalidRequest(
            f"The file name “{shown(path)}” is not safe on a disk (allowed are letters, digits and . _ + = @ ( ) [ ] -, up to {DEPTH_LIMIT} "
            "folders deep), so it is not fetched; ask the owner of the repository to rename it.",
            field="files",
        )
    return path


def folder_name(repo: str) -> str:
    """The folder a repository gets by default: owner__name, at most 100 letters."""
    return checked_name(checked_repo(repo).replace("/", "__")[:100].rstrip(". -"), "name")


def quantization_in(path: str) -> str:
    """The last quantization named in a path, in capitals; empty if none."""
    found = QUANTIZATION.findall(path)
    return found[-1].upper() if found else ""


def parse_reference(text: str, endpoint: str = OFFICIAL_ENDPOINT) -> RepoRef:
    """Understand what a person pasted: owner/name, owner/name:branch, a link to a page or a file of the hub or of `endpoint`.

    Raises:
        InvalidRequest: with the forms that are understood.
    """
    wanted = text.strip().strip("<>\"'`").strip()
    if not wanted or len(wanted) > TEXT_LIMIT:
        raise InvalidRequest("Paste a model's name like owner/name, or a link to its page or file on the hub.", field="repo")
    path, query, is_link = _path_of(wanted, endpoint)
    name, colon, tag = path.strip("/").partition(":")
    segments = [unquote(part) for part in name.split("/") if part]
    if segments[:2] == ["api", "models"] or (segments[:1] == ["models"] and len(segments) > 2):
        segments = segments[segments.index("models") + 1 :]
    if is_link and segments[:1] and segments[0] in OTHER_SECTIONS:
        raise InvalidRequest(f"This is a link to “{segments[0]}” of the hub, not to a model; open the model's page and copy its link.", field="repo")
    repo, at, tagged = "/".join(segments[:2]).partition("@")
    if at:
        colon, tag = "@", tagged
    ref = _inside(checked_repo(repo), segments[2:], is_link)
    if colon:
        ref = _tagged(ref, unquote(tag))
    opened = parse_qs(query).get("show_file_info", [""])[0]
    return RepoRef(ref.repo, ref.revision, checked_path(opened), ref.quantization) if opened else ref


def parse_dataset_reference(text: str, endpoint: str = OFFICIAL_ENDPOINT) -> RepoRef:
    """Understand a data set as a person pasted it: owner/name, owner/name/path of a file, a link to its page or to a file of it.

    Raises:
        InvalidRequest: with the forms that are understood.
    """
    wanted = text.strip().strip("<>\"'`").strip()
    if not wanted or len(wanted) > TEXT_LIMIT:
        raise InvalidRequest("Paste a data set's name like owner/name, with the path of a file in it, or a link to that file on the hub.", field="repo")
    path, _, is_link = _path_of(wanted, endpoint)
    segments = [unquote(part) for part in path.split("/") if part]
    if is_link and segments[:1] != ["datasets"]:
        raise InvalidRequest("This is no link to a data set of the hub; open the data set's page, or a file of it, and copy that link.", field="repo")
    segments = segments[segments[:1] == ["datasets"] :]
    return _inside(checked_repo("/".join(segments[:2]), "dataset"), segments[2:], is_link)


def _path_of(text: str, endpoint: str) -> tuple[str, str, bool]:
    """The path and query of a link to the hub, or the text itself."""
    hosts = OFFICIAL_HOSTS | {urlsplit(endpoint).netloc.lower()}
    if "://" not in text:
        if text.partition("/")[0].lower() not in hosts:
            return text, "", False
        text = "https://" + text
    try:
        parts = urlsplit(text)
        host, known = parts.hostname or "", parts.netloc.lower() in hosts and parts.scheme.lower() in ("http", "https")
    except ValueError:
        host, known = "", False
    if not known:
        raise InvalidRequest(
            f"Links to “{shown(host or text)}” are not fetched: paste a link to {OFFICIAL_ENDPOINT.partition('://')[2]} or a name like owner/name.",
            field="repo",
        )
    return parts.path, parts.query, True


def _inside(repo: str, rest: list[str], is_link: bool) -> RepoRef:
    """The part after owner/name: a page of the hub, or a file named directly."""
    if rest and rest[0] in FILE_PAGES:
        length = 3 if rest[1:2] == ["refs"] else 1  # refs/pr/1, refs/convert/parquet
        revision, path = "/".join(rest[1 : 1 + length]), "/".join(rest[1 + length :])
        return RepoRef(repo, checked_revision(revision) if revision else "main", checked_path(path) if path else "")
    if rest and not is_link:
        return RepoRef(repo, path=checked_path("/".join(rest)))
    return RepoRef(repo)  # other pages of a model: discussions, settings


def _tagged(ref: RepoRef, tag: str) -> RepoRef:
    if QUANTIZATION.fullmatch(tag):
        return RepoRef(ref.repo, ref.revision, ref.path, tag.upper())
    return RepoRef(ref.repo, checked_revision(tag), ref.path)
