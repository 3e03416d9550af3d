"""Between the settings form and the views: `show` asks the form to show settings, the value is what the person made of them. `typed` has it read.

`draw` has the form drawn: that is most of what the page would draw at its start, and few visits want it.

The value is JSON text and reaches `assets/settings_bridge.js` through Gradio's `watch`, not through a template.
"""

from __future__ import annotations

from modules.ui.views.frame import View


class SettingsBridge(View):
    """Carries settings between the form and the browser's views."""

    module = "settings_bridge"
    event_names = ("draw", "show", "typed")
