"""Models: what is in the model folder, load and unload, the options of each loader, LoRA adapters.

The list is a custom view that follows the server's own state, so progress survives a reload; the option forms are made from the loaders'
pydantic models. Knows the model service; loads nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.core.errors import AppError, InvalidRequest
from modules.core.model import Adapter
from modules.ui.form import Form, checked
from modules.ui.notices import attempt, notify, sentence
from modules.ui.views.hub_browser import HubBrowser
from modules.ui.views.model_list import ModelList

if TYPE_CHECKING:
    from modules.services.app import App

NOTHING_PICKED = "Choose **Options** on a model to set how it is loaded."


def build(app: App) -> None:
    """Make the tab's components in the layout that is open now."""
    ModelsTab(app).build()


class ModelsTab:
    """Components of the tab and their handlers."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._loaders = app.models.loaders()
        self._forms = {spec.name: Form(spec.options) for spec in self._loaders}

    def build(self) -> None:
        """Make the components and their events."""
        with gr.Column(elem_id="models"):
            self.view = ModelList(elem_id="model-list")
            self.picked = gr.State("")
            with gr.Column(elem_id="load-options", visible=False) as self.panel:
                self.title = gr.Markdown(NOTHING_PICKED)
                self.problem = gr.Markdown("", elem_id="load-problem", visible="hidden")
                self.loader = gr.Dropdown(label="Loader", choices=[(spec.title, spec.name) for spec in self._loaders], filterable=False,
                                          elem_id="loader")  # fmt: skip
                self.groups: list[gr.Column] = []
                for spec in self._loaders:
                    with gr.Column(visible=False, elem_classes="option-grid", elem_id=f"options-{spec.name.replace('.', '-')}") as group:
                        self._forms[spec.name].build()
                    self.groups.append(group)
                with gr.Row(elem_id="load-buttons"):
                    self.defaults = gr.Button("Back to defaults")
                    self.load = gr.Button("Load with these options", variant="primary", elem_id="load-with-options")
            HubBrowser(elem_id="hub-browser")
        self._wire()

    @property
    def _parts(self) -> list[Any]:
        return [part for spec in self._loaders for part in self._forms[spec.name].components]

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        self.view.load_model(self.load_remembered, None, None, **quiet)
        self.view.unload_model(self.unload, None, None, **quiet)
        self.view.adapt(self.adapt, None, None, **quiet)
        self.view.pick(self.pick, None, [self.picked, self.panel, self.title, self.problem, self.loader, *self.groups, *self._parts], **quiet)
        self.loader.input(self.show_loader, self.loader, self.groups, **quiet)
        self.defaults.click(self.show_defaults, None, self._parts, **quiet)
        self.load.click(self.load_as_shown, [self.picked, self.loader, *self._parts], self.problem, **quiet)

    # ---- handlers --------------------------------------------------------------------------------------------------

    async def pick(self, event: gr.EventData) -> list[Any]:
        """Show the options of a model as they were last used."""
        name = _told(event, "name")
        try:
            info = await self._app.models.find(name)
            specs = self._app.models.loaders_for(info)
            if not specs:
                raise InvalidRequest(info.problem or f"No loader reads “{name}”.")
        except AppError as error:
            notify(error)
            return [gr.update()] * (5 + len(self.groups) + len(self._parts))
        remembered = self._app.models.remembered(name)
        chosen = remembered.loader if remembered.loader in {spec.name for spec in specs} else specs[0].name
        values: list[Any] = []
        for spec in self._loaders:
            values += self._forms[spec.name].updates(_options(spec.options, remembered.options if spec.name == chosen else {}))
        title = gr.update(value=f"### Load {_plain(name)}")
        loader = gr.update(choices=[(spec.title, spec.name) for spec in specs], value=chosen)
        return [name, gr.update(visible=True), title, _problem(""), loader, *self.show_loader(chosen), *values]

    def show_loader(self, chosen: str) -> list[Any]:
        """Only the chosen loader's options are visible."""
        return [gr.update(visible=spec.name == chosen) for spec in self._loaders]

    def show_defaults(self) -> list[Any]:
        """All options as they are without a choice."""
        return [update for spec in self._loaders for update in self._forms[spec.name].updates(spec.options())]

    async def load_as_shown(self, name: str, loader: str, *shown: Any) -> Any:
        """Load the picked model with the options shown; a failure stays as a sentence above the form."""
        position = 0
        try:
            for spec in self._loaders:
                form = self._forms[spec.name]
                end = position + len(form.fields)
                if spec.name == loader:
                    options = form.read(shown[position:end])
                    await self._app.models.load(name, loader, options.model_dump(mode="json", exclude_defaults=True))
                position = end
        except AppError as error:
            return _problem(sentence(error))
        return _problem("")

    async def load_remembered(self, event: gr.EventData) -> None:
        """Load a model as it was last loaded; the list itself shows why a load failed."""
        choice = self._app.models.remembered(_told(event, "name"))
        await attempt(self._app.models.load(choice.name, choice.loader, choice.options), notice=False)

    async def unload(self, event: gr.EventData) -> None:
        """Give a model's memory back."""
        await attempt(self._app.models.unload(_told(event, "name")))

    async def adapt(self, event: gr.EventData) -> None:
        """Put exactly the chosen adapters into use."""
        data = event._data if isinstance(event._data, dict) else {}
        try:
            adapters = [checked(Adapter, {"path": row.get("name"), "scale": row.get("scale")}) for row in data.get("adapters") or []]
        except (AppError, AttributeError) as error:
            notify(error)
            return
        if not await attempt(self._app.models.set_adapters(_told(event, "name"), adapters)):  # type: ignore[arg-type]
            gr.Info("The adapters are in use." if adapters else "No adapter is in use.", title="LoRA")


def _told(event: gr.EventData, name: str) -> str:
    data = event._data if isinstance(event._data, dict) else {}
    return str(data.get(name) or "")


def _options(model: type[Any], values: Any) -> Any:
    """Options as remembered, or the defaults where what was remembered no longer fits."""
    try:
        return checked(model, dict(values))
    except AppError:
        return model()


def _plain(text: str) -> str:
    """A file name inside markdown."""
    return "`" + text.replace("`", "'") + "`"


def _problem(message: str) -> Any:
    return gr.update(value=message, visible=True if message else "hidden")
