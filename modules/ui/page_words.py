"""What the page says of itself to who shows a link to it: Gradio's template has its own name there, and a picture on another host."""

from __future__ import annotations

import re
from functools import wraps
from typing import Any

TEMPLATE = "frontend/index.html"
FOREIGN = re.compile(r"""\s*<meta\s+(?:property|name)="(?:(?:og|twitter):|description")[^>]*>""")
TITLE = "Paddock"
DESCRIPTION = "Run open models on your own machine: chat, notebook, training and an API."
OWN = f"""
		<meta name="description" content="{DESCRIPTION}" />
		<meta property="og:type" content="website" />
		<meta property="og:title" content="{TITLE}" />
		<meta property="og:description" content="{DESCRIPTION}" />"""


def own_words(template: str) -> str:
    """A template of Gradio's page with our words in place of its own."""
    return FOREIGN.sub("", template).replace("<head>", f"<head>{OWN}", 1)


def use_own_words(environment: Any) -> None:
    """Let Gradio's templates be found with our words in the page; it has no option for them. Doing it again changes nothing."""
    read = environment.loader.get_source
    if hasattr(read, "__wrapped__"):
        return

    @wraps(read)
    def get_source(asking: Any, name: str) -> tuple[str, Any, Any]:
        source, path, is_fresh = read(asking, name)
        return own_words(source) if name == TEMPLATE else source, path, is_fresh

    environment.loader.get_source = get_source
