"""The models with what their headers say, load progress, memory and adapters: drawn by `assets/model_list.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class ModelList(View):
    """What is in the model folder and what is loaded.

    Events: `load_model` and `unload_model` with a name, `pick` (show the options of a model).
    """

    module = "model_list"
    event_names = ("load_model", "unload_model", "pick")
