"""A chat template: messages in, prompt text out, equal to what transformers' `apply_chat_template` writes.

Pure: no process, no clock, no limit on time or memory (`renderer.py` adds those). Where this differs from transformers, it renders
what transformers refuses or loses: a system role the template does not know, a call of a tool beside a content that is empty and not none, and a reply to be
continued whose text the template rewrites. `enable_thinking`
also switches the thinking of templates that have another name for it.
`bos_token` and `eos_token` are always defined, as empty text when unknown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.messages import THINKING_SWITCHES, THINKING_TAGS, Message
from modules.prompts.roles import TemplateMessage, Variant, variants, with_call_names
from modules.prompts.sandbox import CompiledTemplate, TemplateRefusalError, TooLong

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modules.core.model import TemplateSource

MAX_TEMPLATE_CHARS = 1_000_000
MAX_RENDERED_CHARS = 2_000_000

# What running a hostile or broken template can raise, besides MemoryError, which is for the process around to answer.
TEMPLATE_FAULTS = (
    TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip

# Stands at the end of a message to be continued. The space at its end tells whether the template trims.
CUT_MARK = "PaddockCutsThePromptHere "
PROBE = "PaddockLooksForThis"
PART_WORDS = re.compile(r"""\.type\b|['"]type['"]""")  # no template reads parts of a content without these
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt. `spans` are the character ranges of assistant text; a turn whose range is not known for certain has none."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()  # sentences: what had to be changed for this template


@dataclass(frozen=True, slots=True)
class _Call:
    """What one rendering is given besides the messages."""

    context: Mapping[str, Any]
    add_generation_prompt: bool

    def asking(self, add_generation_prompt: bool) -> _Call:
        """The same call with or without the header of a new assistant turn."""
        return _Call(self.context, add_generation_prompt)


def open_thinking_tag(prompt: str) -> str:
    """The opening thinking tag a prompt ends with, or empty."""
    body = prompt.rstrip()
    return next((opening for opening, _ in THINKING_TAGS if body.endswith(opening)), "")


class Template:
    """A chat template, compiled at first use. One thread at a time."""

    def __init__(self, source: TemplateSource, *, max_chars: int = MAX_RENDERED_CHARS) -> None:
        if len(source.text) > MAX_TEMPLATE_CHARS:
            raise InvalidRequest(
                f"The chat template ({source.origin}) has {len(source.text):,} characters; the limit is {MAX_TEMPLATE_CHARS:,}. "
                "Choose a prompt template instead.",
                field="template",
            )
        self.source = source
        self.max_chars = max_chars

    @cached_property
    def _compiled(self) -> CompiledTemplate:
        try:
            return CompiledTemplate(self.source.text)
        except TEMPLATE_FAULTS as error:
            raise self._broken(error) from error

    def variables(self) -> tuple[str, ...]:
        """Options the template reads: `enable_thinking` and the like."""
        return self._variables

    @cached_property
    def _variables(self) -> tuple[str, ...]:
        compiled = self._compiled
        try:
            return compiled.options()
        except TEMPLATE_FAULTS as error:
            raise self._broken(error) from error

    def _switched(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables, with what is said by `enable_thinking` under the name that the template has for it; who gives that name is obeyed."""
        ours, other, budget = THINKING_SWITCHES
        thinks = variables.get(ours)
        if thinks is None or ours in self._variables:
            return dict(variables)
        more: dict[str, Any] = {}
        if other in self._variables:
            more[other] = bool(thinks)
        if budget in self._variables and not thinks:
            more[budget] = 0  # how much thinking there is by itself is for the template to say
        return more | dict(variables)

    @cached_property
    def _reads_parts_only(self) -> bool:
        """Whether the template knows contents as lists of parts only, as many models that see images have it: a plain text would be lost without a word."""

        def writes(content: Any) -> bool:
            context = {**self._context((), {}), "messages": [{"role": "user", "content": content}], "add_generation_prompt": False}
            try:
                return PROBE in self._compiled.run(context, self.max_chars)[0]
            except (*TEMPLATE_FAULTS, TooLong):
                return False

        return PART_WORDS.search(self.source.text) is not None and not writes(PROBE) and writes([_part(PROBE)])

    def reads_tools(self) -> bool:
        """Whether the template does anything with tools."""
        return self._compiled.reads("tools")

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        find_spans: bool = True,
    ) -> Rendered:
        """The prompt of a conversation.

        `continue_final_message` leaves the last message open at its end, and then no header of a new turn is written. `spans` are
        given for `{% generation %}` blocks, and otherwise for complete conversations (neither flag set) by rendering prefixes, if `find_spans`
        says so: that takes two more renderings for each turn.

        Raises:
            InvalidRequest: the template is broken or refuses the conversation.
            ContextOverflow: the prompt is longer than the limit in characters.
        """
        if not messages:
            raise InvalidRequest("There is no message to answer; write one.", field="messages")
        call = _Call(self._context(tools, self._switched(variables or {})), add_generation_prompt and not continue_final_message)
        if continue_final_message:
            return self._continued(tuple(messages), call)
        variant, text, spans = self._first_accepted(messages, call)
        if find_spans and not spans and not call.add_generation_prompt:
            spans = self._prefix_spans(variant.messages, call, text)
        return Rendered(text, spans, self._sentences(variant))

    def _context(self, tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Everything but the messages, as plain data: an object's methods are no business of a template."""
        try:
            plain = json.loads(json.dumps({"variables": dict(variables), "tools": [dict(tool) for tool in tools]}))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"Template variables and tools must be plain JSON: {error}.", field="template_variables") from error
        special = {"bos_token": self.source.bos_token, "eos_token": self.source.eos_token}
        return {**special, **plain["variables"], "tools": plain["tools"] or None, "documents": plain["variables"].get("documents")}

    def _run(self, messages: Sequence[TemplateMessage], call: _Call) -> tuple[str, tuple[tuple[int, int], ...]]:
        if self._reads_parts_only:
            messages = [{**message, "content": [_part(message["content"])]} for message in messages]
        context = {**call.context, "messages": list(messages), "add_generation_prompt": call.add_generation_prompt}
        compiled = self._compiled
        try:
            text, spans = compiled.run(context, self.max_chars)
        except TooLong:
            raise ContextOverflow(
                f"The prompt has more than {self.max_chars:,} characters, the most that is rendered. "
                f"Shorten the conversation, or choose another template than the one from {self.source.origin}.",
                limit=self.max_chars,
                field="messages",
            ) from None
        return LONE_SURROGATE.sub("\ufffd", text), spans

    def _first_accepted(self, messages: Sequence[Message], call: _Call) -> tuple[Variant, str, tuple[tuple[int, int], ...]]:
        """Render the first variant of the conversation that the template takes; its refusal of the first one is what is told."""
        first_error: Exception | None = None
        lossy: tuple[Variant, str, tuple[tuple[int, int], ...]] | None = None
        for variant in variants(messages):
            try:
                text, spans = self._run(variant.messages, call)
            except TEMPLATE_FAULTS as error:
                first_error = first_error or error
                continue
            if not _loses_developer(variant, text) and not self._loses_calls(variant, call):
                return variant, text, spans
            lossy = lossy or (variant, text, spans)
        if lossy is not None:  # every variant lost something; the first is as good as any
            return lossy
        assert first_error is not None
        raise self._refused(first_error) from first_error

    def _loses_calls(self, variant: Variant, call: _Call) -> bool:
        """Whether a call of a tool is left out: some templates write one call of a message only, or none beside a content."""
        marked, count = with_call_names(variant.messages, PROBE)
        if not count:
            return False
        try:
            text, _ = self._run(marked, call)
        except TEMPLATE_FAULTS:
            return False  # a template that minds what functions are called
        return any(f"{PROBE}{number}." not in text for number in range(count))

    def _sentences(self, variant: Variant) -> tuple[str, ...]:
        return tuple(f"The chat template ({self.source.origin}) does not take this as it stands: {note}." for note in variant.notes)

    def _continued(self, messages: tuple[Message, ...], call: _Call) -> Rendered:
        """The prompt up to the end of the last message.

        The message is rendered with a mark at its end. If the text before the mark is not the message any more (thinking taken out,
        an empty thinking block put before it, lines joined), the message is put as it is behind the header of its turn.
        """
        before, final = messages[:-1], messages[-1]
        thinks = final.role == "assistant" and bool(before) and _thinks(final.content)
        try:
            variant, text, _ = self._first_accepted((*before, _with_content(final, final.content + CUT_MARK)), call)
        except InvalidRequest:
            if not thinks:
                raise
        else:
            prompt = _cut(text)
            if prompt is not None and _keeps(prompt, final.content):
                return Rendered(prompt, (), self._sentences(variant))
        if thinks:
            variant, header, _ = self._first_accepted(before, call.asking(True))
            return Rendered(_behind(header, final.content), (), self._sentences(variant))
        variant, text, _ = self._first_accepted((*before, _with_content(final, CUT_MARK)), call)
        header, mark, _ = text.rpartition(CUT_MARK.strip())
        if not mark:
            raise InvalidRequest(
                f"The chat template ({self.source.origin}) leaves the last message out, so it cannot be continued. "
                "Ask for a new reply instead, or choose another template.",
                field="messages",
            )
        return Rendered(header + final.content, (), self._sentences(variant))

    def _prefix_spans(self, messages: Sequence[TemplateMessage], call: _Call, text: str) -> tuple[tuple[int, int], ...]:
        """Ranges of assistant turns: what comes after the prompt for a turn, up to the end of the conversation with it."""
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            try:
                prompt = self._run(messages[:i], call.asking(True))[0]
                complete = self._run(messages[: i + 1], call)[0]
            except TEMPLATE_FAULTS:
                continue  # such a beginning is no conversation for this template
            if not complete.startswith(prompt) and (tag := open_thinking_tag(prompt)):
                prompt = prompt.rstrip().removesuffix(tag)  # history has no thinking, only the prompt opens it
            if complete.startswith(prompt) and text.startswith(complete) and len(prompt) < len(complete):
                spans.append((len(prompt), len(complete)))
        return tuple(spans)

    def _broken(self, error: Exception) -> InvalidRequest:
        line = f" in line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        return InvalidRequest(
            f"The chat template ({self.source.origin}) is not valid{line}: {_short(error)}. Correct it or choose another template.",
            field="template",
            **_line_of(error),
        )

    def _refused(self, error: Exception) -> InvalidRequest:
        if isinstance(error, TemplateRefusalError):
            return InvalidRequest(
                f"The chat template ({self.source.origin}) refuses this conversation: {_short(error)}. "
                "Change the messages or choose another template.",
                field="messages",
                **_line_of(error),
            )
        return InvalidRequest(
            f"The chat template ({self.source.origin}) failed: {type(error).__name__}: {_short(error)}. Choose another template.",
            field="template",
            **_line_of(error),
        )


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _line_of(error: Exception) -> dict[str, int]:
    """The line of the template in which an error came up, as a detail; nothing where no line is known. Jinja writes its lines into the traceback."""
    line = error.lineno if isinstance(error, TemplateSyntaxError) else 0
    step = error.__traceback__
    while step is not None and not isinstance(error, TemplateSyntaxError):
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return {"line": line} if line else {}


def _short(error: Exception) -> str:
    text = (str(error) or type(error).__name__).strip().rstrip(".")
    return text if len(text) <= 300 else text[:300] + "…"


def _loses_developer(variant: Variant, text: str) -> bool:
    """Whether a developer message was silently left out: many templates skip roles they do not know."""
    return any(m["role"] == "developer" and m["content"].strip() not in text for m in variant.messages)


def _cut(text: str) -> str | None:
    """The text before the mark, without trailing space where the template trims messages; None without a mark."""
    at = text.rfind(CUT_MARK.strip())
    if at < 0:
        return None
    return text[:at] if text.startswith(CUT_MARK, at) else text[:at].rstrip()


def _keeps(prompt: str, content: str) -> bool:
    """Whether the prompt ends with the message as it is, and not behind a thinking block that the template closed before it."""
    core = content.strip()
    if not prompt.rstrip().endswith(core):
        return False
    header = prompt.rstrip().removesuffix(core).rstrip()
    return not (_thinks(content) and any(header.endswith(closing) for _, closing in THINKING_TAGS))


def _thinks(content: str) -> bool:
    return any(content.lstrip().startswith(opening) for opening, _ in THINKING_TAGS)


def _behind(header: str, content: str) -> str:
    """A message that begins with thinking, behind the header of its turn, which may open or skip thinking by itself."""
    if tag := open_thinking_tag(header):
        rest = content.lstrip().removeprefix(tag)
        return header + (rest.lstrip("\n") if header.endswith("\n") else rest)
    for opening, closing in THINKING_TAGS:
        body = header.rstrip()
        if body.endswith(closing) and (before := body.removesuffix(closing).rstrip()).endswith(opening):
            return before.removesuffix(opening) + content.lstrip()  # an empty block would end the thinking before it began
    return header + content


def _with_content(message: Message, content: str) -> Message:
    return message.model_copy(update={"content": content})
