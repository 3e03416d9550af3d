"""Values of arguments where they are not JSON: as bare text, in Python's notation, and in that of Gemma."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modules.prompts.calls.tape import NotACallError

DEEPEST = 64
WORDS: Mapping[str, Any] = MappingProxyType({"true": True, "false": False, "null": None, "True": True, "False": False, "None": None})
BARE = re.compile(r"[^,{}\[\]:]+")


def is_string(schema: Any) -> bool:
    """Whether a schema says string and nothing else."""
    return isinstance(schema, Mapping) and schema.get("type") in ("string", ["string"])


def typed(text: str, schema: Any) -> Any:
    """What a bare text means: where its schema says string it is one, else what can be read as JSON or as a word of Python is that."""
    if is_string(schema):
        return text
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    word = text.strip()
    if word in WORDS and not (word in ("null", "None") and kinds and "null" not in kinds):
        return WORDS[word]
    try:
        value = json.loads(word)
        json.dumps(value, allow_nan=False)  # NaN and Infinity are no JSON
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value


def python_value(node: ast.expr) -> Any:
    """A literal of Python; JSON's words are some too.

    Raises:
        ValueError: it is no literal.
    """
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [python_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys are strings")
        return dict(zip(keys, map(python_value, node.values), strict=True))
    return ast.literal_eval(node)


def braced(text: str, quote: str) -> dict[str, Any]:
    """`{key:value,…}` with strings between two marks `quote`.

    Raises:
        NotACallError: it is something else.
    """
    reader = _Braced(text, quote)
    value = reader.value(0)
    if not isinstance(value, dict) or reader.left():
        raise NotACallError
    return value


class _Braced:
    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote, self._at = text, quote, 0

    def left(self) -> bool:
        return self._at < len(self._text.rstrip())

    def value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise NotACallError
        if self._takes("{"):
            return self._members(depth)
        if self._takes("["):
            items = []
            while not self._takes("]"):
                items.append(self.value(depth + 1))
                self._takes(",")
            return items
        return self._string() if self._text.startswith(self._quote, self._at) else typed(self._bare(), None)

    def _members(self, depth: int) -> dict[str, Any]:
        members = {}
        while not self._takes("}"):
            key = self._string() if self._text.startswith(self._quote, self._at) else self._bare().strip()
            if not self._takes(":"):
                raise NotACallError
            members[key] = self.value(depth + 1)
            self._takes(",")
        return members

    def _takes(self, char: str) -> bool:
        while self._at < len(self._text) and self._text[self._at] in " \n\t":
            self._at += 1
        found = self._text.startswith(char, self._at)
        self._at += found
        return found

    def _string(self) -> str:
        begin = self._at + len(self._quote)
        end = self._text.find(self._quote, begin)
        if end < 0:
            raise NotACallError
        self._at = end + len(self._quote)
        return self._text[begin:end]

    def _bare(self) -> str:
        found = BARE.match(self._text, self._at)
        if found is None:
            raise NotACallError
        self._at = found.end()
        return found[0]
