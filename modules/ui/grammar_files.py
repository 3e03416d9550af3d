"""In the settings drawer, below the grammar: the files it can come from and be kept in, and what is wrong with it.

Knows the service of grammars; the drawer wires it to the rest of the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from modules.core.errors import AppError
from modules.core.person import check_manages
from modules.ui.changing_choice import ChangingChoice
from modules.ui.notices import as_text, sentence

if TYPE_CHECKING:
    from modules.services.app import App

NONE = ""


class GrammarFiles:
    """A list, a note, and what saves and deletes. Handlers take and return plain component values."""

    def __init__(self, app: App) -> None:
        self._settings, self._grammars = app.settings, app.presets.grammars

    def build(self) -> None:
        """Make the components in the layout that is open now."""
        self.note = gr.Markdown("", elem_id="grammar-note", visible="hidden")
        self.file = ChangingChoice(label="Grammar file", choices=self._choices(), value=NONE, filterable=False, elem_id="grammar-file",
                                   info="Fills in the grammar. The files lie in presets/grammars.")  # fmt: skip
        self.name = gr.Textbox(label="Name to save the grammar under", max_lines=1, elem_id="grammar-name")
        self.replace = gr.Checkbox(label="Replace a grammar of that name", value=False)
        with gr.Row(elem_id="grammar-buttons"):
            self.save = gr.Button("Save grammar", size="sm")
            self.delete = gr.Button("Delete the file", size="sm", variant="stop")
        with gr.Group(visible=False, elem_id="grammar-sure") as self.sure:
            self.question = gr.Markdown("")
            with gr.Row():
                self.really = gr.Button("Delete this grammar", size="sm", variant="stop")
                self.keep = gr.Button("Keep this grammar", size="sm")

    @property
    def parts(self) -> list[Any]:
        """What follows the text: the note, the list, the name."""
        return [self.note, self.file, self.name]

    def wire(self, text: Any, quiet: dict[str, Any]) -> Any:
        """Connect them with the text box of the grammar; the event after which that text is another one."""
        text.change(self.looked_at, text, self.parts, trigger_mode="always_last", **quiet)
        self.save.click(self.saved, [self.name, self.replace, text], self.parts, **quiet)
        self.delete.click(self.asked, self.file, [self.sure, self.question], **quiet)
        self.keep.click(lambda: gr.update(visible=False), None, self.sure, **quiet)
        self.really.click(self.deleted, [self.file, text], [*self.parts, self.sure], **quiet)
        return self.file.input(self.picked, self.file, [text, *self.parts], **quiet)

    # ---- handlers --------------------------------------------------------------------------------------------------

    def looked_at(self, text: str) -> list[Any]:
        """What is wrong with a grammar, and which file it is."""
        name = self._grammars.named(text or "")
        return [_note(self._grammars.problem(text or "")), gr.update(choices=self._choices(), value=name), name if name else gr.skip()]

    def picked(self, name: str) -> list[Any]:
        """The grammar of a file; none empties the text."""
        try:
            text = self._grammars.read(name) if name else ""
        except AppError as error:
            return [gr.skip(), _note(sentence(error)), gr.update(choices=self._choices(), value=NONE), gr.skip()]
        return [text, _note(self._grammars.problem(text)), gr.update(choices=self._choices(), value=name), name]

    def saved(self, name: str, replace: bool, text: str) -> list[Any]:
        """Keep the text under a name."""
        try:
            check_manages(self._settings)
            kept = self._grammars.save(name, text or "", overwrite=replace)
        except AppError as error:
            return [_note(sentence(error)), gr.skip(), gr.skip()]
        gr.Info(f"Saved as “{kept}”.", title="Grammar")
        return [_note(""), gr.update(choices=self._choices(), value=kept), kept]

    def asked(self, chosen: str) -> list[Any]:
        """A file is gone when it is deleted, so it is asked first."""
        return [gr.update(visible=bool(chosen)), f"Delete the grammar “{chosen}” for good?"]

    def deleted(self, chosen: str, text: str) -> list[Any]:
        """Delete the chosen file; the text stays in its box."""
        gone = gr.update(visible=False)
        try:
            check_manages(self._settings)
            if chosen:
                self._grammars.delete(chosen)
        except AppError as error:
            return [_note(sentence(error)), gr.update(choices=self._choices(), value=NONE), gr.skip(), gone]
        return [_note(self._grammars.problem(text or "")), gr.update(choices=self._choices(), value=NONE), gr.skip(), gone]

    def _choices(self) -> list[tuple[str, str]]:
        return [("none", NONE), *((name, name) for name in self._grammars.names())]


def _note(problem: str) -> Any:
    return gr.update(value=as_text(problem), visible=True if problem else "hidden")
