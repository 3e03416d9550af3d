"""The page as a whole: sidebar, areas, settings drawer, and the options it is mounted with.

A new area is one file in `tabs/` and one row in `TABS`. Knows no routes: the views' scripts call those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.ui.page_files import ASSETS, FONTS, VERSION, address
from modules.ui.page_start import top_of_page, with_top
from modules.ui.render import BlockCache, Renderer, StreamingRenderer
from modules.ui.settings_drawer import SettingsDrawer
from modules.ui.tabs import chat, models, notebook, templates, training
from modules.ui.theme import build_theme
from modules.ui.views.conversation_list import ConversationList

if TYPE_CHECKING:
    from modules.services.app import App

TABS: tuple[tuple[str, str, Callable[[App], None]], ...] = (
    ("chat", "Chat", chat.build),
    ("notebook", "Notebook", notebook.build),
    ("models", "Models", models.build),
    ("training", "Training", training.build),
    ("templates", "Templates", templates.build),
)
# Gradio scopes and inlines `css_paths`; links keep our rules as written. Until they have come nothing half-styled is shown.
STYLES = (
    "app", "training", "characters", "keys", "notebook", "formulas", "templates", "settings", "conversations", "chat_menu", "chat_looks", "attachments",
    "receipts", "people", "accounts",
)  # fmt: skip
META = """
<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<meta name="color-scheme" content="light dark">
"""


def build_page(app: App) -> gr.Blocks:
    """All components and events of the page."""
    with gr.Blocks(title="Paddock", analytics_enabled=False, fill_width=True, fill_height=True, elem_id="paddock") as page:
        ConversationList(elem_id="side")
        with gr.Tabs(elem_id="areas", selected="chat"):
            for name, label, build in TABS:
                with gr.Tab(label, id=name, elem_id=f"area-{name}"):
                    build(app)
        SettingsDrawer(app).build()
    page.queue(default_concurrency_limit=8)
    # A mounted app leaves Gradio's check of file paths off unless this is set: any file could be read by naming it.
    page.has_launched = True
    return page


def head() -> str:
    """What the page's head holds beside Gradio's own."""
    links = [f'<link rel="stylesheet" href="{address(name)}.css">' for name in STYLES]
    return "\n".join(["", *links, f'<link rel="icon" href="{address("icon.svg")}" type="image/svg+xml">', META.strip(), ""])


def page_options() -> dict[str, Any]:
    """Keyword arguments for `gr.mount_gradio_app`."""
    return {
        "theme": build_theme(),
        "head": head(),
        "css": "body:not([data-area]) .gradio-container { visibility: hidden; }",
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "ssr_mode": False,
        "pwa": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "max_file_size": "32mb",
    }


class ViewRendering:
    """What the page's routes need from the page: finished texts, growing texts, the folder of scripts, the page as it is sent."""

    def __init__(self) -> None:
        self._renderer = Renderer()
        self._cache = BlockCache(self._renderer)
        self.assets = ASSETS
        self.assets_version = VERSION
        self.fonts = FONTS
        self._top = top_of_page().encode()

    def blocks(self, text: str) -> tuple[str, ...]:
        """Safe HTML blocks of a finished text."""
        return self._cache.blocks(text)

    def streaming(self) -> StreamingRenderer:
        """A renderer for one growing text."""
        return StreamingRenderer(self._renderer)

    def whole_page(self, html: bytes) -> bytes:
        """What is sent of the page that Gradio made."""
        return with_top(html, self._top)
