"""Fields that clients of TextGen send to the routes of OpenAI, by our names; what has no place here is refused where it would change the text.

Which sampling values mean the same is told once, for preset files. Source: TextGen's public description of its API.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modules.core.errors import InvalidRequest
from modules.services.foreign_presets import NEUTRAL, read_dynamic_temperature, read_order

RENAMED: Mapping[str, str] = MappingProxyType({
    "repetition_penalty_range": "penalty_range", "ban_eos_token": "ban_eos", "grammar_string": "grammar", "truncation_length": "context_tokens", "max_new_tokens": "max_tokens",
    "typical": "typical_p", "add_bos_token": "add_bos", "instruction_template": "prompt_template", "continue_": "continue_final_message",
})  # fmt: skip
SAID = ("dynamic_temperature", "temperature_last", "sampler_priority")  # where one of them is there, what it means is worked out
ROLE = ("context", "bot_name", "user_bio")  # would change the prompt where a character speaks; in the mode instruct they do nothing there either
LONGEST_LIST = 10_000
OWN_LIMITS = frozenset({"prompt", "messages", "input"})  # lists of those are looked at where they are read
TEMPLATES = ("chat_template_str", "instruction_template_str")


def textgen_names(values: dict[str, Any]) -> dict[str, Any]:
    """A body with our names for TextGen's; one that has none of them is as it was.

    Raises:
        InvalidRequest: a value that would change the text, and has no place here.
    """
    given = dict(values)
    for theirs, ours in RENAMED.items():
        if theirs in given:
            value = given.pop(theirs)
            given.setdefault(ours, value)
    if given.get("seed") == -1:  # any
        del given["seed"]
    if given.get("skip_special_tokens") is False:
        given.setdefault("show_special_tokens", True)
    if given.get("do_sample") is False:
        given["temperature"] = 0
    if isinstance(banned := given.get("custom_token_bans"), str):
        given.setdefault("banned_tokens", _ids(banned))
    if any(given.get(name) for name in SAID):
        worked_out: dict[str, Any] = {}
        read_dynamic_temperature(given, worked_out)
        read_order(given if "sampler_priority" in given else {"temperature_last": True, **given}, worked_out)  # the temperature is last here unless told otherwise
        given |= worked_out
    _refuse(given)
    return given


def _ids(written: str) -> list[Any]:
    """Token ids with commas between them; what is none the field itself refuses."""
    return [part.strip() for part in written.split(",", LONGEST_LIST) if part.strip()]


def _refuse(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, list) and len(value) > LONGEST_LIST and name not in OWN_LIMITS:
            raise InvalidRequest(f"{name}: a list has at most {LONGEST_LIST} values; got {len(value)}.", field=name)
    for name, neutral in NEUTRAL.items():
        if name in given and given[name] != neutral:
            raise InvalidRequest(f"{name}: there is no such sampler here; leave it out, or send {neutral}, which does nothing.", field=name)
    role = next((name for name in ROLE if given.get(name)), None)
    if role is not None and given.get("mode", "instruct") != "instruct":
        raise InvalidRequest(f"{role}: who speaks is said by character, or by a message of the role system; put it there.", field=role)
    text = next((name for name in TEMPLATES if given.get(name)), None)
    if text is not None:
        raise InvalidRequest(f"{text}: a template is chosen by its name; save it on the Templates page, and send that as prompt_template.", field=text)
