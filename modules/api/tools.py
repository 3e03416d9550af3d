"""Tools in a request as OpenAI has them: which there are, and whether one of them has to be called.

Knows the wire form; what is accepted as a tool is `core/tools.py`'s business. Source: the public OpenAI API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from modules.core.tools import checked_tools

CHOICES = ("none", "auto", "required")


class ToolFields(BaseModel):
    """The fields of a chat request that are about tools."""

    tools: list[dict[str, Any]] | None = Field(None, fail_fast=True, description="Functions that the model may call, in OpenAI's form.")
    tool_choice: str | dict[str, Any] | None = Field(None, description="none, auto, required, a named function, or allowed_tools.")
    parallel_tool_calls: bool = Field(True, description="Whether one reply may call more than once.")

    @field_validator("tools")
    @classmethod
    def _checked(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        return list(checked_tools(value)) if value else None

    @model_validator(mode="after")
    def _known_choice(self) -> Self:
        names = self._names()
        mode, allowed = _mode(self.tool_choice)
        unknown = next((name for name in allowed or () if name not in names), None)
        if unknown is not None:
            raise ValueError(f"tool_choice names {unknown[:80]!r}, which is not among the tools")
        if mode == "required" and not names:
            raise ValueError("tool_choice asks for a call and there are no tools; send tools")
        return self

    def _names(self) -> tuple[str, ...]:
        return tuple(tool["function"]["name"] for tool in self.tools or ())

    def offered_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that the model is told of: none where it must not call any."""
        mode, allowed = _mode(self.tool_choice)
        if mode == "none":
            return ()
        return tuple(tool for tool in self.tools or () if mode == "required" or allowed is None or tool["function"]["name"] in allowed)

    def must_call(self) -> tuple[str, ...]:
        """The tools of which one has to be called; none where that is the model's choice."""
        mode, allowed = _mode(self.tool_choice)
        return (self._names() if allowed is None else allowed) if mode == "required" else ()


def _mode(choice: str | dict[str, Any] | None) -> tuple[str, tuple[str, ...] | None]:
    """How far the model may choose, and among which tools; None is all of them.

    Raises:
        ValueError: there is no such choice.
    """
    if isinstance(choice, str) or choice is None:
        if choice not in (None, *CHOICES):
            raise ValueError(f"tool_choice is none, auto, required or a function; got {choice[:40]!r}")
        return choice or "auto", None
    if choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools", choice)
        mode, tools = (inner.get("mode", "auto"), inner.get("tools")) if isinstance(inner, Mapping) else (None, None)
        if mode not in CHOICES or not isinstance(tools, list) or not tools:
            raise ValueError("allowed_tools has a mode (auto or required) and a list of tools")
        return mode, tuple(_named(tool) for tool in tools)
    return "required", (_named(choice),)


def _named(choice: Any) -> str:
    """The name of the function in a choice."""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name") if isinstance(choice, Mapping) else None
    if not isinstance(name, str):
        raise ValueError('a choice of a function is {"type": "function", "function": {"name": …}}')
    return name
