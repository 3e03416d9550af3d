"""Puts the page onto an HTTP application, at its root, below the routes that are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modules.core.telemetry import NO_TELEMETRY

if TYPE_CHECKING:
    from modules.services.app import App


def mount_page(api: Any, app: App) -> Any:
    """Build the page of `app` and mount it on the ASGI application `api`; the application with the page."""
    import gradio as gr

    from modules.ui.app import build_page, page_options
    from modules.ui.event_queue import EventQueue

    page = build_page(app)
    EventQueue.instead_of(page._queue)
    options = {**page_options(), "app_kwargs": {"telemetry": NO_TELEMETRY}}
    return gr.mount_gradio_app(api, page, path="/", root_path=app.settings.root_path or None, **options)
