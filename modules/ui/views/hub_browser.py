"""Search of the hub, what a repository offers, downloads: drawn by `assets/hub_browser.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class HubBrowser(View):
    """From “I have heard of a model” to a model in the list."""

    module = "hub_browser"
