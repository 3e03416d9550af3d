"""Other servers whose models can be used: drawn by `assets/remote_servers.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class RemoteServersView(View):
    """Add, test and remove servers; see how they are. Events: `load_model` and `unload_model` with a name."""

    module = "remote_servers"
    event_names = ("load_model", "unload_model")
