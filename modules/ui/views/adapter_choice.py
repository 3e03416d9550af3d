"""The adapters of the open conversation or of the notebook, in the settings drawer: drawn by `assets/adapter_choice.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class AdapterChoice(View):
    """Own adapters with their scales, or those of the model."""

    module = "adapter_choice"
