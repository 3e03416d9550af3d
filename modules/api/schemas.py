"""Request bodies of the OpenAI-compatible API.

Every field of `GenerationParams` is accepted under its own name; OpenAI's spellings are mapped onto them in `params_of`. Fields of OpenAI's API
that Paddock does not act on are ignored when they cannot change the text and refused when they would.
Source: the public OpenAI API reference (chat completions, completions).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from modules.api.content import ChatMessage, check_count
from modules.api.openai_fields import OpenAiChatFields
from modules.api.role_fields import RoleFields
from modules.api.text_shapes import Schema, ShapeFields
from modules.api.textgen_fields import textgen_names
from modules.api.tools import ToolFields
from modules.core.model import AdapterChoices
from modules.core.params import GenerationParams

# What is wrong with a list is told by the first thing that is: looking for all of it in a million values would hold up others
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]
RENAMED = frozenset({"stop", "logprobs", "max_tokens"})  # same name in OpenAI's API, another type there
TEXT_LIMIT = 4_000_000
MOST_PROMPTS = 2048  # of one request for completions: what is put together for them must not hold up others


def _optional_fields() -> dict[str, Any]:
    """Every sampling field once more, each optional: only what a client sends counts."""
    fields: dict[str, Any] = {}
    for name, info in GenerationParams.model_fields.items():
        if name not in RENAMED:
            kind: Any = info.annotation
            fields[name] = (Annotated[kind | None, info.description, *info.metadata], Field(None, description=info.description))
    return fields


SamplingFields = create_model("SamplingFields", **_optional_fields())


def checked_stop(value: str | list[str] | None) -> str | list[str] | None:
    """The stop strings, if they are not too many or too long.

    Raises:
        ValueError: they are.
    """
    items = [value] if isinstance(value, str) else value or []
    if len(items) > 64 or any(not 0 < len(item) <= 1000 for item in items):
        raise ValueError("at most 64 stop strings of 1 to 1000 characters")
    return value


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    include_usage: bool = False


class GenerationBody(SamplingFields, ShapeFields):
    """What all bodies that ask for text share."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=1_048_576)
    n: int = Field(1, ge=1, le=8)
    stop: str | Texts | None = Field(None)
    user: str = Field("", max_length=512)
    preset: str = ""
    json_schema: Schema | None = Field(None, description=GenerationParams.model_fields["json_schema"].description)
    adapters: AdapterChoices | None = Field(None, description="LoRA adapters of loras/ for this request alone; without it those in use on the model.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        """OpenAI's clients may write null for what they do not set; TextGen's have names of their own."""
        return textgen_names({name: value for name, value in values.items() if value is not None}) if isinstance(values, dict) else values

    @field_validator("stop")
    @classmethod
    def _bounded_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        return checked_stop(value)

    @model_validator(mode="after")
    def _whole_prompts(self) -> Self:
        if self.stream and self.tells_prompt:
            raise ValueError("prompt_logprobs are not told in streams; leave stream out, or ask for echo with logprobs")
        return self

    @property
    def tells_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are asked for as vLLM has it."""
        return getattr(self, "prompt_logprobs", None) is not None

    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def given(self) -> dict[str, Any]:
        """The sampling fields the client sent, by our names."""
        values = {name: getattr(self, name) for name in SamplingFields.model_fields if getattr(self, name) is not None}
        values |= self.shape()
        if self.stop_strings():
            values["stop"] = self.stop_strings()
        return values


class TokenIdFields(BaseModel):
    """The field of the routes that tell token ids, as vLLM has it."""

    return_token_ids: bool = Field(
        False,
        description="Tells prompt_token_ids (of a chat beside the choices, else in each of them; in a stream in the first piece) and token_ids of each choice (in a stream those of each piece): "
        "all that the model wrote, also what a stop string cut off and the token that ended it, neither of which is in the text. Both, one behind the other, are a prompt that goes on from there.",
    )


class ChatFields(GenerationBody):
    """What all bodies that ask for the next message of a conversation share."""

    prompt_template: str = ""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class ChatRequest(OpenAiChatFields, ToolFields, RoleFields, TokenIdFields, ChatFields):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_048_576)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    continue_final_message: bool = False

    @field_validator("messages")
    @classmethod
    def _bounded_images(cls, value: list[ChatMessage]) -> list[ChatMessage]:
        return check_count(value)

    @field_validator("top_logprobs")
    @classmethod
    def _supported(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "top_logprobs" and value is not None and not info.data.get("logprobs"):
            raise ValueError("needs logprobs: true")
        return value


class CompletionRequest(TokenIdFields, GenerationBody):
    """Body of POST /v1/completions."""

    prompt: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)] = ""
    max_tokens: int | None = Field(None, ge=0, le=1_048_576)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    parse_special: Literal[True, False] = True
    add_bos: Literal[True, False] = True
    suffix: str | None = Field(None, max_length=TEXT_LIMIT, description="What stands behind the gap that is to be filled, for models that were trained for that.")
    best_of: int | None = None

    @field_validator("prompt")
    @classmethod
    def _not_too_many(cls, value: Any) -> Any:
        if isinstance(value, list) and value and not isinstance(value[0], int) and len(value) > MOST_PROMPTS:
            raise ValueError(f"at most {MOST_PROMPTS} prompts at a time; got {len(value)}")
        return value

    @field_validator("best_of")
    @classmethod
    def _none_are_thrown_away(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value != info.data.get("n", value):
            raise ValueError("completions are not written to be thrown away; leave it out, or make n the same and choose yourself")
        return value

    @field_validator("suffix")
    @classmethod
    def _between_texts(cls, value: str | None, info: ValidationInfo) -> str | None:
        prompt = info.data.get("prompt", "")
        if value and not (isinstance(prompt, str) or all(isinstance(item, str) for item in prompt)):
            raise ValueError("needs its prompt as text, not as token ids")
        if value and info.data.get("echo"):
            raise ValueError("the prompt of a text with a gap is not told; leave echo out")
        if value and not info.data.get("parse_special", True):
            raise ValueError("a gap is written with special tokens; leave parse_special out")
        return value

    def given(self) -> dict[str, Any]:
        """The sampling fields; an echo with log-probabilities has those of the prompt, and without a token to write only the prompt is read."""
        values = super().given()
        if self.max_tokens == 0:
            values["prompt_only"] = True
        if self.echo and self.logprobs is not None:
            values["prompt_logprobs"] = max(self.logprobs, values.get("prompt_logprobs", 0))
        return values

    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts one by one, as text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            return [""]
        if isinstance(self.prompt[0], int):
            return [tuple(self.prompt)]
        return [item if isinstance(item, str) else tuple(item) for item in self.prompt]
