"""In the settings drawer: which preset belongs to the loaded model, the offer to take it, and the one that new chats begin with.

Knows the service that remembers them; the drawer wires it to the rest of the form.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.core.errors import AppError, Forbidden
from modules.core.person import check_manages
from modules.ui.notices import notify

if TYPE_CHECKING:
    from modules.services.app import App

NOTEBOOK = "notebook/"


def is_notebook(key: str) -> bool:
    """Whether settings are those of a notebook; else they are a conversation's."""
    return key.startswith(NOTEBOOK)


class PresetMemory:
    """Two buttons, and the sentence below the list of presets."""

    def __init__(self, app: App) -> None:
        self._settings, self._choices = app.settings, app.preset_choices

    def build_offer(self) -> None:
        """The button that takes the preset of the model."""
        self.offer = gr.Button("Take the preset of the model", size="sm", visible=False, elem_id="preset-offer")

    def build_default(self) -> None:
        """The button that makes the chosen preset the default."""
        self.default = gr.Button("Make it the default preset", size="sm", visible=False, elem_id="preset-default")

    @property
    def parts(self) -> list[Any]:
        """The two buttons."""
        return [self.offer, self.default]

    def sentence(self, key: str, preset: str) -> str:
        """What is to be known of the preset of a conversation."""
        mine = None if is_notebook(key) else self._choices.of_model()
        if mine is not None and mine.preset == preset:
            return f"As last used with {_short(mine.model)}."
        return "The default: what chats begin with where none is known." if not is_notebook(key) and preset == self._choices.default() else ""

    def _offered(self, key: str, preset: str) -> Any:
        mine = None if is_notebook(key) else self._choices.of_model()
        if mine is None or mine.preset == preset:
            return gr.update(visible=False)
        return gr.update(value=f"Take {mine.preset or 'Neutral'}, last used with {_short(mine.model)}", visible=True)

    def buttons(self, key: str, preset: str) -> list[Any]:
        """Updates of the two buttons: each is hidden where it would change nothing."""
        is_default = is_notebook(key) or preset == self._choices.default()
        return [self._offered(key, preset), gr.update(visible=not is_default)]

    def told(self, key: str, preset: str) -> list[Any]:
        """Updates of the list of presets and of the buttons."""
        return [gr.update(info=self.sentence(key, preset)), *self.buttons(key, preset)]

    async def chosen(self, key: str, preset: str) -> list[Any]:
        """The person chose a preset: it is remembered for the model. The notebook's is its own."""
        with contextlib.suppress(Forbidden):  # somebody's choice for a chat is not everybody's for the model
            check_manages(self._settings)
            if not is_notebook(key):
                self._choices.remember(preset)
        return self.told(key, preset)

    def taken(self) -> Any:
        """The preset of the model, to be shown as chosen."""
        mine = self._choices.of_model()
        return gr.skip() if mine is None else mine.preset

    def make_default(self, key: str, preset: str) -> list[Any]:
        """New chats begin with the chosen preset."""
        try:
            check_manages(self._settings)
            self._choices.choose_default(preset)
        except AppError as error:
            notify(error)
            return [gr.skip(), gr.skip(), gr.skip()]
        gr.Info(f"“{preset or 'Neutral'}” is the default. Chats begin with it where they do not begin as the last one.", title="Preset")
        return self.told(key, preset)


def _short(model: str) -> str:
    """A model's name without its folder and ending, as elsewhere in the page."""
    return model.rpartition("/")[2].removesuffix(".gguf")
