"""Character cards of the formats people pass on: JSON and PNG, TavernAI V1, V2 and V3, and what other programs write.

A card is kept as it came, with all that is not known here; reading and editing touch only the fields named in `CardText`. Knows no folder.
Sources: the public specifications of character card V2 (malfoyslastname) and V3 (kwaroran).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from modules.core.errors import InvalidRequest
from modules.core.files import read_yaml
from modules.core.settings import validation_sentence
from modules.prompts.png_text import is_png, read_texts, with_texts

CARD_LIMIT_BYTES = 8 << 20
DEPTH_LIMIT = 64
VALUE_LIMIT = 200_000
TEXT_LIMIT = 400_000  # characters of one field
GREETING_LIMIT = 200
KEYWORDS = ("ccv3", "chara")  # of the texts in a PNG; the newer one counts
V2_SPEC, V3_SPEC = "chara_card_v2", "chara_card_v3"
V1_FIELDS = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
V2_FIELDS = ("character_book", "extensions", "group_only_greetings", "nickname", "assets", "source", "creation_date", "modification_date")
# What other programs call the same things.
OTHER_NAMES = (
    ("char_name", "name"), ("char_persona", "description"), ("char_greeting", "first_mes"), ("world_scenario", "scenario"),
    ("example_dialogue", "mes_example"), ("context", "description"), ("greeting", "first_mes"), ("bot", "name"),
)  # fmt: skip
CardForm = Literal["v1", "v2", "v3"]
Card = dict[str, Any]


class CardText(BaseModel, extra="ignore"):
    """What is read and edited of a card. `description` of a field is its sentence in the editor, `title` its name there."""

    name: str = Field("", max_length=200, title="Name", description="What the character is called, also in {{char}}.")
    description: str = Field("", max_length=TEXT_LIMIT, title="Persona", description="Who the character is; part of every prompt.")
    personality: str = Field("", max_length=TEXT_LIMIT, title="Personality", description="The character in few words; part of every prompt.")
    scenario: str = Field("", max_length=TEXT_LIMIT, title="Scenario", description="Where and how the conversation takes place.")
    first_mes: str = Field("", max_length=TEXT_LIMIT, title="Greeting", description="The first message of a new conversation.")
    alternate_greetings: list[str] = Field(
        default_factory=list, max_length=GREETING_LIMIT, title="Other greetings", description="Further first messages to choose from, as versions of the first."
    )
    mes_example: str = Field(
        "", max_length=TEXT_LIMIT, title="Example dialogue", description="Shows how the character speaks; <START> begins a new piece."
    )
    system_prompt: str = Field(
        "", max_length=TEXT_LIMIT, title="System prompt", description="Takes the place of the conversation's own; {{original}} stands for that."
    )
    post_history_instructions: str = Field(
        "", max_length=TEXT_LIMIT, title="Last instructions", description="Put behind the last message, where models heed them most."
    )
    creator_notes: str = Field("", max_length=TEXT_LIMIT, title="Notes", description="For people; never part of a prompt.")
    tags: list[str] = Field(default_factory=list, max_length=500, title="Tags", description="Words to find the character by; never part of a prompt.")
    creator: str = Field("", max_length=1000, title="Creator", description="Who made the character.")
    character_version: str = Field("", max_length=1000, title="Version", description="Which version of the character this is.")

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """What is absent is empty; half characters, which no file and no page can hold, become marks."""
        if value is None:
            return ""
        if isinstance(value, list):
            return [clean(str(item)) for item in value if item is not None]
        return clean(str(value)) if isinstance(value, str | int | float) else value

    @field_validator("alternate_greetings", "tags", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return [value] if value and value.strip() else []
        return value

    @property
    def greetings(self) -> tuple[str, ...]:
        """Every first message to choose from."""
        return tuple(text for text in (self.first_mes, *self.alternate_greetings) if text.strip())


def clean(text: str) -> str:
    """A text without half characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def card_text(card: Card) -> CardText:
    """What a card says.

    Raises:
        InvalidRequest: a field outside its limits.
    """
    try:
        return CardText.model_validate({key: value for key, value in card["data"].items() if key in CardText.model_fields})
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise InvalidRequest(f"The character card: {validation_sentence(error)}", field=str(where[0]) if where else "file") from error


def new_card(text: CardText) -> Card:
    """A card of V2, which every program reads."""
    return edited({"spec": V2_SPEC, "spec_version": "2.0", "data": {}}, text)


def edited(card: Card, text: CardText) -> Card:
    """The card with these texts; everything else, and what did not change, is as it was."""
    before = card_text(card)
    old, new = before.model_dump(), text.model_dump()
    changed = {key: value for key, value in new.items() if value != old[key] or key not in card["data"]}
    top = {key: changed[key] for key in V1_FIELDS if key in card and key in changed}  # some programs keep the first six twice
    return {**card, **top, "data": {**card["data"], **changed}}


def in_form(card: Card, form: CardForm) -> Card:
    """The card as V1, V2 or V3. V1 knows six fields and has all others beside them, where readers of V1 pass over them."""
    data = card["data"]
    rest = {key: value for key, value in card.items() if key not in ("spec", "spec_version", "data")}
    if form == "v1":
        return {**dict.fromkeys(V1_FIELDS, ""), **rest, **data}
    spec, version = (V2_SPEC, "2.0") if form == "v2" else (V3_SPEC, "3.0")
    if card["spec"] == spec:
        version = card["spec_version"]
    elif form == "v3":
        data = {**data, "group_only_greetings": data.get("group_only_greetings", [])}  # which V3 demands
    return {"spec": spec, "spec_version": version, "data": data, **rest}


# ---- files ---------------------------------------------------------------------------------------------------------


def read_card(file: bytes) -> tuple[Card, bytes | None]:
    """The card of a file, and the picture it came in, if it came in one.

    Raises:
        InvalidRequest: no card, damaged, or larger than the limits; the sentence says which.
    """
    if not is_png(file):
        return _card_of(_values(file)), None
    texts = read_texts(file, KEYWORDS)
    found = next((texts[keyword] for keyword in KEYWORDS if keyword in texts), None)
    if found is None:
        raise InvalidRequest("This picture holds no character card. Choose a PNG that was exported as one, or a JSON file.", field="file")
    try:
        decoded = base64.b64decode(b"".join(found.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("The character card in this picture is damaged: it is not in base64.", field="file") from error
    return _card_of(_json(decoded)), with_texts(file, {}, without=KEYWORDS)


def json_file(card: Card, form: CardForm) -> bytes:
    """The card as a JSON file."""
    return (json.dumps(in_form(card, form), indent=2, ensure_ascii=True) + "\n").encode()


def png_file(card: Card, picture: bytes) -> bytes:
    """The card inside a picture, as V2 and as V3, so that every program finds it."""
    texts = {keyword: base64.b64encode(json.dumps(in_form(card, form)).encode()) for keyword, form in _PNG_FORMS}
    return with_texts(picture, texts, without=KEYWORDS)


_PNG_FORMS: tuple[tuple[str, CardForm], ...] = (("chara", "v2"), ("ccv3", "v3"))


def _values(file: bytes) -> Any:
    """JSON, or else YAML, as a text file holds it."""
    if len(file) > CARD_LIMIT_BYTES:
        raise InvalidRequest(
            f"The character card has {len(file) / (1 << 20):.1f} MiB; the limit is {CARD_LIMIT_BYTES >> 20} MiB without its picture.", field="file"
        )
    text = file.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"{", b"[")):
        return _json(text)
    try:
        return read_yaml(text.decode(), "The character file")
    except UnicodeDecodeError as error:
        raise InvalidRequest("This file is no character: it is neither a PNG picture nor JSON or YAML in UTF-8.", field="file") from error


def _json(data: bytes) -> Any:
    if len(data) > CARD_LIMIT_BYTES:
        raise InvalidRequest(f"The character card has {len(data) / (1 << 20):.1f} MiB; the limit is {CARD_LIMIT_BYTES >> 20} MiB.", field="file")
    try:
        value = json.loads(data.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The character card is not valid JSON: {str(error)[:120]}.", field="file") from error
    _check_size(value)
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _check_size(value: Any) -> None:
    """Refuse what is nested too deep or has too many parts, without recursion."""
    level, seen = [value], 0
    for _ in range(DEPTH_LIMIT):
        level = [inner for item in level if isinstance(item, dict | list) for inner in (item.values() if isinstance(item, dict) else item)]
        seen += len(level)
        if seen > VALUE_LIMIT:
            raise InvalidRequest(f"The character card has more than {VALUE_LIMIT:,} values, the limit.", field="file")
        if not level:
            return
    raise InvalidRequest(f"The character card is nested deeper than {DEPTH_LIMIT} levels, the limit.", field="file")


def _card_of(values: Any) -> Card:
    """Any known form as a card with its fields under `data`."""
    if not isinstance(values, dict):
        raise InvalidRequest("This file is no character: it holds no names and values.", field="file")
    data = values.get("data")
    if values.get("spec") in (V2_SPEC, V3_SPEC) or (isinstance(data, dict) and "name" in data):
        if not isinstance(data, dict):
            raise InvalidRequest("The character card has no “data”; it is damaged.", field="file")
        spec = values.get("spec") if values.get("spec") in (V2_SPEC, V3_SPEC) else V2_SPEC
        card = {**values, "spec": spec, "spec_version": str(values.get("spec_version") or ("3.0" if spec == V3_SPEC else "2.0"))}
    else:
        card = _from_flat(values)
    if not card_text(card).name.strip():
        raise InvalidRequest("This file is no character: it has no name.", field="file")
    return card


def _from_flat(values: Mapping[str, Any]) -> Card:
    """V1, or what Pygmalion and text files call otherwise; what is not known stays beside `data`."""
    known: dict[str, Any] = {key: values[key] for key in V1_FIELDS if key in values}
    used = set(known)
    for other, name in OTHER_NAMES:
        if other in values and not known.get(name):
            known[name] = values[other]
            used.add(other)
    more = {key: values[key] for key in (*CardText.model_fields, *V2_FIELDS) if key in values and key not in known and key not in V1_FIELDS}
    rest = {key: value for key, value in values.items() if key not in used and key not in more and key not in ("spec", "spec_version", "data")}
    return {"spec": V2_SPEC, "spec_version": "2.0", "data": {**known, **more}, **rest}
