"""The check before a run, the runs with their curves, what they proved: drawn by `assets/training_runs.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class TrainingRuns(View):
    """Check, train, follow, compare, use."""

    module = "training_runs"
