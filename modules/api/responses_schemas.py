"""What POST /v1/responses takes, and the body of our own chat that it stands for.

Nothing is stored: what would need an earlier answer is refused. Fields that cannot change the text are ignored, and all fields of ours are taken.
Source: the public OpenAI API reference (responses).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from modules.api.dialects import chat_of
from modules.api.openai_fields import Effort, Verbosity, effort_variables
from modules.api.responses_items import Items, ReasoningItem, chat_messages
from modules.api.schemas import ChatFields, ChatRequest

TOOLS_LIMIT = 1_024
WITH_LOGPROBS = "message.output_text.logprobs"
REFUSED: Mapping[str, str] = MappingProxyType({
    "previous_response_id": "answers are not stored here; send the whole conversation in input",
    "conversation": "conversations of this API are not stored here; send the whole conversation in input",
    "background": "answers are not stored here, so none can be fetched later; leave it out, and use stream to see one grow",
    "prompt": "prompts are not stored here; send their text in instructions and input",
    "moderation": "there is no moderation here; leave it out",
    "context_management": "nothing is compacted here; leave it out, or use truncation: auto",
})  # fmt: skip


class TextFormat(BaseModel):
    """The shape of the answer."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(BaseModel):
    """The shape of the answer and its length."""

    format: TextFormat | None = None
    verbosity: Verbosity | None = None


class Reasoning(BaseModel):
    """How much is thought; with `summary` the thoughts come as a summary, which they are not: they are all of it."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class Tool(BaseModel):
    """A function of the client's own."""

    model_config = ConfigDict(extra="ignore")

    type: str
    name: str = Field("", max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("type")
    @classmethod
    def _own(cls, value: str) -> str:
        if value != "function":
            raise ValueError(f"tools of the type “{value[:60]}” are not supported; Paddock runs none: declare a function and run it yourself")
        return value

    def declared(self) -> dict[str, Any]:
        """The tool as our own chat has it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters, "strict": self.strict}
        return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


class ToolName(BaseModel):
    """The one function that is to be called."""

    type: Literal["function"]
    name: str = Field(max_length=200)


class AllowedTools(BaseModel):
    """The functions among which the model may choose, or has to."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[ToolName] = Field(min_length=1, max_length=TOOLS_LIMIT)


class ResponsesRequest(ChatFields):
    """Body of POST /v1/responses."""

    input: Items
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=1_048_576)
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: list[Tool] | None = Field(None, max_length=TOOLS_LIMIT, fail_fast=True)
    tool_choice: Literal["none", "auto", "required"] | Annotated[ToolName | AllowedTools, Field(discriminator="type")] | None = None
    parallel_tool_calls: bool = True
    include: list[str] = Field(default_factory=list, max_length=100, fail_fast=True)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] = "disabled"
    metadata: dict[str, str] | None = Field(None, max_length=16)
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool = False
    prompt: Any = None
    moderation: Any = None
    context_management: Any = None

    @field_validator(*REFUSED)
    @classmethod
    def _refused(cls, value: Any, info: ValidationInfo) -> Any:
        if value:
            raise ValueError(REFUSED[info.field_name or ""])
        return value

    @field_validator("n")
    @classmethod
    def _one(cls, value: int) -> int:
        if value != 1:
            raise ValueError("one answer is written at a time; leave n out")
        return value

    @field_validator("input")
    @classmethod
    def _said(cls, value: Items) -> Items:
        if all(isinstance(item, ReasoningItem) for item in value):
            raise ValueError("there is nothing to answer; send a message")
        return value

    @property
    def summarised(self) -> bool:
        """Whether thoughts are to come where a summary of them stands."""
        return self.reasoning is not None and bool(self.reasoning.summary or self.reasoning.generate_summary)

    @property
    def with_logprobs(self) -> bool:
        """Whether log-probabilities are told."""
        return WITH_LOGPROBS in self.include or bool(self.top_logprobs)

    def chat(self) -> ChatRequest:
        """The body of our own chat that asks for the same.

        Raises:
            InvalidRequest: it cannot be one.
        """
        return chat_of(self, {**self._told(), **self._told_tools()})

    def _told(self) -> dict[str, Any]:
        values: dict[str, Any] = {"messages": chat_messages(self.instructions, self.input)}
        if self.max_output_tokens or self.max_tokens:
            values["max_tokens"] = self.max_output_tokens or self.max_tokens
        if self.with_logprobs:
            values |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        variables = effort_variables(self.reasoning.effort) if self.reasoning is not None and self.reasoning.effort is not None else {}
        wanted = self.text or TextOptions()
        if wanted.verbosity is not None:
            variables["verbosity"] = wanted.verbosity
        if wanted.format is not None and wanted.format.type != "text":
            schema = wanted.format.json_schema
            values["response_format"] = {"type": wanted.format.type, **({"json_schema": {"schema": schema}} if schema is not None else {})}
        return {**values, "chat_template_kwargs": {**variables, **self.chat_template_kwargs}}

    def _told_tools(self) -> dict[str, Any]:
        if not self.tools:
            return {}
        values: dict[str, Any] = {"tools": [tool.declared() for tool in self.tools], "parallel_tool_calls": self.parallel_tool_calls}
        if isinstance(self.tool_choice, ToolName):
            values["tool_choice"] = {"type": "function", "function": {"name": self.tool_choice.name}}
        elif self.tool_choice is not None:
            values["tool_choice"] = self.tool_choice if isinstance(self.tool_choice, str) else self.tool_choice.model_dump()
        return values
