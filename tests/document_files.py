"""Documents of every kind that can be attached, made byte by byte: PDF, DOCX, HTML."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
PAGE_HTML = """<!DOCTYPE html><html><head><title>Lamps</title><style>p { color: red }</style><script>alert("no")</script></head>
<body><h1>Lamps &amp; light</h1><p>The lamp   is <b>bright</b>.<br>It is <a href="https://example.org/lamp">warm</a>.</p>
<ul><li>one</li><li>two</li></ul><pre>  kept
    as it is</pre><table><tr><th>name</th><th>watt</th></tr><tr><td>A</td><td>40</td></tr></table><img src="x.png" alt="a lamp"></body></html>"""


def pdf(pages: Sequence[str]) -> bytes:
    """A PDF with a line of text on each page; an empty text makes a page without any."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {len(objects)} 0 R >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n".encode()
    return out + f"startxref\n{start}\n%%EOF\n".encode()


def docx(body: str, *, footnotes: str = "", before: str = "", headers: Sequence[str] = (), footers: Sequence[str] = ()) -> bytes:
    """A Word document with these paragraphs and tables in WordprocessingML."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", f'<?xml version="1.0" encoding="UTF-8"?>{before}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>')
        if footnotes:
            archive.writestr("word/footnotes.xml", f'<w:footnotes xmlns:w="{WORD}">{footnotes}</w:footnotes>')
        for what, root, texts in (("header", "hdr", headers), ("footer", "ftr", footers)):
            for number, text in enumerate(texts, 1):
                archive.writestr(f"word/{what}{number}.xml", f'<w:{root} xmlns:w="{WORD}">{text}</w:{root}>')
    return packed.getvalue()


def paragraph(text: str, style: str = "", mark: str = "") -> str:
    """A paragraph; `mark` are further properties."""
    properties = (f'<w:pStyle w:val="{style}"/>' if style else "") + mark
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def table(*rows: Sequence[str]) -> str:
    """A table of one paragraph a cell."""
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"
