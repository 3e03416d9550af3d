"""Conversations on which chat templates are looked at: short, real ones, each with something that templates treat in their own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modules.core.messages import Message


def _weather() -> dict[str, Any]:
    """A tool that a model may call."""
    parameters = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
    return {"type": "function", "function": {"name": "weather", "description": "The weather in a town.", "parameters": parameters}}


def _call() -> dict[str, Any]:
    """A call of it."""
    return {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"town": "Oslo"}}}


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation and what is to be written after it."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def asks(self) -> bool:
        """Whether a reply comes next; a conversation that ends with one is complete, as in training."""
        return self.messages[-1].role != "assistant"


def _said(role: str, content: str, **more: Any) -> Message:
    return Message.model_validate({"role": role, "content": content, **more})


ORDERS = _said("system", "You are a patient gardener. Answer in one sentence.")
FIRST, ANSWER = _said("user", "When do I plant beans?"), _said("assistant", "In the middle of May, when the nights are warm.")
SECOND = _said("user", "And how deep?")
THOUGHT = _said("assistant", "<think>\nBeans rot in cold soil.\n</think>\n\nIn the middle of May, when the nights are warm.")

SAMPLES: tuple[Sample, ...] = (
    Sample("One question", (FIRST,)),
    Sample("With a system prompt", (ORDERS, FIRST)),
    Sample("Several turns", (ORDERS, FIRST, ANSWER, SECOND)),
    Sample("Earlier reply with thinking", (FIRST, THOUGHT, SECOND)),
    Sample("Complete, as in training", (ORDERS, FIRST, ANSWER, SECOND, _said("assistant", "Three centimetres."))),
    Sample("Two questions in a row", (FIRST, SECOND)),
    Sample(
        "With a tool",
        (
            _said("user", "Can I plant beans in Oslo today?"),
            _said("assistant", "", tool_calls=[_call()]),
            _said("tool", '{"degrees": 4}', tool_call_id="call12345", name="weather"),
        ),
        (_weather(),),
    ),
)
PLAIN = tuple(sample for sample in SAMPLES if not sample.tools)  # what every template is expected to take


def find_sample(name: str) -> Sample:
    """The sample of that name, or the first."""
    return next((sample for sample in SAMPLES if sample.name == name), SAMPLES[0])
