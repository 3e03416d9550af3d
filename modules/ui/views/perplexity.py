"""How well models foresee a text, and the table of what was measured: drawn by `assets/perplexity.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class Perplexity(View):
    """Measure, follow, compare."""

    module = "perplexity"
