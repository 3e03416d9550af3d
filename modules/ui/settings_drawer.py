"""The settings drawer: system prompt, preset, every generation parameter, template, adapters. One for conversations and the notebook.

Knows the form and the preset and template services. Whose settings are shown is the browser's business: the bridge says `show` with a key
and gets back JSON with the same key, so that an edit never lands in another conversation. What was edited it finds by comparing two readings
of the same form, so that only that is stored; the system prompt it reads itself while it is typed.
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from modules.core.errors import AppError
from modules.core.messages import THINKING_SWITCHES
from modules.core.params import GenerationParams
from modules.core.person import check_manages
from modules.services.presets import samplers_acting
from modules.ui.changing_choice import ChangingChoice
from modules.ui.form import Form
from modules.ui.grammar_files import GrammarFiles
from modules.ui.notices import as_text, notify, sentence
from modules.ui.preset_memory import PresetMemory, is_notebook
from modules.ui.views.adapter_choice import AdapterChoice
from modules.ui.views.settings_bridge import SettingsBridge
from modules.ui.views.settings_tools import SettingsTools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from modules.services.app import App

NEUTRAL = ""
THINKING = (("Model default", ""), ("On", "on"), ("Off", "off"))
EFFORTS = ("reasoning_effort",)  # the names of that option
EFFORT = (("Model default", ""), ("Low", "low"), ("Medium", "medium"), ("High", "high"))


class Shown(NamedTuple):
    """What stands above the parameters, as the components hold it."""

    template: str
    thinking: str
    effort: str
    preset: str


class SettingsDrawer:
    """Builds the drawer and wires it. Handlers are methods that take and return plain component values."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._form = Form(GenerationParams)
        self._memory = PresetMemory(app)
        self._grammar = GrammarFiles(app)
        self._reads = count(1)  # the browser hears only of an answer that is another than the last

    def build(self) -> None:
        """Make the components and their events in the page that is open now."""
        with gr.Column(elem_id="drawer"):
            self.bridge = SettingsBridge(elem_id="settings-bridge")
            with gr.Column(elem_id="settings-form", visible=False) as self.body:  # most of the page's components: drawn when first wanted
                # With the form in the browser, not on the server: what a form is read as belongs to what that form showed
                self.key = gr.Textbox(visible="hidden", label="Whose settings")
                self.asked = gr.Number(visible="hidden", label="Which showing", precision=0)
                self.problem = gr.Markdown("", elem_id="settings-problem", visible="hidden")
                with gr.Group(elem_id="conversation-settings"):
                    self.system = gr.Textbox(label="System prompt", placeholder="How the model should behave in this conversation", lines=3,
                                             max_lines=12, elem_id="system-prompt", interactive=True)  # fmt: skip
                    self.template = ChangingChoice(label="Prompt template", choices=[("The model's own", "")], value="", filterable=False,
                                                   info="How messages become the text that the model reads.")  # fmt: skip
                    self.thinking = gr.Dropdown(label="Thinking", choices=list(THINKING), value="", filterable=False,
                                                info="For models whose template can switch it.")  # fmt: skip
                    self.effort = gr.Dropdown(label="Reasoning effort", choices=list(EFFORT), value="", filterable=False)
                AdapterChoice(elem_id="adapter-choice")
                self.preset = ChangingChoice(label="Preset", choices=self._preset_choices(), value=NEUTRAL, elem_id="preset", filterable=False)
                self._memory.build_offer()
                with gr.Row(elem_id="preset-buttons"):
                    self.reset = gr.Button("Back to preset", size="sm")
                    self.neutral = gr.Button("Neutral", size="sm")
                self._memory.build_default()
                with gr.Accordion("Save as preset", open=False):
                    self.name = gr.Textbox(label="Name", max_lines=1, elem_id="preset-name")
                    self.replace = gr.Checkbox(label="Replace one of that name", value=False)
                    self.save = gr.Button("Save preset", size="sm", elem_id="preset-save")
                    self.delete = gr.Button("Delete the chosen preset", size="sm", variant="stop")
                    with gr.Group(visible=False, elem_id="preset-sure") as self.sure:
                        self.question = gr.Markdown("")
                        with gr.Row():
                            self.really = gr.Button("Delete it", size="sm", variant="stop")
                            self.keep = gr.Button("Keep it", size="sm")
                self.tools = SettingsTools(elem_id="settings-tools")
                self.told = gr.Markdown("", elem_id="preset-told", visible="hidden")
                self._form.build(open_groups=("Sampling",), beside={"grammar": self._grammar.build})
        self._wire()

    @property
    def _rest(self) -> list[Any]:
        return [self.template, self.thinking, self.effort, self.preset]

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        parts = self._form.components
        everything = [*self._rest, *parts]
        self.bridge.show(self.show, None, [self.bridge, self.key, self.asked, self.problem, self.system, *everything, *self._memory.parts, *self._grammar.parts],
                         trigger_mode="multiple", **quiet)  # fmt: skip  # the next is asked before the last came
        self.bridge.draw(lambda: gr.update(visible=True), None, self.body, **quiet)
        read, edited = [self.key, self.asked, *everything], [self.bridge, self.problem]
        edits = [part.input for part in [self.template, self.thinking, self.effort, *parts]]
        # Gradio's text boxes tell of typed characters only; the bridge tells of what was pasted, cut or deleted
        edits += [part.blur for part in parts if isinstance(part, gr.Textbox)]
        gr.on(edits, self.collect, read, edited, trigger_mode="always_last", **quiet)
        self.bridge.typed(self.collect, read, edited, trigger_mode="always_last", **quiet)
        self.template.input(self.switches, [self.template, self.thinking, self.effort], [self.thinking, self.effort], **quiet)
        afresh = [self.problem, *parts]
        for event, preset in ((self.preset.input, self.preset), (self.reset.click, self.preset)):
            event(self.apply_preset, preset, afresh, **quiet).then(self.collect, read, edited, **quiet)
        memory, chosen = self._memory, [self.key, self.preset]
        remembered = [self.preset, *memory.parts]
        self.preset.input(memory.chosen, chosen, remembered, **quiet)
        memory.default.click(memory.make_default, chosen, remembered, **quiet)
        for taken, named in ((self.neutral, lambda: NEUTRAL), (memory.offer, memory.taken)):
            taken.click(named, None, self.preset, **quiet).then(self.apply_preset, self.preset, afresh, **quiet).then(
                self.collect, read, edited, **quiet).then(memory.chosen, chosen, remembered, **quiet)  # fmt: skip
        self.tools.reset(self.reset_one, self.preset, afresh, **quiet).then(self.collect, read, edited, **quiet)
        self.preset.input(lambda: _problem(""), None, self.told, **quiet)
        self.tools.import_preset(self.import_preset, None, [self.told, self.preset, *afresh], **quiet).then(
            self.collect, read, edited, **quiet).then(memory.chosen, chosen, remembered, **quiet)  # fmt: skip
        self._grammar.wire(self._form.component("grammar"), quiet).then(self.collect, read, edited, **quiet)
        self.save.click(self.save_preset, [self.name, self.replace, *parts], [self.preset, self.problem], **quiet).then(
            self.collect, read, edited, **quiet).then(memory.chosen, chosen, remembered, **quiet)  # fmt: skip
        self.delete.click(self.ask_delete, self.preset, [self.sure, self.question], **quiet)
        self.keep.click(lambda: gr.update(visible=False), None, self.sure, **quiet)
        self.really.click(self.delete_preset, self.preset, [self.preset, self.problem, self.sure], **quiet).then(
            self.collect, read, edited, **quiet).then(memory.told, chosen, remembered, **quiet)  # fmt: skip

    # ---- handlers --------------------------------------------------------------------------------------------------

    async def show(self, event: gr.EventData) -> list[Any]:
        """Fill the form with the settings that a view has open."""
        data: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        settings: dict[str, Any] = data.get("settings") or {}
        variables = settings.get("template_variables") or {}
        key, asked, preset = str(data.get("key") or ""), int(data.get("asked") or 0), str(settings.get("preset") or "")
        problem, params = "", GenerationParams()
        try:
            params = self._app.presets.merge(preset, settings.get("params") or {})
        except AppError as error:
            problem = error.message
        model = self._app.template_doctor.model()
        usual = f"{model['template']}, as chosen for the model" if model and model["template"] else "The model's own"
        templates = [(usual, "")] + [(row.name, row.name) for row in await self._app.templates.list() if not row.problem]
        thinking, effort = variables.get("enable_thinking"), variables.get("reasoning_effort") or ""
        offered = await self._app.template_doctor.variables(settings.get("template") or "")
        shown = Shown(settings.get("template") or "", "" if thinking is None else "on" if thinking else "off", effort, preset)
        return [
            _told(params, key=key, asked=asked, shown=self._settings(key, shown, None if problem else params)), key, asked, _problem(problem),
            settings.get("system_prompt") or "", gr.update(choices=templates, value=shown.template),
            gr.update(value=shown.thinking, visible=_shown(offered, THINKING_SWITCHES, thinking is not None)),
            gr.update(value=effort, visible=_shown(offered, EFFORTS, bool(effort))),
            gr.update(choices=self._preset_choices(), value=preset, info=self._memory.sentence(key, preset)), *self._form.updates(params),
            *self._memory.buttons(key, preset), *self._grammar.looked_at(params.grammar),
        ]  # fmt: skip

    async def switches(self, template: str, thinking: str, effort: str) -> list[Any]:
        """Show the switches that another template has."""
        offered = await self._app.template_doctor.variables(template)
        return [gr.update(visible=_shown(offered, THINKING_SWITCHES, bool(thinking))), gr.update(visible=_shown(offered, EFFORTS, bool(effort)))]

    def collect(self, key: str, asked: float | None, *values: Any) -> list[Any]:
        """What the form holds as settings; parameters that cannot be read are told, and do not keep the rest from being stored."""
        shown = Shown(*values[:4])
        told, params = "", None
        try:
            self._app.presets.merge(shown.preset, {})
            params = self._form.read(values[4:])
        except AppError as error:
            told = error.message
        return [_told(params, key=key, asked=int(asked or 0), read=next(self._reads), settings=self._settings(key, shown, params)), _problem(told)]

    def _settings(self, key: str, shown: Shown, params: BaseModel | None) -> dict[str, Any]:
        """The form as settings: only what differs from the preset is kept in `params`, and of the template's variables those that have a control."""
        settings: dict[str, Any] = {"preset": shown.preset}
        if params is not None:
            before = self._app.presets.merge(shown.preset, {}).model_dump(mode="json")
            settings["params"] = {name: value for name, value in params.model_dump(mode="json").items() if value != before[name]}
        if not is_notebook(key):
            variables = {"enable_thinking": shown.thinking == "on"} if shown.thinking else {}
            effort = {"reasoning_effort": shown.effort} if shown.effort else {}
            settings.update(template=shown.template, template_variables={**variables, **effort})
        return settings

    def apply_preset(self, preset: str) -> list[Any]:
        """Show the values of a preset."""
        try:
            return [_problem(""), *self._form.updates(self._app.presets.merge(preset, {}))]
        except AppError as error:
            return [_problem(error.message), *(gr.update() for _ in self._form.fields)]

    def reset_one(self, preset: str, event: gr.EventData) -> list[Any]:
        """Show the preset's value of one parameter."""
        name = str(event._data.get("name") or "") if isinstance(event._data, dict) else ""
        try:
            return [_problem(""), *self._form.only(name, self._app.presets.merge(preset, {}))]
        except AppError as error:
            return [_problem(error.message), *(gr.skip() for _ in self._form.fields)]

    def import_preset(self, event: gr.EventData) -> list[Any]:
        """Keep a preset file of this or another program under its name, and choose it."""
        told = event._data if isinstance(event._data, dict) else {}
        try:
            check_manages(self._app.settings)
            name, left_out = self._app.presets.import_file(str(told.get("name") or ""), str(told.get("text") or ""))
        except AppError as error:
            return [_problem(sentence(error)), gr.skip(), *(gr.skip() for _ in range(1 + len(self._form.fields)))]
        more = f" Left out, as it has no place here: {', '.join(left_out)}." if left_out else ""
        return [_problem(as_text(f"“{name}” is imported.{more}")), gr.update(choices=self._preset_choices(), value=name), *self.apply_preset(name)]

    def save_preset(self, name: str, replace: bool, *shown: Any) -> list[Any]:
        """Keep the values shown under a name."""
        try:
            check_manages(self._app.settings)
            saved = self._app.presets.save(name, self._form.read(shown), overwrite=replace)  # type: ignore[arg-type]
        except AppError as error:
            return [gr.update(), _problem(sentence(error))]
        gr.Info(f"Saved as “{saved}”.", title="Preset")
        return [gr.update(choices=self._preset_choices(), value=saved), _problem("")]

    def ask_delete(self, preset: str) -> list[Any]:
        """A preset is gone when it is deleted, so it is asked first."""
        return [gr.update(visible=bool(preset)), f"Delete the preset “{preset}” for good?"]

    def delete_preset(self, preset: str) -> list[Any]:
        """Delete the chosen preset; the values shown stay."""
        gone = gr.update(visible=False)
        try:
            check_manages(self._app.settings)
            if preset:
                self._app.presets.delete(preset)
        except AppError as error:
            notify(error)
            return [gr.update(), gr.update(), gone]
        return [gr.update(choices=self._preset_choices(), value=NEUTRAL), _problem(""), gone]

    def _preset_choices(self) -> list[tuple[str, str]]:
        return [("Neutral", NEUTRAL)] + [(row.name, row.name) for row in self._app.presets.list() if not row.problem]


def _shown(offered: tuple[str, ...] | None, names: Sequence[str], is_set: bool) -> Any:
    """Whether a control of an option of templates, which have it under one of these names, is shown: also where the template is not known, and where it is set."""
    return True if is_set or offered is None or not set(names).isdisjoint(offered) else "hidden"


def _told(params: BaseModel | None, **more: Any) -> str:
    """What the browser is told through the bridge: perhaps settings, which samplers take part, and the neutral values of what is not neutral."""
    if params is not None:
        neutral, values = GenerationParams().model_dump(mode="json"), params.model_dump(mode="json")
        apart = {name: neutral[name] for name, value in values.items() if value != neutral[name]}
        more = {**more, "acting": samplers_acting(params), "apart": apart}  # type: ignore[arg-type]
    return json.dumps(more)


def _problem(message: str) -> Any:
    return gr.update(value=message, visible=True if message else "hidden")
