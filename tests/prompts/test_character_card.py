"""Character cards: every form read, nothing lost on the way through, what is no card refused in words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.prompts.character_card import (
    CARD_LIMIT_BYTES,
    CardText,
    card_text,
    edited,
    in_form,
    json_file,
    new_card,
    png_file,
    read_card,
)
from modules.prompts.png_text import plain_picture, read_texts, with_texts

PICTURE = plain_picture(2, 2, (1, 2, 3), (4, 5, 6))
V1 = {
    "name": "Ada", "description": "An engineer.", "personality": "exact", "scenario": "A workshop.", "first_mes": "Good day, {{user}}.",
    "mes_example": "<START>\n{{user}}: Hi\n{{char}}: Good day.",
}  # fmt: skip
V2_DATA: dict[str, Any] = {
    **V1, "creator_notes": "Made for a test.", "system_prompt": "Be {{char}}. {{original}}", "post_history_instructions": "Stay short.",
    "alternate_greetings": ["Again?", "Ah."], "tags": ["engineer", "1843"], "creator": "me", "character_version": "1.2",
    "character_book": {"name": "Lore", "entries": [{"keys": ["loom"], "content": "It weaves.", "enabled": True, "insertion_order": 1, "extensions": {"a": [1, None]}}], "extensions": {}},
    "extensions": {"depth_prompt": {"depth": 4, "prompt": "x"}, "fav": False, "weight": 0.5},
}  # fmt: skip
V2 = {"spec": "chara_card_v2", "spec_version": "2.0", "data": V2_DATA}
V3_DATA = {**V2_DATA, "nickname": "A.", "group_only_greetings": ["Hello all."], "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}], "creation_date": 1}
V3 = {"spec": "chara_card_v3", "spec_version": "3.0", "data": V3_DATA}

JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OTHER_FIELDS = st.dictionaries(st.text(min_size=1, max_size=10).filter(lambda key: key not in CardText.model_fields), JSON_VALUE, max_size=4)
TEXTS = st.fixed_dictionaries({"name": st.text(min_size=1, max_size=20).filter(str.strip)}, optional={key: st.text(max_size=40) for key in V1 if key != "name"})


def from_json(values: Any) -> dict[str, Any]:
    return read_card(json.dumps(values).encode())[0]


def in_picture(values: Any, keyword: str) -> bytes:
    return with_texts(PICTURE, {keyword: base64.b64encode(json.dumps(values).encode())})


@pytest.mark.parametrize(("values", "form"), [(V1, "v1"), (V2, "v2"), (V3, "v3")])
def test_a_card_goes_out_as_it_came(values: dict[str, Any], form: Any) -> None:
    assert json.loads(json_file(from_json(values), form)) == values


@pytest.mark.parametrize(("keyword", "values"), [("chara", V2), ("ccv3", V3), ("chara", V1)])
def test_a_picture_gives_its_card_and_goes_on_without_it(keyword: str, values: dict[str, Any]) -> None:
    card, picture = read_card(in_picture(values, keyword))
    assert card_text(card).name == "Ada"
    assert picture == PICTURE
    written = read_texts(png_file(card, picture), ("chara", "ccv3"))
    assert json.loads(base64.b64decode(written["chara"]))["spec"] == "chara_card_v2"
    third = json.loads(base64.b64decode(written["ccv3"]))
    assert third["spec"] == "chara_card_v3"
    assert third["data"].items() >= from_json(values)["data"].items()
    again, _ = read_card(png_file(card, picture))
    assert again["data"].items() >= card["data"].items()


def test_the_newer_card_of_a_picture_counts() -> None:
    file = with_texts(in_picture({**V2, "data": {**V2_DATA, "name": "Old"}}, "chara"), {"ccv3": base64.b64encode(json.dumps(V3).encode())})
    assert card_text(read_card(file)[0]).name == "Ada"


@settings(max_examples=25, deadline=None)
@given(TEXTS, OTHER_FIELDS, OTHER_FIELDS.map(lambda fields: {key: value for key, value in fields.items() if key not in ("data", "spec", "spec_version")}))
def test_no_field_is_lost_whatever_else_a_card_holds(texts: dict[str, str], other: dict[str, Any], beside: dict[str, Any]) -> None:
    for spec, version, form in (("chara_card_v2", "2.0", "v2"), ("chara_card_v3", "3.0", "v3")):
        values = {"spec": spec, "spec_version": version, "data": {**texts, **other}, **beside}
        card = from_json(values)
        assert json.loads(json_file(card, form)) == json.loads(json.dumps(values))
        changed = edited(card, card_text(card).model_copy(update={"scenario": "Elsewhere."}))
        assert changed["data"]["scenario"] == "Elsewhere."
        assert {key: changed["data"][key] for key in values["data"] if key != "scenario"} == {key: value for key, value in card["data"].items() if key != "scenario"}


def test_v2_and_v3_turn_into_each_other_and_back() -> None:
    assert in_form(in_form(from_json(V3), "v2"), "v3") == V3
    as_third = in_form(from_json(V2), "v3")
    assert as_third == {"spec": "chara_card_v3", "spec_version": "3.0", "data": {**V2_DATA, "group_only_greetings": []}}
    assert in_form(from_json(V2), "v1").items() >= V1.items()


def test_an_edit_reaches_the_copies_that_some_programs_keep_beside_the_data() -> None:
    card = edited(from_json({**V2, **V1, "fav": True}), CardText(**{**V2_DATA, "name": "Grace"}))
    assert (card["name"], card["data"]["name"], card["fav"], card["description"]) == ("Grace", "Grace", True, "An engineer.")


@pytest.mark.parametrize(
    ("values", "name", "description", "greeting"),
    [
        ({"char_name": "Bo", "char_persona": "A cook.", "char_greeting": "Hungry?", "world_scenario": "x", "example_dialogue": "y"}, "Bo", "A cook.", "Hungry?"),
        ({"name": "Bo", "context": "A cook.", "greeting": "Hungry?"}, "Bo", "A cook.", "Hungry?"),
    ],
)
def test_what_other_programs_call_otherwise_is_understood(values: dict[str, Any], name: str, description: str, greeting: str) -> None:
    text = card_text(from_json(values))
    assert (text.name, text.description, text.first_mes) == (name, description, greeting)


def test_a_text_file_is_a_card_too_with_its_lore() -> None:
    card, picture = read_card(b"name: Bo\ncontext: |-\n  {{char}} cooks.\ncharacter_book:\n  entries:\n    - {keys: [soup], content: Hot.}\nodd: 1\n")
    assert picture is None
    assert card_text(card).description == "{{char}} cooks."
    assert card["data"]["character_book"]["entries"][0]["content"] == "Hot."
    assert card["odd"] == 1


def test_half_characters_stay_in_the_file_and_never_reach_a_page() -> None:
    file = b'{"name": "A\\ud800b", "description": "", "personality": "", "scenario": "", "first_mes": "", "mes_example": ""}'
    card, _ = read_card(file)
    assert card_text(card).name == "A\ufffdb"
    assert read_card(json_file(card, "v1"))[0] == card


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"\xff\xfe\x00", "neither"),
        (b"{", "not valid JSON"),
        (b"[1, 2]", "no names and values"),
        (b"just words", "no names and values"),
        (b"{}", "no name"),
        (b'{"name": "  "}', "no name"),
        (b'{"name": "A", "description": NaN}', "NaN is no number"),
        (b'{"name": "A", "x": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"spec": "chara_card_v2", "data": []}', "no “data”"),
        (b'{"name": "A", "description": {"a": 1}}', "description"),
        (b'{"name": "A", "tags": [' + b'"x",' * 600 + b'"y"]}', "tags"),
        (b'{"name": "A", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 64"),
        (b'{"name": "A", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not valid JSON|nested deeper"),
        (b'{"name": "A", "x": [' + b"1," * 200_001 + b"1]}", "more than 200,000 values"),
        (b'{"name": "' + b"A" * CARD_LIMIT_BYTES + b'"}', "the limit is 8 MiB"),
        (PICTURE, "holds no character card"),
        (with_texts(PICTURE, {"chara": b"%%%"}), "not in base64"),
        (with_texts(PICTURE, {"chara": base64.b64encode(b"{]")}), "not valid JSON"),
    ],
)
def test_what_is_no_card_is_refused_in_words(file: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read_card(file)


def test_a_new_card_is_one_that_every_program_reads() -> None:
    card = new_card(CardText(name="Ada", first_mes="Hello.", alternate_greetings=["Oh."]))
    assert card["spec"] == "chara_card_v2"
    assert card_text(card).greetings == ("Hello.", "Oh.")
    assert read_card(json_file(card, "v2"))[0] == card
