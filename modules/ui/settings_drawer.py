"""The settings drawer: system prompt, preset, every generation parameter, template, adapters. One for conversations and the notebook.

Knows the form and the preset and template services. Whose settings are shown is the browser's business: the bridge says `show` with a key
and gets back JSON with the same key, so that an edit never lands in another conversation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.core.errors import AppError
from modules.core.params import GenerationParams
from modules.ui.form import Form
from modules.ui.notices import notify, sentence
from modules.ui.views.adapter_choice import AdapterChoice
from modules.ui.views.settings_bridge import SettingsBridge

if TYPE_CHECKING:
    from modules.services.app import App

NEUTRAL = ""
THINKING = (("Model default", ""), ("On", "on"), ("Off", "off"))
EFFORT = (("Model default", ""), ("Low", "low"), ("Medium", "medium"), ("High", "high"))


class SettingsDrawer:
    """Builds the drawer and wires it. Handlers are methods that take and return plain component values."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._form = Form(GenerationParams)

    def build(self) -> None:
        """Make the components and their events in the page that is open now."""
        with gr.Column(elem_id="drawer"):
            gr.HTML("<h2>Settings</h2>", elem_id="drawer-title", apply_default_css=False, js_on_load=None)
            self.bridge = SettingsBridge(elem_id="settings-bridge")
            self.key = gr.State("")
            self.problem = gr.Markdown("", elem_id="settings-problem", visible="hidden")
            with gr.Group(elem_id="conversation-settings"):
                self.system = gr.Textbox(label="System prompt", placeholder="How the model should behave in this conversation", lines=3,
                                         max_lines=12, elem_id="system-prompt")  # fmt: skip
                self.template = gr.Dropdown(label="Prompt template", choices=[("The model's own", "")], value="", filterable=False,
                                            info="How messages become the text that the model reads.")  # fmt: skip
                self.thinking = gr.Dropdown(label="Thinking", choices=list(THINKING), value="", filterable=False,
                                            info="For models whose template can switch it.")  # fmt: skip
                self.effort = gr.Dropdown(label="Reasoning effort", choices=list(EFFORT), value="", filterable=False)
            AdapterChoice(elem_id="adapter-choice")
            self.preset = gr.Dropdown(label="Preset", choices=self._preset_choices(), value=NEUTRAL, elem_id="preset", filterable=False)
            with gr.Row(elem_id="preset-buttons"):
                self.reset = gr.Button("Back to preset", size="sm")
                self.neutral = gr.Button("Neutral", size="sm")
            with gr.Accordion("Save as preset", open=False):
                self.name = gr.Textbox(label="Name", max_lines=1, elem_id="preset-name")
                self.replace = gr.Checkbox(label="Replace one of that name", value=False)
                self.save = gr.Button("Save preset", size="sm", elem_id="preset-save")
                self.delete = gr.Button("Delete the chosen preset", size="sm", variant="stop")
            self._form.build(open_groups=("Sampling",))
        self._wire()

    @property
    def _rest(self) -> list[Any]:
        return [self.system, self.template, self.thinking, self.effort, self.preset]

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        parts = self._form.components
        everything = [*self._rest, *parts]
        self.bridge.show(self.show, None, [self.key, self.problem, *everything], **quiet)
        edited = [self.bridge, self.problem]
        edits = [part.input for part in [self.system, self.template, self.thinking, self.effort, *parts]]
        # Gradio's text boxes tell of typed characters only; what was pasted, cut or deleted counts when the box is left
        edits += [part.blur for part in [self.system, *parts] if isinstance(part, gr.Textbox)]
        gr.on(edits, self.collect, [self.key, *everything], edited, trigger_mode="always_last", **quiet)
        afresh = [self.problem, *parts]
        for event, preset in ((self.preset.input, self.preset), (self.reset.click, self.preset)):
            event(self.apply_preset, preset, afresh, **quiet).then(self.collect, [self.key, *everything], edited, **quiet)
        self.neutral.click(lambda: (NEUTRAL, *self.apply_preset(NEUTRAL)), None, [self.preset, *afresh], **quiet).then(
            self.collect, [self.key, *everything], edited, **quiet)  # fmt: skip
        self.save.click(self.save_preset, [self.name, self.replace, *parts], [self.preset, self.problem], **quiet).then(
            self.collect, [self.key, *everything], edited, **quiet)  # fmt: skip
        self.delete.click(self.delete_preset, self.preset, [self.preset, self.problem], **quiet).then(
            self.collect, [self.key, *everything], edited, **quiet)  # fmt: skip

    # ---- handlers --------------------------------------------------------------------------------------------------

    async def show(self, event: gr.EventData) -> list[Any]:
        """Fill the form with the settings that a view has open."""
        data: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        settings: dict[str, Any] = data.get("settings") or {}
        variables = settings.get("template_variables") or {}
        preset = str(settings.get("preset") or "")
        problem, params = "", GenerationParams()
        try:
            params = self._app.presets.merge(preset, settings.get("params") or {})
        except AppError as error:
            problem = error.message
        templates = [("The model's own", "")] + [(row.name, row.name) for row in await self._app.templates.list() if not row.problem]
        thinking = variables.get("enable_thinking")
        return [
            str(data.get("key") or ""), _problem(problem), settings.get("system_prompt") or "",
            gr.update(choices=templates, value=settings.get("template") or ""),
            "" if thinking is None else "on" if thinking else "off", variables.get("reasoning_effort") or "",
            gr.update(choices=self._preset_choices(), value=preset), *self._form.updates(params),
        ]  # fmt: skip

    def collect(self, key: str, system: str, template: str, thinking: str, effort: str, preset: str, *shown: Any) -> list[Any]:
        """What the form holds as settings: only what differs from the preset is kept in `params`."""
        try:
            params = self._form.read(shown)
            base = self._app.presets.merge(preset, {})
        except AppError as error:
            return [gr.update(), _problem(error.message)]
        values, before = params.model_dump(mode="json"), base.model_dump(mode="json")
        variables: dict[str, Any] = {}
        if thinking:
            variables["enable_thinking"] = thinking == "on"
        if effort:
            variables["reasoning_effort"] = effort
        settings: dict[str, Any] = {"preset": preset, "params": {name: value for name, value in values.items() if value != before[name]}}
        if key != "notebook":
            settings.update(system_prompt=system, template=template, template_variables=variables)
        return [json.dumps({"key": key, "settings": settings}), _problem("")]

    def apply_preset(self, preset: str) -> list[Any]:
        """Show the values of a preset."""
        try:
            return [_problem(""), *self._form.updates(self._app.presets.merge(preset, {}))]
        except AppError as error:
            return [_problem(error.message), *(gr.update() for _ in self._form.fields)]

    def save_preset(self, name: str, replace: bool, *shown: Any) -> list[Any]:
        """Keep the values shown under a name."""
        try:
            saved = self._app.presets.save(name, self._form.read(shown), overwrite=replace)  # type: ignore[arg-type]
        except AppError as error:
            return [gr.update(), _problem(sentence(error))]
        gr.Info(f"Saved as “{saved}”.", title="Preset")
        return [gr.update(choices=self._preset_choices(), value=saved), _problem("")]

    def delete_preset(self, preset: str) -> list[Any]:
        """Delete the chosen preset; the values shown stay."""
        try:
            if preset:
                self._app.presets.delete(preset)
        except AppError as error:
            notify(error)
            return [gr.update(), gr.update()]
        return [gr.update(choices=self._preset_choices(), value=NEUTRAL), _problem("")]

    def _preset_choices(self) -> list[tuple[str, str]]:
        return [("Neutral", NEUTRAL)] + [(row.name, row.name) for row in self._app.presets.list() if not row.problem]


def _problem(message: str) -> Any:
    return gr.update(value=message, visible=True if message else "hidden")
