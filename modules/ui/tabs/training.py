"""Training: from a file of examples to an adapter that proved itself.

Data, runs and what they prove are custom views over the page's own routes; the options are stock components made from the pydantic model
of a run. Knows the options of the training service; reads no data and starts nothing itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gradio as gr
from pydantic import BaseModel

from modules.core.errors import AppError
from modules.ui.form import Form, FormField, checked
from modules.ui.views.perplexity import Perplexity
from modules.ui.views.training_options import TrainingOptionsBridge
from modules.ui.views.training_runs import TrainingRuns
from modules.ui.views.training_setup import TrainingSetup

if TYPE_CHECKING:
    from modules.services.app import App

FIRST = ("rank", "epochs", "learning_rate", "batch_size", "micro_batch_size")  # what most people look at
SHOWN = -1  # in place of a question: the browser may let the form be typed in again
HEADING = "<h2>3 · Options</h2><p>These suit a small data set. Check, further down, tells what they cost and what to change.</p>"


def build(app: App) -> None:
    """Make the tab's components in the layout that is open now."""
    TrainingTab(app).build()


class TrainingTab:
    """Components of the tab and their handlers."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._form = Form(app.training.options)

    def build(self) -> None:
        """Make the components and their events."""
        with gr.Column(elem_id="training"):
            TrainingSetup(elem_id="training-setup")
            with gr.Column(elem_id="training-options", elem_classes="option-grid"):
                gr.HTML(HEADING, elem_id="training-options-title", apply_default_css=False, js_on_load=None)
                self.problem = gr.Markdown("", elem_id="training-problem", visible="hidden")
                self._form.build(first=FIRST)
                with gr.Row(elem_id="training-options-buttons"):
                    self.defaults = gr.Button("Back to defaults", size="sm", elem_id="training-defaults")
            self.bridge = TrainingOptionsBridge(elem_id="training-bridge")
            TrainingRuns(elem_id="training-runs")
            Perplexity(elem_id="perplexity")
        self._wire()

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        parts = self._form.components
        told = [self.bridge, self.problem]
        edits = [part.input for part in parts]
        # Gradio's text boxes tell of typed characters only; what was pasted, cut or deleted counts when the box is left
        edits += [part.blur for part in parts if isinstance(part, gr.Textbox)]
        raw = {**quiet, "preprocess": False}  # a value out of its range must reach us: it is kept, and our sentence names its limit
        gr.on(edits, self.collect_edit, parts, told, trigger_mode="always_last", **raw)
        self.bridge.collect(self.collect, parts, told, trigger_mode="multiple", **raw)
        self.bridge.show(self.show, None, [self.problem, *parts], **quiet).then(self.collect_shown, parts, told, **raw)
        self.defaults.click(self.show_defaults, None, [self.problem, *parts], **quiet).then(self.collect_edit, parts, told, **raw)

    # ---- handlers --------------------------------------------------------------------------------------------------

    def collect(self, event: gr.EventData, *shown: Any) -> list[Any]:
        """What the form holds now, as an answer to the question with that number."""
        return self._collected(int(_told(event).get("question") or 0), shown)

    def collect_edit(self, *shown: Any) -> list[Any]:
        """What the form holds after an edit."""
        return self._collected(0, shown)

    def collect_shown(self, *shown: Any) -> list[Any]:
        """What the form holds once it shows what it was asked to show."""
        return self._collected(SHOWN, shown)

    def _collected(self, question: int, shown: tuple[Any, ...]) -> list[Any]:
        """As JSON: the options, or null and the sentence; and everything as it is shown, which a reload brings back even if it is wrong."""
        options, problem = None, ""
        try:
            options = self._form.read(shown).model_dump(mode="json")
        except AppError as error:
            problem = error.message
        raw = {field.name: value for field, value in zip(self._form.fields, shown, strict=True)}
        return [json.dumps({"question": question, "options": options, "problem": problem, "shown": raw}), _problem(problem)]

    def show(self, event: gr.EventData) -> list[Any]:
        """Fill the form: with options of a run, or with what was shown before a reload."""
        told = _told(event)
        raw = told.get("shown")
        if isinstance(raw, dict):
            return [_problem(""), *(self._as_shown(field, raw) for field in self._form.fields)]
        given = told.get("options")
        return [_problem(""), *self._form.updates(_options(self._form.model, given if isinstance(given, dict) else {}))]

    def _as_shown(self, field: FormField, raw: dict[str, Any]) -> Any:
        """The update of one field to a value that a component held; what cannot be shown any more is the default."""
        value = raw.get(field.name)
        fits = {"switch": isinstance(value, bool), "slider": _is_number(value), "number": value is None or _is_number(value), "choice": value in field.choices}
        if field.name not in raw or not fits.get(field.kind, value is None or isinstance(value, str | list)):
            return field.update(field.default)
        return field.update(value) if field.kind == "slider" else gr.update(value=value)

    def show_defaults(self) -> list[Any]:
        """All options as they are without a choice."""
        return [_problem(""), *self._form.updates(self._form.model())]


def _told(event: gr.EventData) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _options(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    """Options as they were given; one that this version does not know, or does not take any more, is the default."""
    known = {name: value for name, value in given.items() if name in model.model_fields}
    try:
        return checked(model, known)
    except AppError as error:
        known.pop(str(error.details.get("field") or ""), None)
        try:
            return checked(model, known)
        except AppError:
            return model()


def _problem(message: str) -> Any:
    return gr.update(value=message, visible=True if message else "hidden")
