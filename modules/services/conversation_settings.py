"""How a conversation is answered: system prompt, preset and changes to it, prompt template, adapters. Checked here, stored as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from modules.core.dialogue import COMMAND, COMMAND_LIMIT
from modules.core.errors import InvalidRequest
from modules.core.model import AdapterChoices
from modules.core.settings import validation_sentence
from modules.services.presets import DEFAULT_PRESET, params_from

VARIABLES_LIMIT_BYTES = 64 * 1024
SUMMARY_LIMIT = 20_000
Overflow = Literal["drop_oldest", "summarise_oldest", "refuse"]  # what becomes of the oldest messages of a conversation that is longer than the context
Mode = Literal["instruct", "chat-instruct"]  # turns in the chat template, or all of them in one instruction


class ConversationSettings(BaseModel, frozen=True, extra="forbid"):
    """Settings of one conversation."""

    system_prompt: str = Field("", max_length=200_000)
    preset: str = Field(DEFAULT_PRESET, max_length=100)  # empty: neutral
    params: dict[str, Any] = Field(default_factory=dict)  # replaces values of the preset
    template: str = Field("", max_length=100)  # empty: the model's own chat template
    template_variables: dict[str, Any] = Field(default_factory=dict)
    adapters: AdapterChoices | None = None  # None: those in use on the model
    overflow: Overflow = "drop_oldest"
    summary: str = Field("", max_length=SUMMARY_LIMIT)  # stands in prompts for the messages up to the one named next
    summary_until: str = Field("", max_length=64)
    character: str = Field("", max_length=100)  # empty: none
    profile: str = Field("", max_length=100)  # who the person is in it; empty: nobody in particular
    mode: Mode = "instruct"
    command: str = Field(COMMAND, max_length=COMMAND_LIMIT)  # of the mode chat-instruct

    @field_validator("template_variables")
    @classmethod
    def _small_and_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            size_bytes = len(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"only what JSON can hold: {error}") from error
        if size_bytes > VARIABLES_LIMIT_BYTES:
            raise ValueError(f"at most {VARIABLES_LIMIT_BYTES:,} bytes as JSON, not {size_bytes:,}")
        return value


Values = Mapping[str, Any]


class EntryEdits(BaseModel, frozen=True, extra="forbid"):
    """What somebody changed among the entries of one setting; the others stay, whoever wrote them."""

    put: dict[str, Any] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()


Within = Mapping[Literal["params", "template_variables"], EntryEdits] | None


def edited(before: Values, values: Values, within: Within = None) -> dict[str, Any]:
    """Settings with the named ones replaced, and single entries of others changed."""
    after = {**before, **values}
    for name, edits in (within or {}).items():
        found = after.get(name) or {}
        if isinstance(found, Mapping):  # else it is refused with a sentence, like all that is no setting
            after[name] = {**{key: value for key, value in found.items() if key not in edits.drop}, **edits.put}
    return after


def edited_and_checked(before: Values, values: Values, within: Within = None) -> dict[str, Any]:
    """The same, with parameters of their types; refused where they are no longer right together, though they were.

    Raises:
        InvalidRequest: an unknown name, a value outside its limits, or values that exclude each other.
    """
    typed = {name: edits.model_copy(update={"put": _plain(edits.put)}) for name, edits in (within or {}).items()}
    after = edited(before, values, typed)
    if typed and _are_right(before):  # what was wrong before stays so, until somebody mends it
        _plain(after.get("params") or {})
    return after


def _plain(params: Values) -> dict[str, Any]:
    return params_from(params).model_dump(mode="json", include=set(params))


def _are_right(settings: Values) -> bool:
    try:
        params_from(settings.get("params") or {})
    except InvalidRequest:
        return False
    return True


def settings_from(values: Mapping[str, Any]) -> ConversationSettings:
    """Checked settings; `params` is checked against the bounds of the parameters and keeps only what was given.

    Raises:
        InvalidRequest: an unknown name or a value outside its limits.
    """
    try:
        settings = ConversationSettings.model_validate(dict(values))
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise InvalidRequest(validation_sentence(error), field=str(where[0]) if where else "settings") from error
    return settings.model_copy(update={"params": _plain(settings.params)})


def stored_settings(values: Mapping[str, Any]) -> ConversationSettings:
    """Settings as they were stored, perhaps by another version: what is no longer valid is left out."""
    try:
        return ConversationSettings.model_validate(dict(values))
    except ValidationError as error:
        bad = {str(problem["loc"][0]) for problem in error.errors()}
        return ConversationSettings.model_validate({key: value for key, value in values.items() if key not in bad})
