"""The engine's child process, put together: loader, prompts and engine. Started as `python -m modules.services.worker`.

The only place that knows all three. What it does with them is in `modules/engine/worker.py`.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from modules.core.dialogue import one_instruction
from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from modules.core.model import LoadedModel, TemplateSource
from modules.core.params import GenerationParams
from modules.core.settings import validation_sentence
from modules.core.text_shape import SHAPE_FIELDS, CallText
from modules.core.trusted_code import FLAG, TrustedCode
from modules.engine.channel import guard_process, take_stdio
from modules.engine.prompt_maker import Prepared
from modules.engine.worker import LoadCommand, Progress, Ready, serve
from modules.loaders.registry import find_loader
from modules.prompts.bos import for_model, needs_bos, single_bos
from modules.prompts.doctor import doubts
from modules.prompts.ending import Ending
from modules.prompts.fitting import character_limit, fit_chat, room_tokens
from modules.prompts.image_marks import ImageMarks
from modules.prompts.renderer import TemplateRenderer
from modules.prompts.template import open_thinking_tag
from modules.prompts.tool_use import ToolUse, tool_use
from modules.services.prompt_questions import (
    Part,
    Shown,
    answer,
    left_out,
    places_of,
    prompt_hash,
    skeleton_of,
    text_hash,
    told_ids,
)
from modules.services.template_look import LookRequest, fitting, look

if TYPE_CHECKING:
    from modules.core.messages import Image, Message
    from modules.core.model import Tokenizer

log = logging.getLogger(__name__)

KEPT_ENDINGS = 32


@dataclass
class _Written:
    """A conversation as text and as token ids."""

    text: str
    token_ids: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


class ModelPrompts:
    """Makes prompts for one model: template, special tokens, room in the context."""

    def __init__(self, model: LoadedModel, renderer: TemplateRenderer) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self._renderer = renderer
        self._context_length = min(model.runner.context_length, model.runner.capacity_tokens)
        self._character_limit = character_limit(self._context_length)
        self._bos_token = self._written(model.tokenizer.bos_id)
        self._eos_token = self._written(min(model.tokenizer.end_ids, default=None))
        self._endings: dict[TemplateSource, Ending] = {}
        self._tool_use = functools.lru_cache(maxsize=KEPT_ENDINGS)(self._find_tool_use)

    def prepare(self, request: GenerationRequest) -> Prepared:
        """The prompt of a request, made to fit the context.

        Raises:
            ContextOverflow: too long, and nothing may be left out.
            InvalidRequest: a broken template, a text this model cannot read, or ids are to be told of a prompt with images.
        """
        prepared = self._prepared(request)
        return replace(prepared, prompt_ids=told_ids(prepared.token_ids)) if request.tells_ids else prepared

    def _prepared(self, request: GenerationRequest) -> Prepared:
        prompt, limit = request.prompt, request.params.context_limit(self._context_length)
        if isinstance(prompt, ChatPrompt):
            return self._chat(prompt, request.params, room_tokens(limit, request.params.max_tokens, prompt.overflow))
        ids = prompt.token_ids if isinstance(prompt, TokenPrompt) else self._text_ids(prompt, room_tokens(limit, request.params.max_tokens))
        return Prepared(ids, prompt_hash=prompt_hash(ids))

    def close(self) -> None:
        """End the process that renders templates, and wait for it: nobody else could once this one is gone."""
        self._renderer.close()

    def count(self, prompt: ChatPrompt) -> int:
        """How many tokens a whole conversation has, also where it is longer than the context."""
        return len(self._write(prompt, self._template_for(prompt), prompt.messages).token_ids)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, without a BOS; special tokens written out are read as such.

        Raises:
            ContextOverflow: more characters than are split at a time: native code does that in one go, and who needs a prompt waits meanwhile.
        """
        return self._encode(text, add_special=False, parse_special=True, cure="Send it in parts that end with lines, and add up their tokens", field="text")

    # ---- questions: see prompt_questions.py ------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self._tokenizer

    def examine(self, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question about prompts.

        Raises:
            InvalidRequest: there is no such question, or it cannot be answered.
        """
        return answer(self, question, values)

    def show(self, prompt: ChatPrompt, params: GenerationParams, marks: Callable[[int], str]) -> Shown:
        """A prompt as it would be made, and once more with marks in place of the contents."""
        source = self._template_for(prompt)
        room = room_tokens(params.context_limit(self._context_length), params.max_tokens, prompt.overflow)
        written, kept = self._fit(prompt, source, room)
        names = tuple(marks(place) for place in range(len(kept)))
        return Shown(
            messages=kept,
            places=places_of(prompt.messages, kept),
            parts=written.parts,
            skeleton=skeleton_of(lambda marked: self._written_chat(prompt, source, marked), kept, names),
            marks=names,
            dropped=left_out(prompt.messages, kept),
            limit_tokens=room,
            template=source,
        )

    def described(self, chosen: TemplateSource | None) -> tuple[TemplateSource, Ending]:
        """The template in force, and how replies end under it."""
        source = self._template(chosen)
        return source, self._ending(source)

    def look(self, request: LookRequest) -> dict[str, Any]:
        """A template under the doctor's eyes."""
        return look(self._renderer, request, self._template(request.template), self._tokenizer, self._model.template)

    def fitting(self, sources: Sequence[TemplateSource]) -> list[dict[str, Any]]:
        """Which of these prompt templates fit the model."""
        return fitting(self._renderer, [self._template(source) for source in sources], self._tokenizer, self._model.template)

    # ---- chat ------------------------------------------------------------------------------------------------------

    def _chat(self, prompt: ChatPrompt, params: GenerationParams, room: int) -> Prepared:
        source = self._template_for(prompt)
        written, kept = self._fit(prompt, source, room)
        if self._model.vision is not None:
            self._model.vision.look(written.token_ids)
        dropped = left_out(prompt.messages, kept)
        form = self._tool_use(source).form if prompt.tools else None
        return Prepared(
            written.token_ids,
            stop=(*self._ending(self._template(prompt.template)).stop, *(form.stop if form else ())),  # one for tools alone writes no chat to learn from
            dropped_messages=len(dropped),
            starts_thinking="" if prompt.continue_final_message or prompt.dialogue else open_thinking_tag(written.text),
            dropped=dropped,
            prompt_hash=prompt_hash(written.token_ids),
            template_origin=source.origin,
            template_hash=text_hash(source.text),
            call_format=form.name if form else "",
            calls=self._tool_use(source).text(prompt, params.json_schema, _other_shape(params)) if form else self._thoughtful(prompt, params, source),
            begun=kept[-1].content if prompt.continue_final_message and kept and not prompt.dialogue else "",
        )

    def _thoughtful(self, prompt: ChatPrompt, params: GenerationParams, source: TemplateSource) -> CallText | None:
        """Where a reply by a JSON schema may begin with thinking: by the model itself, as its template has it."""
        if not params.json_schema or prompt.continue_final_message or prompt.dialogue or not self._tool_use(source).may_think(prompt):
            return None
        return CallText(thinking=self._tool_use(source).thinking)

    def _fit(self, prompt: ChatPrompt, source: TemplateSource, room: int) -> tuple[_Written, tuple[Message, ...]]:
        """The conversation as it fits, and the messages that are in it."""
        tried: list[tuple[_Written, tuple[Message, ...]]] = []

        def count(messages: tuple[Message, ...]) -> list[int]:
            written = self._write(prompt, source, messages)
            tried.append((written, messages))
            return written.token_ids

        fitted = fit_chat(prompt.messages, count=count, limit_tokens=room, limit_characters=self._character_limit, policy=prompt.overflow)
        return next(pair for pair in tried if pair[0].token_ids is fitted.token_ids)

    def _write(self, prompt: ChatPrompt, source: TemplateSource, messages: tuple[Message, ...]) -> _Written:
        marks = ImageMarks(messages)
        text = self._written_chat(prompt, source, marks.messages)
        of_images = [place for place, message in enumerate(messages) for _ in message.images]
        written, images = _Written(text), 0
        for piece in marks.split(text):
            if isinstance(piece, str):
                part = Part(piece, self._encode(piece, add_special=False, parse_special=True))
            else:
                part, images = Part("", self._image_ids(piece), of_images[images]), images + 1
            written.parts.append(part)
            written.token_ids += part.token_ids
        return written

    def _written_chat(self, prompt: ChatPrompt, source: TemplateSource, messages: tuple[Message, ...]) -> str:
        continues = prompt.continue_final_message
        if prompt.dialogue is not None:
            messages, continues = one_instruction(messages, prompt.dialogue, continues=continues), True
        tools: list[dict[str, Any]] = []
        if prompt.tools or any(message.tool_calls or message.role == "tool" for message in messages):
            use = self._tool_use(source)
            messages, tools = use.told(messages, prompt), use.tools(prompt)
        rendered = self._renderer.render(
            source,
            messages,
            tools=tools,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            variables=prompt.template_variables,
        )
        return single_bos(rendered.text, source.bos_token)

    def _image_ids(self, image: Image) -> list[int]:
        vision = self._model.vision
        if vision is None:
            name, cure = self._model.info.name, "Choose a model that does"
            if self._model.info.format == "gguf":
                cure += ", or put the projector made for this one (a file mmproj-….gguf) beside it and load it again with llama.cpp"
            raise InvalidRequest(f"{name} does not see images. {cure}.", field="messages")
        try:
            file = base64.b64decode(image.data, validate=True)
        except ValueError as error:
            raise InvalidRequest("An image is not in base64; send data:image/png;base64,… and nothing else.", field="messages") from error
        return vision.image_ids(file)

    def _template_for(self, prompt: ChatPrompt) -> TemplateSource:
        source = self._template(prompt.template)
        return source.for_tools() if prompt.tools else source

    def _template(self, chosen: TemplateSource | None) -> TemplateSource:
        """The template a person chose, with this model's special tokens, or the model's own, also where that comes back from a prompt that was kept."""
        own = self._model.template
        if chosen is not None and own is not None and (chosen.text, chosen.origin) == (own.text, own.origin):
            return own
        if chosen is not None:
            return for_model(chosen, bos_token=self._bos_token, eos_token=self._eos_token, adds_bos=self._tokenizer.adds_bos)
        if own is None:
            raise InvalidRequest(
                f"{self._model.info.name} has no chat template of its own. Choose a prompt template for it, or use the notebook to continue text.",
                field="template",
            )
        return own

    def _find_tool_use(self, source: TemplateSource) -> ToolUse:
        return tool_use(source.text, functools.partial(self._renderer.render, source))

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
        ids = self._encode(text, add_special=prompt.add_bos and needs_bos(text, self._bos_token), parse_special=prompt.parse_special)
        if cut and len(ids) > room:
            bos = ids[:1] if ids[0] == self._tokenizer.bos_id else []
            ids = bos + ids[len(ids) - room + len(bos) :]
        return ids

    def _encode(self, text: str, *, add_special: bool, parse_special: bool, cure: str = "Shorten it", field: str = "prompt") -> list[int]:
        if len(text) > self._character_limit:
            raise ContextOverflow(
                f"The text has {len(text):,} characters; with a context of {self._context_length:,} tokens the limit is "
                f"{self._character_limit:,}. {cure}, or load the model with a longer context.",
                limit=self._character_limit,
                got=len(text),
                field=field,
            )
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character pair is no text
        return self._tokenizer.encode(whole, add_special=add_special, parse_special=parse_special)

    def _written(self, token_id: int | None) -> str:
        return "" if token_id is None else self._tokenizer.piece(token_id).decode("utf-8", "replace")


def load(command: LoadCommand, progress: Progress, trusted: TrustedCode | None = None) -> Ready:
    """Load a model by the registry and make it ready for prompts; code of its folder is run if it is the folder of `trusted`.

    Raises:
        LoadFailed: with the reason and the cure.
    """
    path = Path(command.path)
    spec = find_loader(path, command.loader)
    try:
        options = spec.options.model_validate(command.options)
    except ValidationError as error:
        raise InvalidRequest(f"{spec.title}: {validation_sentence(error)}") from error
    if trusted is not None and spec.load_trusted is not None and trusted.folder == command.path:
        model = spec.load_trusted(path, options, progress, trusted)
    elif spec.load_measured is not None and command.measured is not None:
        model = spec.load_measured(path, options, progress, command.measured)
    else:
        model = spec.load(path, options, progress)
    if command.name:
        model.info = model.info.model_copy(update={"name": command.name})
    renderer = TemplateRenderer()
    found: tuple[str, ...] | None = None
    variables: tuple[str, ...] | None = None
    if model.template is not None:
        progress("Examining the chat template", None)
        found = doubts(renderer, model.template, model.tokenizer)
        variables = _variables(renderer, model.template)
    engine = ", ".join(f"{distribution} {metadata.version(distribution)}" for distribution in spec.requires)
    return Ready(model, spec.name, ModelPrompts(model, renderer), found, variables, engine, options.spill_disk_gb)


def _variables(renderer: TemplateRenderer, template: TemplateSource) -> tuple[str, ...] | None:
    try:
        return renderer.options(template)
    except InvalidRequest:  # a broken template: said by its doubts, and when it is used
        return None


def _other_shape(params: GenerationParams) -> str:
    """The field that gives the text a shape which no call of a tool can have."""
    return next((name for name in SHAPE_FIELDS if name != "json_schema" and getattr(params, name)), "")


def main() -> None:
    """Serve one parent until it is gone; native threads and render processes must not delay the end."""
    channel = take_stdio()
    guard_process()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    trusted = TrustedCode.model_validate_json(sys.argv[2]) if sys.argv[1:2] == [FLAG] else None
    status = 0
    try:
        serve(channel, functools.partial(load, trusted=trusted))
    except Exception:
        log.exception("The engine's process ends")
        status = 1
    if trusted is not None:
        shutil.rmtree(trusted.copy_folder, ignore_errors=True)
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    main()
