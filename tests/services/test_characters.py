"""What a character and a profile add to a prompt, and the service over both folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.core.messages import Message
from modules.core.params import GenerationParams
from modules.prompts.character_card import CardText, read_card
from modules.prompts.lorebook import read_lorebook
from modules.prompts.png_text import checked_png
from modules.services.character_prompt import Names, in_role, spoken
from modules.services.characters import Casting, CharacterService
from modules.services.conversation_settings import ConversationSettings

ADA = CardText(
    name="Ada", description="{{char}} is an engineer whom <USER> knows.", personality="exact", scenario="A workshop.",
    mes_example="<START>\n{{user}}: Hi\n{{char}}: Good day.\n<START>\n{{user}}: Bye", post_history_instructions="Stay short, {{char}}.",
)  # fmt: skip
ME = CardText(name="Bo", description="{{user}} cooks.")
TALK = (Message(role="system", content="Be kind."), Message(role="user", content="Good day"), Message(role="assistant", content="Hm"), Message(role="user", content="The loom?"))


def test_names_are_put_into_every_form_of_placeholder() -> None:
    assert Names("Ada", "Bo").put_into("{{char}} {{CHAR}} <BOT> {{user}} <user> {{random}}") == "Ada Ada Ada Bo Bo {{random}}"


def test_a_character_makes_the_system_message_and_the_last_words() -> None:
    messages = in_role(TALK, ADA, ME, None)
    assert messages[0].role == "system"
    assert messages[0].content == (
        "Be kind.\n\nAda is an engineer whom Bo knows.\n\nPersonality of Ada: exact\n\nScenario: A workshop.\n\n"
        "Examples of how Ada speaks:\nBo: Hi\nAda: Good day.\n---\nBo: Bye\n\nAbout Bo:\nBo cooks."
    )
    assert [message.content for message in messages[1:]] == ["Good day", "Hm", "The loom?\n\nStay short, Ada."]
    assert messages[1] is TALK[1]  # what is left out later is told by the messages themselves


def test_its_system_prompt_takes_the_place_of_the_conversation_s() -> None:
    own = CardText(name="Ada", system_prompt="You are {{char}}.")
    assert in_role(TALK, own, None, None)[0].content == "You are Ada."
    around = CardText(name="Ada", system_prompt="First. {{original}} Last.")
    assert in_role(TALK, around, None, None)[0].content == "First. Be kind. Last."
    assert in_role(TALK[1:], CardText(name="Ada"), None, None)[0].content == "You are Ada. Write the next reply of Ada in this conversation with User."


def test_a_greeting_answers_a_turn_that_every_template_takes() -> None:
    greeted = in_role(TALK[2:], CardText(name="Ada", post_history_instructions="Short."), None, None)
    assert [(message.role, message.content) for message in greeted[1:]] == [
        ("user", "[The conversation begins.]"), ("assistant", "Hm"), ("user", "The loom?\n\nShort."),
    ]  # fmt: skip
    assert in_role(TALK[2:], None, ME, None)[1:] == TALK[2:]


def test_a_profile_alone_is_told_behind_the_system_prompt() -> None:
    assert in_role(TALK, None, ME, None)[0].content == "Be kind.\n\nAbout Bo:\nBo cooks."
    assert in_role(TALK[1:], None, CardText(name="Bo"), None) == TALK[1:]


def test_lore_stands_before_and_behind_the_persona() -> None:
    book = read_lorebook({"entries": [
        {"keys": ["loom"], "content": "The loom of {{char}} weaves.", "position": "after_char"}, {"keys": ["good day"], "content": "Days are long.", "position": "before_char"},
        {"keys": ["kind"], "content": "The system message is not searched."},
    ]})  # fmt: skip
    content = in_role(TALK, CardText(name="Ada", description="Persona."), None, book)[0].content
    assert content == "Be kind.\n\nDays are long.\n\nPersona.\n\nThe loom of Ada weaves."


def test_what_a_narrator_tells_is_marked() -> None:
    assert spoken("Narrator", "It rains.") == "Narrator: It rains."
    assert spoken("Ada", "It rains.") == "It rains."


@pytest.fixture
def casting(tmp_path: Path) -> Casting:
    return Casting(CharacterService(tmp_path / "characters"), CharacterService(tmp_path / "profiles", "profile"))


async def test_a_card_is_saved_changed_and_given_out(casting: Casting) -> None:
    name = await casting.characters.save({"name": "Ada", "scenario": "A workshop."})
    assert await casting.characters.save({"description": "An engineer."}, name) == "Ada"
    text, lore = await casting.characters.read("Ada")
    assert (text.scenario, text.description, lore) == ("A workshop.", "An engineer.", 0)
    picture = await casting.characters.file("Ada", "png")
    assert checked_png(picture) == (400, 600)
    assert read_card(picture)[0]["data"]["description"] == "An engineer."
    assert json.loads(await casting.characters.file("Ada", "v1"))["scenario"] == "A workshop."
    for values, words in (({"nmae": "x"}, "spelling"), ({"name": ""}, "needs a name"), ({"name": "x" * 300}, "200 characters")):
        with pytest.raises(InvalidRequest, match=words):
            await casting.characters.save(values)


async def test_a_profile_has_a_name_and_a_description_to_edit(casting: Casting) -> None:
    assert [field["name"] for field in casting.profiles.fields()] == ["name", "description"]
    assert [field["form"] for field in casting.characters.fields() if field["name"] in ("name", "scenario", "tags")] == ["line", "text", "list"]
    assert all(field["description"].endswith(".") for field in casting.characters.fields())


async def test_a_conversation_without_a_character_is_left_as_it_is(casting: Casting) -> None:
    params = GenerationParams(stop=("END",))
    assert await casting.play(ConversationSettings(), TALK, params) == (TALK, params)
    await casting.profiles.save({"name": "Bo", "description": "Cooks."})
    await casting.characters.save({"name": "Ada"})
    _, with_profile = await casting.play(ConversationSettings(profile="Bo"), TALK, params)
    assert with_profile.stop == ("END",)
    _, with_both = await casting.play(ConversationSettings(profile="Bo", character="Ada"), TALK, params)
    assert with_both.stop == ("END", "\nBo:", "\nAda:")
    assert await casting.variables(ConversationSettings(profile="Bo")) == {}
    named = await casting.variables(ConversationSettings(profile="Bo", character="Ada"))
    assert named == {"char": "Ada", "user": "Bo", "name1": "Bo", "name2": "Ada", "user_bio": "Cooks."}
    full = GenerationParams(stop=tuple(f"stop {number}" for number in range(64)))
    assert (await casting.play(ConversationSettings(character="Ada"), TALK, full))[1].stop == full.stop
    with pytest.raises(NotFound, match="Nobody"):
        await casting.play(ConversationSettings(character="Nobody"), TALK, params)
