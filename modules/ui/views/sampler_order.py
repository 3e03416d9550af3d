"""The order in which the samplers act, to be dragged: drawn by `assets/sampler_order.js`.

The value is JSON text, {"label", "info", "usual", "order"}: all samplers in the usual order, and those in use in the order chosen.
"""

from __future__ import annotations

from typing import Any

from modules.ui.views.frame import View


class SamplerOrder(View):
    """A form field: `input` tells that the person changed the order."""

    module = "sampler_order"
    event_names = ("input",)

    def __init__(self, value: Any = None, *, info: str = "", **options: Any) -> None:
        super().__init__(value, **options)
        self.info = info
