"""What every client is asked, and how its answers are printed: read by the scripts, which run in the clients' own environment, and by the test.

Knows no client.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

SYSTEM = "Answer in one short sentence."
QUESTION = "What is a LoRA?"
MESSAGES = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION})
MAX_TOKENS = 60
STOP = " small"  # in the middle of the answer
TOO_LONG = "word " * 3000
UNKNOWN = "no-such-model"
WRONG_KEY = "a wrong key"
TEXTS = ("A LoRA is a small file.", "It rains today.")
SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "green", "blue"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["color", "count"],
    "additionalProperties": False,
}
CITIES = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": CITIES}}


class Server:
    """Where Paddock is, its key and the model, as the test tells them."""

    def __init__(self) -> None:
        self.url, self.key, self.model = (os.environ[name] for name in ("PADDOCK_URL", "PADDOCK_KEY", "PADDOCK_MODEL"))
        self.openai_url = f"{self.url}v1"


def name_of_error(ask: Callable[[], Any]) -> str:
    """The class of the exception that a call ends with."""
    try:
        answer = ask()
    except Exception as error:  # noqa: BLE001 - which class it is, is what is asked
        return type(error).__name__
    return f"no error but {answer!r}"


def tell(facts: dict[str, Any]) -> None:
    """Print what was found, as the last line."""
    sys.stdout.write(f"\n{json.dumps(facts)}\n")
