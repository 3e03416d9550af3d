"""Reads the text of an attached file. Started as `python -m modules.services.attachment_reader`, a child with limits: files come from strangers.

What a file is read as is decided by what is in it, not by its name alone. Knows no conversation.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from modules.core.errors import AppError, InvalidRequest
from modules.core.process import be_expendable
from modules.services.markup_text import docx_text, html_text, is_docx, tidy

MEMORY_LIMIT_BYTES = 1 << 30
CPU_LIMIT_S = 25
TEXT_LIMIT_CHARACTERS = 2_000_000
PAGE_LIMIT = 3_000  # of a PDF
START_BYTES = 4_096  # looked at to tell what a file is
OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\xd0\xcf\x11\xe0", "an Office document of the old kind (.doc, .xls, .ppt); save it as DOCX, CSV or PDF and attach that"),
    (b"{\\rtf", "an RTF document; save it as DOCX or PDF and attach that"),
    (b"\x89PNG", "a picture, not a document"),
    (b"\xff\xd8\xff", "a picture, not a document"),
    (b"GIF8", "a picture, not a document"),
    (b"GGUF", "a model; put it into the models folder"),
)
HTML_START = re.compile(r"\s*(<\?xml[^>]*\?>\s*)?(<!--.*?-->\s*)?<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
CHARSET = re.compile(rb"charset\s*=\s*[\"']?([\w.:-]{2,40})", re.IGNORECASE)
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
LARGEST_SHARE_OF_CONTROLS = 0.002  # in a text


class ReadRequest(BaseModel):
    """A file, and the name that a person knows it by."""

    name: str
    path: str


class ReadFile(BaseModel):
    """What was read."""

    text: str
    kind: str
    note: str = ""


class _Found(NamedTuple):
    text: str
    note: str = ""


def read_file(request: ReadRequest) -> ReadFile:
    """The text of a file.

    Raises:
        InvalidRequest: it is of another kind, damaged, empty or too long; a sentence that names it.
    """
    path = Path(request.path)
    try:
        kind, reader = _reader(path, Path(request.name).suffix.lower())
        found = reader(path)
        if len(found.text) > TEXT_LIMIT_CHARACTERS:
            raise InvalidRequest(f"it has {len(found.text):,} characters, and at most {TEXT_LIMIT_CHARACTERS:,} are read; attach a part of it")
        if not found.text.strip():
            raise InvalidRequest("there is no text in it")
    except InvalidRequest as error:
        raise InvalidRequest(f"{request.name} cannot be attached: {error.message.rstrip('.')}.", field="file") from error
    return ReadFile(text=found.text, kind=kind, note=found.note)


def _reader(path: Path, suffix: str) -> tuple[str, Callable[[Path], _Found]]:
    """What the file is, and how it is read."""
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if b"%PDF-" in start[:1024]:
        return "PDF", _pdf
    if start.startswith(b"PK\x03\x04"):
        if not is_docx(path):
            raise InvalidRequest("it is an archive, and of those only Word documents (DOCX) are read; save it as PDF, CSV or text and attach that")
        return "DOCX", lambda found: _Found(docx_text(found))
    other = next((sentence for begins, sentence in OTHER_KINDS if start.startswith(begins)), "")
    if other:
        raise InvalidRequest(f"it is {other}")
    if suffix in (".html", ".htm", ".xhtml") or HTML_START.match(start.decode("latin-1")):
        return "HTML", lambda found: _Found(html_text(_decoded(found.read_bytes(), marked=True)))
    return ("CSV", _csv) if suffix in (".csv", ".tsv") else ("text", lambda found: _Found(_decoded(found.read_bytes())))


# ---- text ----------------------------------------------------------------------------------------------------------


def _decoded(data: bytes, *, marked: bool = False) -> str:
    """Bytes as text: by their mark, as UTF-8, else as Windows writes Western languages; line ends as line feeds."""
    text = _by_encoding(data, _charset(data) if marked else "")
    if len(CONTROLS.findall(text)) > len(text) * LARGEST_SHARE_OF_CONTROLS:
        raise InvalidRequest("it is no text, and of other files only PDF, DOCX, HTML and pictures can be attached")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _by_encoding(data: bytes, charset: str) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    for encoding in ("utf-8-sig", charset):
        try:
            return data.decode(encoding) if encoding else data.decode("cp1252", "replace")
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("cp1252", "replace")


def _charset(data: bytes) -> str:
    """What a page says its letters are written in; empty if it does not say, or names what is no character set."""
    found = CHARSET.search(data[:START_BYTES])
    name = found[1].decode("ascii") if found else ""
    try:
        return name if name and codecs.lookup(name)._is_text_encoding else ""
    except LookupError:
        return ""


def _csv(path: Path) -> _Found:
    """A table as it is written; the note says how large it is."""
    text = _decoded(path.read_bytes())
    try:
        form = csv.Sniffer().sniff(text[:START_BYTES], delimiters=",;\t|")
        rows = [len(row) for row in csv.reader(io.StringIO(text), form) if row]
    except csv.Error:
        return _Found(text)
    return _Found(text, f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}, {max(rows, default=0):,} columns")


# ---- PDF -----------------------------------------------------------------------------------------------------------


def _pdf(path: Path) -> _Found:
    """The text of all pages, each under its number."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        document = pypdf.PdfReader(path, strict=False)
        if document.is_encrypted and not document.decrypt(""):
            raise InvalidRequest("it has a password; save a copy without one and attach that")
        count = len(document.pages)
    except AppError:
        raise
    except MemoryError as error:
        raise InvalidRequest(f"reading it takes more than {MEMORY_LIMIT_BYTES >> 20} MiB of memory, the limit") from error
    except Exception as error:  # a damaged file brings its reader to anything
        raise InvalidRequest(f"it is damaged ({error})") from error
    if count > PAGE_LIMIT:
        raise InvalidRequest(f"it has {count:,} pages, and at most {PAGE_LIMIT:,} are read; attach a part of it")
    return _pages(document.pages.__getitem__, count)


def _pages(page: Callable[[int], object], count: int) -> _Found:
    """What stands on the pages; those that cannot be read are told."""
    parts: list[str] = []
    unread: list[int] = []
    empty = characters = 0
    for number in range(1, count + 1):
        try:
            text = tidy(str(page(number - 1).extract_text()))  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - see above; the other pages may be good
            unread.append(number)
            continue
        empty += not text.strip()
        characters += len(text)
        if characters > TEXT_LIMIT_CHARACTERS:
            raise InvalidRequest(f"its first {number:,} pages have more than {TEXT_LIMIT_CHARACTERS:,} characters, the limit; attach a part of it")
        parts.append(f"[Page {number}]\n{text}")
    if not characters:
        raise InvalidRequest("there is no text in it; it may be a scan, whose pages are pictures. Attach the text, or pictures of the pages")
    notes = [f"{count:,} {'page' if count == 1 else 'pages'}"]
    notes += [f"{empty:,} without text"] if empty else []
    notes += [f"{len(unread):,} could not be read (the first is {unread[0]})"] if unread else []
    return _Found("\n\n".join(parts), ", ".join(notes))


# ---- the child -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer the one request on standard input."""
    be_expendable(1000)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    request = ReadRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        answer = read_file(request).model_dump()
    except AppError as error:
        answer = {"error": error.message}
    except MemoryError:
        answer = {"error": f"{request.name} cannot be attached: reading it takes more than {MEMORY_LIMIT_BYTES >> 20} MiB of memory, the limit."}
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
