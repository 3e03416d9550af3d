"""The frame of every custom component: a fixed skeleton, and one line of script that hands it to an ES module.

Gradio executes what stands in a component's template, so the templates here hold no data and are never given any: the module asks the
server's own routes and builds its elements itself.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from modules.ui.page_files import address

SKELETON = '<div class="view" aria-busy="true"></div>'
# Event names must stand quoted in the script: Gradio makes listeners of the quoted words it finds.
SCRIPT = """
import(new URL('%(address)s', document.baseURI).href)
  .then((module) => module.mount(element.querySelector('.view'), {props, watch, trigger: (name, data) => trigger(name, data)}))
  .catch((error) => { element.textContent = 'This part of the page could not be loaded. Reload the page. (' + error.message + ')'; });
// events: %(events)s
"""


class View(gr.HTML):
    """A component whose content is drawn by `assets/MODULE.js`."""

    module = ""
    event_names: tuple[str, ...] = ()

    def __init__(self, value: Any = None, **options: Any) -> None:
        super().__init__(
            value=value,
            html_template=SKELETON,
            js_on_load=SCRIPT % {"address": address(f"{self.module}.js"), "events": ", ".join(f"'{name}'" for name in self.event_names)},
            apply_default_css=False,
            padding=False,
            container=False,
            **options,
        )

    def api_info(self) -> dict[str, Any]:
        """The value, if any, is text."""
        return {"type": "string"}
