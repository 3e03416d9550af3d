"""What stands at the top of the page that Gradio sends: what must run before Gradio's scripts. What its `head` option is given runs after them."""

from __future__ import annotations

import re

from modules.ui.page_files import address

BEFORE_GRADIO = "frames.js"
BASE = re.compile(rb"<base [^>]*>")  # addresses below it are relative to the page; it stands before anything else that has one


def top_of_page() -> str:
    """What `with_top` puts in."""
    return f'<script src="{address(BEFORE_GRADIO)}"></script>'


def with_top(html: bytes, top: bytes) -> bytes:
    """Gradio's page with `top` where its head begins."""
    return BASE.sub(lambda base: base[0] + top, html, count=1)
