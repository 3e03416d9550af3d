"""Calls of tools that have to come, in the notation that llguidance reads. Knows frames and schemas; knows no format of a family of models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from modules.engine.lark import HEADER
from modules.engine.shapes import json_rule

if TYPE_CHECKING:
    from modules.core.text_shape import CallText, FramedJson, TaggedField, TaggedItem


def write_calls(calls: CallText, special: Mapping[str, int]) -> str:
    """Calls of tools in Lark's notation; marks that are special tokens of the model stand there as such.

    Raises:
        InvalidRequest: a schema is not right.
    """
    frame = calls.frame
    assert frame is not None

    def items(mark: str) -> str:
        written = ((_literal(before.removeprefix(mark), special), json_rule(schema, "tools"), _literal(behind, special)) for before, schema, behind in frame.items)
        tagged = (_tagged(item, mark, special) for item in frame.tagged)
        return " | ".join((*map(" ".join, written), *tagged))

    more = f" ({_literal(frame.between, special)} item){{0,{frame.most - 1}}}" if frame.most > 1 else ""
    text = f"{_literal(frame.begin.removeprefix(frame.after), special)} first{more} {_literal(frame.end, special)}"
    rules = f"item: {items('')}\nfirst: {items('' if frame.begin else frame.after)}\n"
    ends = {one.behind for item in frame.tagged for one in item.fields if not one.schema and not one.choices}
    rules += "".join(f"value[lazy]: /(?s:.*){_written(end)}/\n" for end in ends)  # one format, one end
    thought = write_thought(*frame.thinking, special) if frame.thinking else ""
    if frame.after:
        return f"{HEADER}{_where_marked(frame, text, special)}{rules}{thought}"
    other = f" | {json_rule(frame.otherwise, 'json_schema')}" if frame.otherwise else ""
    return f"{HEADER}start: {'thought? ' if thought else ''}({text}{other})\n{rules}{thought}"


def _where_marked(frame: FramedJson, text: str, special: Mapping[str, int]) -> str:
    """Free text, or calls behind the first mark, where it is no part of thinking; what is free ends with it, so a text that has one is not free to its end."""
    mark = _written(frame.after)

    def either(free: str, marked: str, spared: str) -> tuple[str, str]:
        """Both as one rule, and what it takes; `spared` is what they do not begin with."""
        begins = f" & ~/(?s:{spared}.*)/" if spared else ""
        terminals = f"{free}: /(?s:.+)/ & ~/(?s:.*{mark}.*)/{begins}\n{marked}[lazy]: /(?s:.*{mark})/{begins}\n"
        return f"{free}? | {f'{free}? <[{special[frame.after]}]>' if frame.after in special else marked} {text}", terminals

    anything, terminals = either("FREE", "marked", "")
    if not frame.thinking:
        return f"start: {anything}\n{terminals}"
    opening = frame.thinking[0]
    first, more = either("FIRST", "first_marked", "" if opening in special else _written(opening))
    return f"start: {first} | thought ({anything})\n{terminals}{more}"


def _written(mark: str) -> str:
    """A mark as a part of a regular expression."""
    return re.escape(mark).replace("/", r"\/")


def write_thought(opening: str, closing: str, special: Mapping[str, int]) -> str:
    """The rule `thought` and what it needs: a block of thinking that the model opens by itself."""
    begin, newlines = _literal(opening, special), "NEWLINES: /\\n{1,2}/\n"
    if closing in special:
        return f"thought: {begin} THOUGHT? <[{special[closing]}]> NEWLINES?\nTHOUGHT: /(?s:.+)/\n{newlines}"
    return f"thought: {begin} thinking NEWLINES?\nthinking[lazy]: /(?s:.*){_written(closing)}/\n{newlines}"


def _tagged(item: TaggedItem, mark: str, special: Mapping[str, int]) -> str:
    return " ".join((_literal(item.before.removeprefix(mark), special), *(_field(one, special) for one in item.fields), _literal(item.behind, special)))


def _field(one: TaggedField, special: Mapping[str, int]) -> str:
    """One value in its tags."""
    before, behind = _literal(one.before, special), _literal(one.behind, special)
    if one.schema:
        rule = f"{before} {json_rule(one.schema, 'tools')} {behind}"
    elif one.choices:
        rule = f"{before} ({' | '.join(_literal(choice, special) for choice in one.choices)}) {behind}"
    else:
        rule = f"{before} value"
    return rule if one.required else f"({rule})?"


def _literal(text: str, special: Mapping[str, int]) -> str:
    """A text that has to come as it stands; nothing for an empty one."""
    parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
    return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part, ensure_ascii=False) for part in parts if part)
