"""Request bodies of Ollama's API, and what they are in ours.

A chat becomes a body of POST /v1/chat/completions, so that everything behind it is the same. What is left out is as in Ollama, not neutral.
Source: Ollama's public API reference and its table of parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from modules.api.embeddings import check_texts
from modules.api.schemas import TEXT_LIMIT, ChatRequest, CompletionRequest, Texts, TokenIds
from modules.core.errors import InvalidRequest
from modules.core.messages import IMAGE_LIMIT, Role
from modules.core.params import GenerationParams
from modules.core.settings import validation_sentence

NAME_LIMIT = 1000
MOST_TOKENS = 1_048_576
DEFAULTS: Mapping[str, Any] = MappingProxyType({"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1, "penalty_range": 64})
SAME = frozenset(GenerationParams.model_fields) - {"max_tokens", "logprobs", "prompt_only"}  # Ollama's own among them, and all others of ours
RENAMED = MappingProxyType({"repeat_penalty": "repetition_penalty", "repeat_last_n": "penalty_range", "mirostat": "mirostat_mode"})
DURATION = re.compile(r"[+-]?0*\.?0*\s*(ns|us|µs|ms|s|m|h)?")  # one that is nothing
BodyT = TypeVar("BodyT", bound=BaseModel)


class _Body(BaseModel):
    """What all bodies share. Unknown fields are ignored, as Ollama does."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field("", max_length=NAME_LIMIT, description="A model of /api/tags, with or without :latest; empty is the one used last.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        """Ollama's clients write null for what they do not set, and older ones call the model name."""
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        return {"model": given["name"], **given} if isinstance(given.get("name"), str) else given


class ModelBody(_Body):
    """A model by its name."""


class _Writing(_Body):
    """What /api/chat and /api/generate share."""

    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] = Field("", description="json, or a JSON schema that the reply fits.")
    options: dict[str, Any] = Field(default_factory=dict, max_length=200, description="Ollama's sampling options, and every sampling field of ours by its name.")
    think: bool | Literal["low", "medium", "high"] | None = Field(None, description="Whether the model thinks first, or how much, where its template knows that.")
    keep_alive: float | str | None = Field(None, description="0 with nothing to answer unloads the model; otherwise the server's own rule counts.")
    truncate: bool = Field(True, description="Leave out the oldest messages where there is no room; otherwise what is too long is refused.")
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def unloads(self) -> bool:
        """Whether the model is not to be kept at all."""
        return self.keep_alive == 0 or (isinstance(self.keep_alive, str) and bool(self.keep_alive) and bool(DURATION.fullmatch(self.keep_alive.strip())))

    def fields(self) -> dict[str, Any]:
        """Everything but the prompt, by the names of our own bodies."""
        asked = {**params_of(self.options), "stream": self.stream}
        if self.format:
            asked["json_schema"] = {"type": "object"} if self.format == "json" else self.format
        return asked

    def chat(self, messages: list[dict[str, Any]], **more: Any) -> ChatRequest:
        """The conversation as a body of our own.

        Raises:
            InvalidRequest: a value outside its limits.
        """
        variables: dict[str, Any] = {} if self.think is None else {"enable_thinking": bool(self.think)}
        if isinstance(self.think, str):
            variables["reasoning_effort"] = self.think
        told = {"logprobs": True, "top_logprobs": self.top_logprobs or 0} if self.logprobs else {}
        return checked_body(ChatRequest, {**self.fields(), "messages": messages, "chat_template_kwargs": variables, **told, **more})


class CalledFunction(BaseModel):
    """A call of a tool, as Ollama writes it: arguments are an object."""

    name: str = Field(max_length=NAME_LIMIT)
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(BaseModel):
    """A call of a tool by the model."""

    id: str | None = Field(None, max_length=NAME_LIMIT)
    function: CalledFunction


class OllamaMessage(BaseModel):
    """One message."""

    model_config = ConfigDict(extra="ignore")

    role: Role
    content: str = Field("", max_length=TEXT_LIMIT)
    images: list[str] = Field(default_factory=list, max_length=IMAGE_LIMIT, fail_fast=True, description="Image files in base64.")
    tool_calls: list[ToolCall] = Field(default_factory=list, max_length=200)
    tool_name: str | None = Field(None, max_length=NAME_LIMIT)
    tool_call_id: str | None = Field(None, max_length=NAME_LIMIT)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


class ChatBody(_Writing):
    """Body of POST /api/chat."""

    messages: list[OllamaMessage] = Field(default_factory=list, max_length=10_000, fail_fast=True)
    tools: list[dict[str, Any]] = Field(default_factory=list, max_length=1000, fail_fast=True)
    tool_choice: str | dict[str, Any] | None = Field(None, description="As OpenAI has it, which Ollama does not: auto, none, required, or a tool.")

    def request(self) -> ChatRequest:
        """The same as a body of our own.

        Raises:
            InvalidRequest: a value outside its limits.
        """
        offered = {"tools": self.tools, "tool_choice": self.tool_choice} if self.tools else {}
        return self.chat(_messages(self.messages), **offered)


class GenerateBody(_Writing):
    """Body of POST /api/generate."""

    prompt: str = Field("", max_length=TEXT_LIMIT)
    system: str = Field("", max_length=TEXT_LIMIT)
    images: list[str] = Field(default_factory=list, max_length=IMAGE_LIMIT, fail_fast=True, description="Image files in base64.")
    raw: bool = Field(False, description="The prompt is continued as it stands, without the model's template.")
    suffix: str = ""
    template: str = ""
    context: TokenIds = Field(default_factory=list)

    @field_validator("suffix", "template", "context")
    @classmethod
    def _not_offered(cls, value: Any) -> Any:
        if value:
            raise ValueError("not supported; send the whole conversation to /api/chat, or a prompt with raw: true")
        return value

    def request(self) -> ChatRequest:
        """The prompt as a conversation of one question.

        Raises:
            InvalidRequest: a value outside its limits.
        """
        asked = [OllamaMessage(role="user", content=self.prompt, images=self.images)]
        return self.chat(_messages([OllamaMessage(role="system", content=self.system), *asked] if self.system else asked))

    def raw_request(self) -> CompletionRequest:
        """The prompt as a text to be continued.

        Raises:
            InvalidRequest: a value outside its limits.
        """
        if self.images:
            raise InvalidRequest("images: a raw prompt takes none; leave raw out, and they stand in the question.", field="images")
        told = {"logprobs": self.top_logprobs or 0} if self.logprobs else {}
        return checked_body(CompletionRequest, {**self.fields(), "prompt": self.prompt, **told})


class EmbedBody(_Body):
    """Body of POST /api/embed."""

    input: str | Texts = ""
    dimensions: int | None = Field(None, ge=1, le=65_536)

    @field_validator("input")
    @classmethod
    def _bounded(cls, value: str | list[str]) -> str | list[str]:
        check_texts(value)
        return value


class EmbeddingsBody(_Body):
    """Body of POST /api/embeddings, the older way to ask for one vector."""

    prompt: str = Field("", max_length=TEXT_LIMIT)


def params_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's options as our sampling fields. What belongs to the loading of a model, num_ctx too, is passed over: a request does not load it anew."""
    given = {RENAMED.get(name, name): value for name, value in options.items() if value is not None}
    asked: dict[str, Any] = {**DEFAULTS, **{name: value for name, value in given.items() if name in SAME}}
    count, last, seed = given.get("num_predict"), asked["penalty_range"], asked.get("seed")
    if _is_number(count) and count >= 0:  # below it there is no end but the model's own
        asked |= {"max_tokens": int(min(count, MOST_TOKENS))} if count else {"prompt_only": True}
    if _is_number(last) and last <= 0:  # -1: all of the text, 0: no penalties
        asked |= {"penalty_range": 0} if last else {"penalty_range": 0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    if _is_number(seed) and seed < 0:
        del asked["seed"]
    if asked["top_p"] == 0:  # the likeliest alone
        asked |= {"top_p": 1.0, "top_k": 1}
    return asked


def checked_body(kind: type[BodyT], values: Mapping[str, Any]) -> BodyT:
    """A body of our own from these values.

    Raises:
        InvalidRequest: naming the field, its limit and the value.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise InvalidRequest(validation_sentence(error), field=str(next(iter(error.errors()[0]["loc"]), "")) or None) from error


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _messages(messages: list[OllamaMessage]) -> list[dict[str, Any]]:
    """Messages as OpenAI's clients write them. An answer of a tool names the tool; which call it answers follows from the order."""
    written = []
    waiting: list[tuple[str, str]] = []  # calls without an answer yet: name and id
    for place, message in enumerate(messages):
        row: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.tool_calls:
            ids = [call.id or f"call_{place}_{number}" for number, call in enumerate(message.tool_calls)]
            waiting = [(call.function.name, call_id) for call, call_id in zip(message.tool_calls, ids, strict=True)]
            row["tool_calls"] = [_openai_call(call, call_id) for call, call_id in zip(message.tool_calls, ids, strict=True)]
        if message.role == "tool":
            found = next((pair for pair in waiting if pair[0] == message.tool_name), next(iter(waiting), (message.tool_name or "", "")))
            waiting = [pair for pair in waiting if pair is not found]
            row |= {"name": found[0] or None, "tool_call_id": message.tool_call_id or found[1] or f"call_{place}"}
        written.append(row)
    return written


def _content(message: OllamaMessage) -> str | list[dict[str, Any]]:
    """Text, with images in front of it."""
    if not message.images:
        return message.content
    addresses = [data if data.startswith("data:") else f"data:image/png;base64,{data}" for data in message.images]  # its first bytes say which kind it is
    return [*({"type": "image_url", "image_url": {"url": address}} for address in addresses), {"type": "text", "text": message.content}]


def _openai_call(call: ToolCall, call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": call.function.name, "arguments": json.dumps(call.function.arguments, ensure_ascii=False)}}
