"""Documents as text: every kind, every encoding, and what is refused with a sentence that says why."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pypdf
import pytest

from modules.core.errors import InvalidRequest
from modules.services import attachment_reader
from modules.services.attachment_reader import ReadFile, ReadRequest, read_file
from tests.document_files import PAGE_HTML, docx, paragraph, pdf, table


def read(folder: Path, name: str, data: bytes) -> ReadFile:
    path = folder / "stored"
    path.write_bytes(data)
    return read_file(ReadRequest(name=name, path=str(path)))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße, 世界\n".encode(), "Grüße, 世界\n"),
        (b"\xef\xbb\xbfmarked", "marked"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Größe “quoted” €".encode("cp1252"), "Größe “quoted” €"),
        (b"one\r\ntwo\rthree", "one\ntwo\nthree"),
        (b"\x1b[1mbold\x1b[0m log", "\x1b[1mbold\x1b[0m log"),
    ],
)
def test_text_in_any_encoding(tmp_path: Path, data: bytes, text: str) -> None:
    found = read(tmp_path, "notes.py", data)
    assert (found.text, found.kind) == (text, "text")


def test_a_table_stays_as_it_is_and_its_size_is_told(tmp_path: Path) -> None:
    text = 'name;watt;note\n"A; B";40;\nC;60;"two\nlines"\n'
    found = read(tmp_path, "lamps.csv", text.encode())
    assert (found.text, found.kind, found.note) == (text, "CSV", "3 rows, 3 columns")


def test_a_page_as_a_reader_sees_it(tmp_path: Path) -> None:
    found = read(tmp_path, "lamps.html", PAGE_HTML.encode())
    assert found.kind == "HTML"
    assert found.text == (
        "Lamps\n\n# Lamps & light\n\nThe lamp is bright.\nIt is warm (https://example.org/lamp).\n\n- one\n- two\n\n  kept\n    as it is\n\n"
        "| name | watt\n| A | 40\n\n[a lamp]"
    )


def test_a_page_says_how_its_letters_are_written(tmp_path: Path) -> None:
    page = '<html><meta charset="iso-8859-2"><p>Łódź</p></html>'
    assert read(tmp_path, "saved", page.encode("iso-8859-2")).text == "Łódź"
    wrong = '<html><meta charset="base64"><p>plain</p></html>'
    assert read(tmp_path, "saved.htm", wrong.encode()).text == "plain"


def test_a_word_document(tmp_path: Path) -> None:
    reference = '<w:r><w:footnoteReference w:id="2"/></w:r>'
    body = (
        paragraph("Lamps", "Title")
        + paragraph("First part", "Heading2")
        + f'<w:p><w:r><w:t xml:space="preserve">The lamp </w:t></w:r><w:r><w:t>is on.</w:t></w:r>{reference}<w:r><w:br/><w:t>Next line</w:t></w:r></w:p>'
        + paragraph("an item", mark="<w:numPr/>")
        + paragraph("another", mark="<w:numPr/>")
        + '<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>'
        + table(("name", "watt"), ("A", "40"))
        + paragraph("The end.")
    )
    found = read(tmp_path, "lamps.docx", docx(body, footnotes=f'<w:footnote w:id="2">{paragraph("A small note.")}</w:footnote>'))
    assert found.kind == "DOCX"
    assert found.text == (
        "# Lamps\n\n## First part\n\nThe lamp is on.[^2]\nNext line\n\n- an item\n- another\n\n| name | watt |\n| A | 40 |\n\nThe end.\n\n[^2]:\nA small note."
    )


def test_headers_and_footers_of_a_word_document_are_read_once_each(tmp_path: Path) -> None:
    headers = [paragraph("Secret"), paragraph(""), paragraph("Secret"), paragraph("Annex")]
    found = read(tmp_path, "lamps.docx", docx(paragraph("The lamp is on."), headers=headers, footers=[paragraph("Version 3") + table(("a", "b"))]))
    assert found.text == "[Header]\nSecret\n\n[Header]\nAnnex\n\nThe lamp is on.\n\n[Footer]\nVersion 3\n\n| a | b |"


def test_a_pdf_page_by_page(tmp_path: Path) -> None:
    found = read(tmp_path, "lamps.pdf", pdf(["The lamp is on.", "", "It is warm."]))
    assert found.kind == "PDF"
    assert found.text == "[Page 1]\nThe lamp is on.\n\n[Page 2]\n\n\n[Page 3]\nIt is warm."
    assert found.note == "3 pages, 1 without text"


def locked_pdf() -> bytes:
    writer = pypdf.PdfWriter(clone_from=pypdf.PdfReader(io.BytesIO(pdf(["secret"]))))
    writer.encrypt("word", algorithm="RC4-128")
    packed = io.BytesIO()
    writer.write(packed)
    return packed.getvalue()


def archive(**parts: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in parts.items():
            made.writestr(name.replace("__", "/") + ".xml", data)
    return packed.getvalue()


FLOOD = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.bin", bytes(range(256)) * 20, "it is no text"),
        ("a.txt", b" \n ", "there is no text in it"),
        ("a.doc", b"\xd0\xcf\x11\xe0" + bytes(600), "save it as DOCX"),
        ("a.rtf", b"{\\rtf1 text}", "RTF document"),
        ("a.png", b"\x89PNG\r\n", "a picture, not a document"),
        ("a.xlsx", archive(xl__workbook=b"<x/>"), "only Word documents"),
        ("a.docx", archive(word__document=bytes(65 << 20)), "more than 64 MiB when it is unpacked"),
        ("a.docx", docx(paragraph("&amp;"), before=FLOOD), "declares a document type"),
        ("a.docx", docx("<w:p>"), "it is damaged"),
        ("a.docx", docx(paragraph("text"))[:200], "it is damaged"),
        ("a.pdf", locked_pdf(), "it has a password"),
        ("a.pdf", pdf(["", ""]), "it may be a scan"),
        ("a.pdf", b"%PDF-1.4\n" + bytes(500), "it is damaged"),
    ],
)
def test_what_cannot_be_attached_says_why(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(tmp_path, name, data)
    assert refused.value.message.startswith(f"{name} cannot be attached: ")
    assert sentence in refused.value.message
    assert refused.value.message.endswith(".")


def test_limits_name_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment_reader, "TEXT_LIMIT_CHARACTERS", 20)
    monkeypatch.setattr(attachment_reader, "PAGE_LIMIT", 2)
    with pytest.raises(InvalidRequest, match="it has 21 characters, and at most 20 are read; attach a part of it"):
        read(tmp_path, "long.txt", b"x" * 21)
    with pytest.raises(InvalidRequest, match="its first 2 pages have more than 20 characters"):
        read(tmp_path, "long.pdf", pdf(["A short line", "Another line"]))
    with pytest.raises(InvalidRequest, match="it has 3 pages, and at most 2 are read"):
        read(tmp_path, "many.pdf", pdf(["a", "b", "c"]))
