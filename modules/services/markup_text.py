"""The text of HTML pages and of Word documents (DOCX), with the standard library. Runs in the child that reads attachments.

What is shown becomes text: headings, lists and tables keep their form. Knows no limits of time; those are the child's.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.parsers import expat

from modules.core.errors import InvalidRequest

PART_LIMIT_BYTES = 64 << 20  # of a part of a document, unpacked
ENTRY_LIMIT = 10_000
UNSHOWN = frozenset({"script", "style", "noscript", "template", "svg", "object", "iframe", "canvas"})
BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form",
    "header", "hr", "html", "main", "nav", "ol", "option", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "title", "ul",
})  # fmt: skip
HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
AROUND_LIMIT = 100  # headers that are read, and footers
DOCUMENT, FOOTNOTES = "word/document.xml", "word/footnotes.xml"
HEADING_STYLE = re.compile(r"heading\s*([1-6])", re.IGNORECASE)


def tidy(text: str) -> str:
    """The text without spaces at the ends of lines and with at most one empty line in a row."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")


# ---- HTML ----------------------------------------------------------------------------------------------------------


def html_text(source: str) -> str:
    """What a reader of the page would see."""
    reader = _Page()
    reader.feed(source)
    reader.close()
    return tidy("".join(reader.parts))


class _Page(HTMLParser):
    """Gathers the text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unshown = 0
        self._as_written = 0  # inside pre
        self._addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        if tag in UNSHOWN:
            self._unshown += 1
        elif tag in HEADINGS:
            self._break("\n\n" + "#" * int(tag[1]) + " ")
        elif tag == "li":
            self._break("\n- ")
        elif tag in ("br", "tr"):
            self._break("\n")
        elif tag in ("td", "th"):
            self._write(" | " if self._line() else "| ")
        elif tag == "img":
            alt = (dict(attrs).get("alt") or "").strip()
            self._write(f"[{alt}]" if alt else "")
        elif tag == "a":
            self._addresses.append(dict(attrs).get("href") or "")
        elif tag in BLOCKS:
            self._as_written += tag == "pre"
            self._break("\n\n")

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        if tag in UNSHOWN:
            self._unshown = max(0, self._unshown - 1)
        elif tag == "a" and self._addresses:
            address = self._addresses.pop()
            if address.startswith(("http://", "https://")) and address not in "".join(self.parts[-3:]):
                self._write(f" ({address})")
        elif tag in HEADINGS or tag in BLOCKS:
            self._as_written = max(0, self._as_written - (tag == "pre"))
            self._break("\n\n")

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._as_written:
            self._write(data)
            return
        words = re.sub(r"\s+", " ", data)
        before = self.parts[-1][-1:] if self.parts else "\n"
        self._write(words.lstrip(" ") if before in ("\n", " ") else words)

    def _write(self, text: str) -> None:
        if text and not self._unshown:
            self.parts.append(text)

    def _break(self, text: str) -> None:
        if self.parts and not self._as_written:
            self.parts[-1] = self.parts[-1].rstrip(" ")
        self._write(text)

    def _line(self) -> bool:
        """Whether something stands in the present line."""
        return bool(self.parts) and not self.parts[-1].endswith("\n") and bool(self.parts[-1])


# ---- DOCX ----------------------------------------------------------------------------------------------------------


def is_docx(path: Path) -> bool:
    """Whether a ZIP archive holds a Word document.

    Raises:
        InvalidRequest: it is no whole ZIP archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return DOCUMENT in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidRequest(f"it is damaged ({error})") from error


def docx_text(path: Path) -> str:
    """The text of a Word document: headers of pages before it, footnotes and footers of pages behind it.

    Raises:
        InvalidRequest: damaged, with a password, larger than the limit when unpacked, or with declarations that Word never writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > ENTRY_LIMIT:
                raise InvalidRequest(f"it has {len(archive.infolist()):,} parts, and at most {ENTRY_LIMIT:,} are read")
            parts = [*_around(archive, "header"), _Word().read(_part(archive, DOCUMENT))]
            if FOOTNOTES in archive.namelist():
                parts.append(_Word().read(_part(archive, FOOTNOTES)))
            parts += _around(archive, "footer")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise InvalidRequest(f"it is damaged or has a password ({error})") from error
    return tidy("\n\n".join(parts))


def _around(archive: zipfile.ZipFile, what: str) -> list[str]:
    """What stands on pages above or below the text, under a line that says so: each text once, as there is one for every section."""
    names = [name for name in archive.namelist() if re.fullmatch(rf"word/{what}\d*\.xml", name)]
    texts = dict.fromkeys(_Word().read(_part(archive, name)).strip() for name in sorted(names, key=lambda name: (len(name), name))[:AROUND_LIMIT])
    return [f"[{what.capitalize()}]\n{text}" for text in texts if text]


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    """A part of the archive. What is unpacked is counted, whatever the archive says of its size."""
    with archive.open(name) as part:
        data = part.read(PART_LIMIT_BYTES + 1)
    if len(data) > PART_LIMIT_BYTES:
        raise InvalidRequest(f"its text takes more than {PART_LIMIT_BYTES >> 20} MiB when it is unpacked, the limit")
    return data


class _Word:
    """Gathers the text of a part of a document: paragraphs, and rows of tables."""

    def __init__(self) -> None:
        self._places: list[list[str]] = [[]]  # where finished paragraphs go: the part, or a cell of a table
        self._rows: list[list[str]] = []
        self._paragraphs: list[list[str]] = []  # open ones; a box in a paragraph has its own
        self._in_text = False
        self._fallback = 0  # the same thing once more, for older programs

    def read(self, data: bytes) -> str:
        """The text.

        Raises:
            InvalidRequest: it is no XML, or declares a document type.
        """
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._said
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.buffer_text = True
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise InvalidRequest(f"it is damaged ({error})") from error
        return "\n".join(self._places[0])

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        space, _, tag = name.rpartition(" ")
        if tag == "Fallback" and "markup-compatibility" in space:
            self._fallback += 1
        if self._fallback or "wordprocessingml" not in space:
            return
        values = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        if tag == "p":
            self._paragraphs.append([])
        elif tag == "t":
            self._in_text = True
        elif tag == "tr":
            self._rows.append([])
        elif tag == "tc":
            self._places.append([])
        elif tag == "footnote":
            self._places[-1].append(f"[^{values.get('id', '')}]:")
        else:
            self._mark(tag, values)

    def _mark(self, tag: str, values: dict[str, str]) -> None:
        """What stands for itself in a paragraph."""
        if not self._paragraphs:
            return
        paragraph = self._paragraphs[-1]
        if tag in ("tab", "br", "cr"):
            paragraph.append("\t" if tag == "tab" else "\n")
        elif tag == "noBreakHyphen":
            paragraph.append("-")
        elif tag == "footnoteReference":
            paragraph.append(f"[^{values.get('id', '')}]")
        elif tag == "numPr" and not paragraph:
            paragraph.append("- ")
        elif tag == "pStyle" and not paragraph:
            style = values.get("val", "")
            level = HEADING_STYLE.search(style)
            if level or style.lower() == "title":
                paragraph.append("#" * (int(level[1]) if level else 1) + " ")

    def _end(self, name: str) -> None:
        space, _, tag = name.rpartition(" ")
        if tag == "Fallback" and "markup-compatibility" in space:
            self._fallback -= 1
            return
        if self._fallback or "wordprocessingml" not in space:
            return
        if tag == "t":
            self._in_text = False
        elif tag == "p" and self._paragraphs:
            self._close_paragraph("".join(self._paragraphs.pop()))
        elif tag == "tc" and len(self._places) > 1 and self._rows:
            self._rows[-1].append(" ".join(filter(None, map(str.strip, self._places.pop()))).replace("\n", " "))
        elif tag == "tr" and self._rows:
            self._places[-1].append("| " + " | ".join(self._rows.pop()) + " |")
        elif tag == "tbl":
            self._places[-1].append("")

    def _close_paragraph(self, text: str) -> None:
        place = self._places[-1]
        if text.startswith("#"):
            place.append("")
        place.append("" if text.strip() in ("-", "#") else text)
        if not text.startswith("- "):
            place.append("")  # an empty line between paragraphs

    def _said(self, text: str) -> None:
        if self._in_text and self._paragraphs and not self._fallback:
            self._paragraphs[-1].append(text)


def _refuse_doctype(*declared: Any) -> None:
    raise InvalidRequest("it declares a document type, which Word never writes and which can hide a flood of text")
