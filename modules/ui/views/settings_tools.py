"""Above the parameters: a search, what differs from the preset, presets from files: drawn by `assets/settings_tools.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class SettingsTools(View):
    """Tells the form `reset` with the name of a parameter, and `import_preset` with name and text of a file."""

    module = "settings_tools"
    event_names = ("reset", "import_preset")
