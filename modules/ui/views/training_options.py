"""Between the options form of a training run and the views: `show` fills the form, `collect` asks for what it holds.

The value is JSON text and reaches `assets/training_options.js` through Gradio's `watch`, not through a template.
"""

from __future__ import annotations

from modules.ui.views.frame import View


class TrainingOptionsBridge(View):
    """Carries options between the form and the browser's views."""

    module = "training_options"
    event_names = ("show", "collect")
