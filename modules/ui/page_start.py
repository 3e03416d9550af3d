"""The page as it is sent: what must run before Gradio's scripts stands at its top, and it has words of its own for who shows a link to it.

What Gradio's `head` option is given runs after its scripts, and in place of our words it would have its own name, and pictures on another host.
"""

from __future__ import annotations

import re

from modules.ui.page_files import address

BEFORE_GRADIO = "frames.js"
BASE = re.compile(rb"<base [^>]*>")  # addresses below it are relative to the page; it stands before anything else that has one
SCRIPT = b"<script"
FOREIGN = re.compile(rb"""\s*<meta\s+(?:property|name)="(?:(?:og|twitter):|description")[^>]*>""")
DESCRIPTION = "Run open models on your own machine: chat, notebook, training and an API."
OWN = f"""
		<meta name="description" content="{DESCRIPTION}" />
		<meta property="og:type" content="website" />
		<meta property="og:title" content="Paddock" />
		<meta property="og:description" content="{DESCRIPTION}" />"""


def top_of_page() -> str:
    """What `with_top` puts in."""
    return f'{OWN}<script src="{address(BEFORE_GRADIO)}"></script>'


def with_top(html: bytes, top: bytes) -> bytes:
    """Gradio's page with `top` where its head begins, in place of what Gradio says of the page there."""
    head, script, rest = html.partition(SCRIPT)
    return BASE.sub(lambda base: base[0] + top, FOREIGN.sub(b"", head), count=1) + script + rest
