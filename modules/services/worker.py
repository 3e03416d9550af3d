"""The engine's child process, put together: loader, prompts and engine. Started as `python -m modules.services.worker`.

The only place that knows all three. What it does with them is in `modules/engine/worker.py`.
"""

from __future__ import annotations

import base64
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from modules.core.model import LoadedModel, TemplateSource
from modules.core.settings import validation_sentence
from modules.engine.channel import guard_process, take_stdio
from modules.engine.worker import LoadCommand, Prepared, Progress, Ready, serve
from modules.loaders.registry import find_loader
from modules.prompts.bos import for_model, needs_bos, single_bos
from modules.prompts.doctor import doubts
from modules.prompts.ending import Ending
from modules.prompts.fitting import fit_chat
from modules.prompts.image_marks import ImageMarks
from modules.prompts.renderer import TemplateRenderer
from modules.prompts.template import open_thinking_tag

if TYPE_CHECKING:
    from modules.core.messages import Image, Message

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 16  # no tokenizer makes fewer tokens of a text that is worth tokenizing
LEAST_CHARACTERS = 4096
LARGEST_RESERVE_TOKENS = 512  # kept free for a reply of unknown length
KEPT_ENDINGS = 32


class ModelPrompts:
    """Makes prompts for one model: template, special tokens, room in the context."""

    def __init__(self, model: LoadedModel, renderer: TemplateRenderer) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self._renderer = renderer
        self._context_length = min(model.runner.context_length, model.runner.capacity_tokens)
        self._character_limit = max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * self._context_length)
        self._bos_token = self._written(model.tokenizer.bos_id)
        self._eos_token = self._written(min(model.tokenizer.end_ids, default=None))
        self._endings: dict[TemplateSource, Ending] = {}

    def prepare(self, request: GenerationRequest) -> Prepared:
        """The prompt of a request, made to fit the context.

        Raises:
            ContextOverflow: too long, and nothing may be left out.
            InvalidRequest: a broken template, or a text this model cannot read.
        """
        prompt = request.prompt
        if isinstance(prompt, TokenPrompt):
            return Prepared(prompt.token_ids)
        room = self._room(request.params.max_tokens)
        if isinstance(prompt, TextPrompt):
            return Prepared(self._text_ids(prompt, room))
        return self._chat(prompt, self._context_length - 1 if prompt.overflow == "refuse" else room)  # nothing is refused that would fit

    def close(self) -> None:
        """End the process that renders templates, and wait for it: nobody else could once this one is gone."""
        self._renderer.close()

    def count(self, prompt: ChatPrompt) -> int:
        """How many tokens a whole conversation has, also where it is longer than the context."""
        source = self._template(prompt.template)
        return len(self._chat_ids(prompt, source, prompt.messages)[0])

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, without a BOS; special tokens written out are read as such."""
        return self._encode(text, add_special=False, parse_special=True)

    # ---- chat ------------------------------------------------------------------------------------------------------

    def _chat(self, prompt: ChatPrompt, room: int) -> Prepared:
        source = self._template(prompt.template)
        texts: dict[int, str] = {}  # by the number of messages: only the oldest are ever left out

        def count(messages: tuple[Message, ...]) -> list[int]:
            ids, texts[len(messages)] = self._chat_ids(prompt, source, messages)
            return ids

        fitted = fit_chat(prompt.messages, count=count, limit_tokens=room, policy=prompt.overflow)
        if self._model.vision is not None:
            self._model.vision.look(fitted.token_ids)
        text = texts[len(prompt.messages) - fitted.dropped]
        return Prepared(
            fitted.token_ids,
            stop=self._ending(source).stop,
            dropped_messages=fitted.dropped,
            starts_thinking="" if prompt.continue_final_message else open_thinking_tag(text),
        )

    def _chat_ids(self, prompt: ChatPrompt, source: TemplateSource, messages: tuple[Message, ...]) -> tuple[list[int], str]:
        marks = ImageMarks(messages)
        rendered = self._renderer.render(
            source,
            marks.messages,
            tools=prompt.tools,
            add_generation_prompt=not prompt.continue_final_message,
            continue_final_message=prompt.continue_final_message,
            variables=prompt.template_variables,
        )
        text = single_bos(rendered.text, source.bos_token)
        ids: list[int] = []
        for piece in marks.split(text):
            ids += self._encode(piece, add_special=False, parse_special=True) if isinstance(piece, str) else self._image_ids(piece)
        return ids, text

    def _image_ids(self, image: Image) -> list[int]:
        vision = self._model.vision
        if vision is None:
            raise InvalidRequest(
                f"{self._model.info.name} does not see images. Choose a model that does, or put the projector made for this one (a file "
                "mmproj-….gguf) beside it and load it again with llama.cpp.",
                field="messages",
            )
        try:
            file = base64.b64decode(image.data, validate=True)
        except ValueError as error:
            raise InvalidRequest("An image is not in base64; send data:image/png;base64,… and nothing else.", field="messages") from error
        return vision.image_ids(file)

    def _template(self, chosen: TemplateSource | None) -> TemplateSource:
        """The template a person chose, with this model's special tokens, or the model's own."""
        if chosen is not None:
            return for_model(chosen, bos_token=self._bos_token, eos_token=self._eos_token, adds_bos=self._tokenizer.adds_bos)
        if self._model.template is None:
            raise InvalidRequest(
                f"{self._model.info.name} has no chat template of its own. Choose a prompt template for it, or use the notebook to continue text.",
                field="template",
            )
        return self._model.template

    def _ending(self, source: TemplateSource) -> Ending:
        """How replies end under a template; found once."""
        ending = self._endings.get(source)
        if ending is None:
            try:
                ending = self._renderer.ending(source)
            except InvalidRequest as error:  # it renders this chat but not the ones made up to learn from
                log.warning("How replies end under the template (%s) is not known: %s", source.origin, error.message)
                ending = Ending(stop=source.stop)
            if len(self._endings) >= KEPT_ENDINGS:
                self._endings.clear()
            self._endings[source] = ending
        return ending

    # ---- text ------------------------------------------------------------------------------------------------------

    def _text_ids(self, prompt: TextPrompt, room: int) -> list[int]:
        text = prompt.text
        cut = prompt.overflow == "drop_oldest"
        if cut:
            text = text[-self._character_limit :]
        ids = self._encode(text, add_special=needs_bos(text, self._bos_token), parse_special=prompt.parse_special)
        if cut and len(ids) > room:
            bos = ids[:1] if ids[0] == self._tokenizer.bos_id else []
            ids = bos + ids[len(ids) - room + len(bos) :]
        return ids

    def _encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if len(text) > self._character_limit:
            raise ContextOverflow(
                f"The text has {len(text):,} characters; with a context of {self._context_length:,} tokens the limit is "
                f"{self._character_limit:,}. Shorten it, or load the model with a longer context.",
                limit=self._character_limit,
                got=len(text),
                field="prompt",
            )
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character pair is no text
        return self._tokenizer.encode(whole, add_special=add_special, parse_special=parse_special)

    def _room(self, max_tokens: int) -> int:
        """Tokens a prompt may have: what the reply will need is kept free, as far as that is sensible."""
        reserve = min(LARGEST_RESERVE_TOKENS, self._context_length // 4)
        return self._context_length - max(1, min(max_tokens or reserve, reserve))

    def _written(self, token_id: int | None) -> str:
        return "" if token_id is None else self._tokenizer.piece(token_id).decode("utf-8", "replace")


def load(command: LoadCommand, progress: Progress) -> Ready:
    """Load a model by the registry and make it ready for prompts.

    Raises:
        LoadFailed: with the reason and the cure.
    """
    path = Path(command.path)
    spec = find_loader(path, command.loader)
    try:
        options = spec.options.model_validate(command.options)
    except ValidationError as error:
        raise InvalidRequest(f"{spec.title}: {validation_sentence(error)}") from error
    model = spec.load(path, options, progress)
    if command.name:
        model.info = model.info.model_copy(update={"name": command.name})
    renderer = TemplateRenderer()
    found: tuple[str, ...] | None = None
    if model.template is not None:
        progress("Examining the chat template", None)
        found = doubts(renderer, model.template, model.tokenizer)
    return Ready(model, spec.name, ModelPrompts(model, renderer), found)


def main() -> None:
    """Serve one parent until it is gone; native threads and render processes must not delay the end."""
    channel = take_stdio()
    guard_process()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    status = 0
    try:
        serve(channel, load)
    except Exception:
        log.exception("The engine's process ends")
        status = 1
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    main()
