"""Fields of OpenAI's chat that are no sampling: how much is thought, and what is refused because ignoring it would change the answer.

What is in neither place (`store`, `metadata`, `service_tier`, `prediction`, the cache and safety fields) changes no text, and is ignored.
Source: the public OpenAI API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
KNOWN_EFFORTS: Mapping[str, str] = MappingProxyType({"minimal": "low", "xhigh": "high", "max": "high"})  # chat templates know three
REFUSED: Mapping[str, str] = MappingProxyType({
    "audio": "models here write text only; leave it out",
    "functions": "the older form of tools is not supported; send tools",
    "function_call": "the older form of tools is not supported; send tool_choice",
    "moderation": "there is no moderation here; leave it out",
    "web_search_options": "nothing is searched for on the web; leave it out, or give the model a tool of yours",
})  # fmt: skip


def effort_variables(effort: str) -> dict[str, Any]:
    """The variables of chat templates that say how much is to be thought."""
    if effort == "none":
        return {"enable_thinking": False}
    return {"enable_thinking": True, "reasoning_effort": KNOWN_EFFORTS.get(effort, effort)}


class OpenAiChatFields(BaseModel):
    """These fields; templates get effort and verbosity as variables, below what the client itself gives them."""

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    reasoning_effort: Effort | None = Field(None, description="How much is thought, for chat templates that know that; none turns thinking off.")
    verbosity: Verbosity | None = Field(None, description="How long the answer is, for chat templates that know that.")
    modalities: list[str] | None = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    moderation: Any = None
    web_search_options: Any = None

    @field_validator("modalities")
    @classmethod
    def _text_only(cls, value: list[str] | None) -> list[str] | None:
        if value not in (None, [], ["text"]):
            raise ValueError("models here write text only; leave it out")
        return value

    @field_validator(*REFUSED)
    @classmethod
    def _refused(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            raise ValueError(REFUSED[info.field_name or ""])
        return value

    @model_validator(mode="after")
    def _told_to_templates(self) -> Self:
        told = effort_variables(self.reasoning_effort) if self.reasoning_effort is not None else {}
        if self.verbosity is not None:
            told["verbosity"] = self.verbosity
        self.chat_template_kwargs = {**told, **self.chat_template_kwargs}
        return self
