"""Models: what is in the model folder, load and unload, the options of each loader, LoRA adapters.

The list is a custom view that follows the server's own state, so progress survives a reload; the option forms are made from the loaders'
pydantic models. Knows the model service; loads nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.core.errors import AppError, InvalidRequest
from modules.core.model import ModelInfo
from modules.core.person import PERSON, Person, asked_by, check_manages
from modules.services.audit import coming_from
from modules.services.model_choices import changes
from modules.ui.form import Form, checked, label_of
from modules.ui.notices import attempt, notify, sentence
from modules.ui.views.hub_browser import HubBrowser
from modules.ui.views.model_list import ModelList
from modules.ui.views.remote_servers import RemoteServersView

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
                self.changed = gr.Markdown("", elem_id="load-changes", visible="hidden")
                self.advice = gr.Markdown("", elem_id="load-advice", visible="hidden")
                with gr.Row(elem_id="load-buttons"):
                    self.best = gr.Button("Best settings for this machine", elem_id="best-settings")
                    self.defaults = gr.Button("Back to defaults")
                    self.last_good = gr.Button("Back to the last good load", elem_id="last-good", interactive=False)
                    self.load = gr.Button("Load with these options", variant="primary", elem_id="load-with-options")
            HubBrowser(elem_id="hub-browser")
            self.remote = RemoteServersView(elem_id="remote-servers")
        self._wire()

    @property
    def _parts(self) -> list[Any]:
        return [part for spec in self._loaders for part in self._forms[spec.name].components]

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        for view in (self.view, self.remote):
            view.load_model(self.load_remembered, None, None, **quiet)
            view.unload_model(self.unload, None, None, **quiet)
        shown, told = [self.picked, self.loader, *self._parts], [self.changed, self.last_good]
        steps = [
            self.view.pick(self.pick, None, [self.picked, self.panel, self.title, self.problem, self.loader, *self.groups, *self._parts], **quiet),
            self.loader.input(self.show_loader, self.loader, self.groups, **quiet),
            self.defaults.click(self.show_defaults, None, self._parts, **quiet),
            self.best.click(self.show_best, [self.picked, self.loader], [self.advice, *self._parts], **quiet),
            self.last_good.click(self.show_last_good, self.picked, [self.loader, *self.groups, *self._parts], **quiet),
            self.load.click(self.load_as_shown, shown, self.problem, **quiet),
        ]
        self.view.pick(self.hide_advice, None, self.advice, **quiet)
        for step in steps:
            step.then(self.show_changes, shown, told, **quiet)
        gr.on([part.input for part in self._parts], self.show_changes, shown, told, trigger_mode="always_last", **quiet)

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
        chosen, values = self._as_remembered(info, [spec.name for spec in specs], await self._app.models.drafts_for(info))
        title = gr.update(value=f"### Load {_plain(name)}\n{_header_facts(info)}")
        loader = gr.update(choices=[(spec.title, spec.name) for spec in specs], value=chosen)
        return [name, gr.update(visible=True), title, _problem(""), loader, *self.show_loader(chosen), *values]

    def _as_remembered(self, info: ModelInfo, loaders: list[str], drafts: Sequence[str]) -> tuple[str, list[Any]]:
        """Loader and options of the last good load, or the defaults; sliders end where the model does, and models that could draft are offered."""
        remembered = self._app.models.remembered(info.name)
        chosen = remembered.loader if remembered.loader in loaders else loaders[0]
        ends = {"gpu_layers": info.layers + 1.0} if info.layers else {}  # the output is one more
        values: list[Any] = []
        for spec in self._loaders:
            values += self._forms[spec.name].updates(_options(spec.options, remembered.options if spec.name == chosen else {}), ends, {"draft_model": drafts})
        return chosen, values

    async def show_last_good(self, name: str) -> list[Any]:
        """The loader and the options as they last worked."""
        try:
            info = await self._app.models.find(name)
            drafts = await self._app.models.drafts_for(info)
        except AppError as error:
            notify(error)
            return [gr.update()] * (1 + len(self.groups) + len(self._parts))
        chosen, values = self._as_remembered(info, [spec.name for spec in self._app.models.loaders_for(info)], drafts)
        return [chosen, *self.show_loader(chosen), *values]

    def show_changes(self, name: str, loader: str, *shown: Any) -> list[Any]:
        """What is other than at the last good load, in words."""
        last = self._app.models.remembered(name)
        spec = next((row for row in self._loaders if row.name == loader), None)
        if spec is None or not last.used_s:
            return [_problem(""), gr.update(interactive=False)]
        words = [f"**Loader** {last.loader} → {loader}"] if last.loader and last.loader != loader else []
        try:
            now = self._forms[loader].read(self._shown_of(loader, shown))
        except AppError:  # half typed; loading says what is wrong
            return [gr.update(), gr.update(interactive=True)]
        for change in changes(_options(spec.options, last.options if last.loader in ("", loader) else {}), now):  # type: ignore[arg-type]
            words.append(f"**{label_of(change.option)}** {_value(change.before)} → {_value(change.now)}")
        text = "Since the last good load: " + ", ".join(words) + "." if words else "As at the last good load."
        return [_problem(text), gr.update(interactive=bool(words))]

    def _shown_of(self, loader: str, shown: Sequence[Any]) -> Sequence[Any]:
        """The part of all values shown that belongs to one loader's form."""
        position = 0
        for spec in self._loaders:
            end = position + len(self._forms[spec.name].fields)
            if spec.name == loader:
                return shown[position:end]
            position = end
        return ()

    def show_loader(self, chosen: str) -> list[Any]:
        """Only the chosen loader's options are visible."""
        return [gr.update(visible=spec.name == chosen) for spec in self._loaders]

    def show_defaults(self) -> list[Any]:
        """All options as they are without a choice."""
        return [update for spec in self._loaders for update in self._forms[spec.name].updates(spec.options())]

    async def show_best(self, name: str, loader: str) -> list[Any]:
        """The options that suit this machine best, and why."""
        try:
            advice = await self._app.fit.advice(name, loader)
        except AppError as error:
            notify(error)
            return [_problem("")] + [gr.update()] * len(self._parts)
        values: list[Any] = []
        for spec in self._loaders:
            is_meant = spec.name == loader
            values += self._forms[spec.name].updates(_options(spec.options, advice.options)) if is_meant else [gr.update()] * len(self._forms[spec.name].fields)
        return [_problem(advice.reason), *values]

    def hide_advice(self) -> Any:
        """Advice on another model says nothing of this one."""
        return _problem("")

    async def load_as_shown(self, name: str, loader: str, request: gr.Request, *shown: Any) -> Any:
        """Load the picked model with the options shown; a failure stays as a sentence above the form."""
        try:
            with asked_in(request):
                check_manages(self._app.settings)
                options = self._forms[loader].read(self._shown_of(loader, shown))
                await self._app.models.load(name, loader, options.model_dump(mode="json", exclude_defaults=True))
        except AppError as error:
            return _problem(sentence(error))
        return _problem("")

    async def load_remembered(self, event: gr.EventData, request: gr.Request) -> None:
        """Load a model as it was last loaded; the list itself shows why a load failed."""
        choice = self._app.models.remembered(_told(event, "name"))
        with asked_in(request):
            if self._may():
                await attempt(self._app.models.load(choice.name, choice.loader, choice.options), notice=False)

    async def unload(self, event: gr.EventData, request: gr.Request) -> None:
        """Give a model's memory back."""
        with asked_in(request):
            if self._may():
                await attempt(self._app.models.unload(_told(event, "name")))

    def _may(self) -> bool:
        """Whether who asks may load and unload; who may not is told."""
        try:
            check_manages(self._app.settings)
        except AppError as error:
            notify(error)
            return False
        return True


@contextmanager
def asked_in(request: gr.Request) -> Iterator[None]:
    """Until this ends all is asked by who sent a request, and from there: its handler waits in Gradio's queue, which runs it later and beside it."""
    scope = request.request.scope if request.request is not None else {}
    person, client = scope.get(PERSON), scope.get("client")
    with ExitStack() as stack:
        stack.enter_context(coming_from(str(client[0]) if client else ""))
        if isinstance(person, Person):
            stack.enter_context(asked_by(person))
        yield


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


def _header_facts(info: ModelInfo) -> str:
    """What the header says of the numbers below, in one line."""
    facts = [
        f"trained for {info.context_length:,} tokens" if info.context_length else "",
        f"{info.layers} layers" if info.layers else "",
        info.quantization,
        f"chat template: {info.template}" if info.template else "no chat template",
    ]
    return _escaped(" · ".join(filter(None, facts)))


def _value(value: Any) -> str:
    """A value of an option inside markdown."""
    return {True: "on", False: "off", "": "empty"}.get(value, _escaped(str(value))) if isinstance(value, str | bool) else str(value)


def _escaped(text: str) -> str:
    return "".join("\\" + character if character in "\\`*_{}[]<>()#+-.!|~" else character for character in text)


def _problem(message: str) -> Any:
    return gr.update(value=message, visible=True if message else "hidden")
