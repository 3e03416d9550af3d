"""What is to be learned and by which model: data, base model, name: drawn by `assets/training_setup.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class TrainingSetup(View):
    """From a file of examples to a run that can be checked."""

    module = "training_setup"
