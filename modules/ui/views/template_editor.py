"""Prompt templates: list, editor, how one writes a conversation: drawn by `assets/template_editor.js`."""

from __future__ import annotations

from modules.ui.views.frame import View


class TemplateEditor(View):
    """List, editor and look at prompt templates."""

    module = "template_editor"
