"""What POST /v1/messages and /v1/messages/count_tokens take, and the body of our own chat that it stands for.

Fields of Anthropic's that cannot change the text are ignored, those that would are refused. All fields of ours are taken beside them.
Source: the public reference of Anthropic's Messages API.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modules.api.anthropic_blocks import TextBlock, TextBlocks, Turn, chat_messages
from modules.api.dialects import chat_of
from modules.api.openai_fields import KNOWN_EFFORTS, Effort
from modules.api.schemas import ChatFields, ChatRequest, Texts, checked_stop

TURNS_LIMIT = 10_000
TOOLS_LIMIT = 1_024


class Thoughts(BaseModel):
    """Whether the model is to think first. A budget is ignored: `max_tokens` holds."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=0)


class OutputFormat(BaseModel):
    """The shape of the answer."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    """How much the model is to think, and the shape of the answer."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class Tool(BaseModel):
    """A tool of the client's own. Tools that Anthropic runs, or knows without being told, have other types."""

    type: str | None = None
    name: str = Field(max_length=200)
    description: str = ""
    input_schema: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})

    @field_validator("type")
    @classmethod
    def _own(cls, value: str | None) -> str | None:
        if value not in (None, "custom"):
            raise ValueError(f"tools of the type “{value[:60]}” are not supported; describe a tool of your own by name, description and input_schema")
        return value

    def declared(self) -> dict[str, Any]:
        """The tool as our own chat has it."""
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": self.input_schema}}


class ToolChoice(BaseModel):
    """Whether, and which, tools are to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.type == "tool" and not self.name:
            raise ValueError("a choice of the type tool needs the name of the tool")
        return self

    def chosen(self) -> Any:
        """The choice as our own chat has it."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name or ""}}
        return "required" if self.type == "any" else self.type


class Metadata(BaseModel):
    """Who asks."""

    user_id: str | None = Field(None, max_length=512)


class CountBody(ChatFields):
    """Body of POST /v1/messages/count_tokens."""

    messages: list[Turn] = Field(min_length=1, max_length=TURNS_LIMIT, fail_fast=True)
    system: TextBlocks = Field(default_factory=list)
    thinking: Thoughts | None = None
    output_config: OutputConfig | None = None
    tools: list[Tool] | None = Field(None, max_length=TOOLS_LIMIT, fail_fast=True)
    tool_choice: ToolChoice | None = None
    container: Any = None
    mcp_servers: list[Any] | None = None

    @field_validator("container", "mcp_servers")
    @classmethod
    def _not_here(cls, value: Any) -> Any:
        if value:
            raise ValueError("not supported; Paddock runs no tools: declare them in tools, run them yourself and send their results")
        return value

    @field_validator("n")
    @classmethod
    def _one(cls, value: int) -> int:
        if value != 1:
            raise ValueError("one message is written at a time; leave n out")
        return value

    def chat(self) -> ChatRequest:
        """The body of our own chat that asks for the same.

        Raises:
            InvalidRequest: it cannot be one.
        """
        return chat_of(self, self.told())

    def told(self) -> dict[str, Any]:
        """The fields that have other names or forms in our own chat."""
        messages = chat_messages(self._system(), self.messages)
        begun = bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]
        values: dict[str, Any] = {"messages": messages, "continue_final_message": begun}
        variables: dict[str, Any] = {}
        if self.thinking is not None and self.thinking.type != "adaptive":
            variables["enable_thinking"] = self.thinking.type == "enabled"
        if self.output_config is not None:
            if self.output_config.effort is not None:
                variables["reasoning_effort"] = KNOWN_EFFORTS.get(self.output_config.effort, self.output_config.effort)
            if self.output_config.format is not None:
                values["json_schema"] = self.output_config.format.json_schema
        values["chat_template_kwargs"] = {**variables, **self.chat_template_kwargs}
        if self.tools:
            values["tools"] = [tool.declared() for tool in self.tools]
            if self.tool_choice is not None:
                values["tool_choice"] = self.tool_choice.chosen()
                values["parallel_tool_calls"] = not self.tool_choice.disable_parallel_tool_use
        return values

    def _system(self) -> list[TextBlock]:
        return [block for block in self.system if block.text]


class MessagesRequest(CountBody):
    """Body of POST /v1/messages."""

    max_tokens: int = Field(ge=0, le=1_048_576, description="Most tokens to write; with 0 the prompt is only read.")
    stop_sequences: Texts | None = None
    metadata: Metadata | None = None

    @field_validator("stop_sequences")
    @classmethod
    def _bounded_sequences(cls, value: list[str] | None) -> list[str] | None:
        checked_stop(value)
        return value

    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings under both names."""
        return (*super().stop_strings(), *(self.stop_sequences or ()))

    def told(self) -> dict[str, Any]:
        """The fields that have other names or forms in our own chat."""
        values = super().told()
        values |= {"max_tokens": self.max_tokens} if self.max_tokens else {"prompt_only": True}
        if self.stop_strings():
            values["stop"] = list(self.stop_strings())
        if self.metadata is not None and self.metadata.user_id:
            values["user"] = self.metadata.user_id
        return values
