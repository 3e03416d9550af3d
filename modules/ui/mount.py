"""Puts the page onto an HTTP application, at its root, below the routes that are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.services.app import App


def mount_page(api: Any, app: App) -> Any:
    """Build the page of `app` and mount it on the ASGI application `api`; the application with the page."""
    import gradio as gr

    from modules.ui.app import build_page, page_options

    page = build_page(app)
    page._queue.sleep_when_free = 0.1  # the idle queue looks for work this often; the default costs 5 % of a core, and each look disturbs a stream
    page._queue.progress_update_sleep_when_free = 0.1
    return gr.mount_gradio_app(api, page, path="/", root_path=app.settings.root_path or None, **page_options())
