"""Turns over a real engine and a real store: who speaks, what is written by hand, begun, written for the person, taken back."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.messages import FILE_LIMIT, Image
from modules.services.app import App
from modules.services.turns import Attached
from tests.services.reply_steps import ANN, ENDLESS, SHORT, ended, growing, shown, talk

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


async def says(app: App, conversation_id: str) -> list[tuple[str, str, str]]:
    return [(message.role, message.speaker, message.content) for message in await shown(app, conversation_id)]


async def written(app: App, conversation_id: str, text: str = "") -> str:
    return "".join([piece async for piece in app.turns.impersonate(ANN, conversation_id, text)])


async def test_a_character_begins_with_its_greetings_as_versions(app: App) -> None:
    first = await app.casting.characters.save({"name": "Ada", "first_mes": "Good day, {{user}}.", "alternate_greetings": ["It is {{char}}."]})
    second = await app.casting.characters.save({"name": "Silent"})
    profile = await app.casting.profiles.save({"name": "Bo"})
    conversation_id = await talk(app)
    await app.turns.cast(ANN, conversation_id, first, profile)
    messages = await shown(app, conversation_id)
    assert [(message.content, message.speaker, message.version_count) for message in messages] == [("Good day, Bo.", "Ada", 2)]
    await app.conversations.select_version(ANN, messages[0].version_ids[1])
    assert await says(app, conversation_id) == [("assistant", "Ada", "It is Ada.")]
    await app.turns.cast(ANN, conversation_id, first, "")  # the same one: the chosen greeting stays
    assert await says(app, conversation_id) == [("assistant", "Ada", "It is Ada.")]
    await app.turns.cast(ANN, conversation_id, second, "")
    assert await says(app, conversation_id) == []
    await app.turns.cast(ANN, conversation_id, first, "")
    await app.turns.insert(ANN, conversation_id, "user", "Hello")
    await app.turns.cast(ANN, conversation_id, second, "")  # something was said: nothing is taken away
    assert len(await shown(app, conversation_id)) == 2
    assert (await app.conversations.read(ANN, conversation_id)).settings.character == second
    with pytest.raises(NotFound):
        await app.turns.cast(ANN, conversation_id, "Nobody", "")


async def test_who_spoke_keeps_the_name_when_somebody_else_goes_on(app: App) -> None:
    first, second = [await app.casting.characters.save({"name": name}) for name in ("One", "Two")]
    me = await app.casting.profiles.save({"name": "Me"})
    conversation_id = await talk(app)
    for role in ("user", "assistant"):
        await app.turns.insert(ANN, conversation_id, role, "Hello")
    await app.turns.cast(ANN, conversation_id, first, "")
    assert [speaker for _, speaker, _ in await says(app, conversation_id)] == ["", "Assistant"]
    await app.turns.insert(ANN, conversation_id, "user", "Who are you?")
    await app.turns.insert(ANN, conversation_id, "assistant", "One.")
    await app.casting.characters.delete(first)
    await app.turns.cast(ANN, conversation_id, second, me)
    assert [speaker for _, speaker, _ in await says(app, conversation_id)] == ["User", "Assistant", "User", "One"]


async def test_turns_by_hand_are_stored_and_not_answered(app: App) -> None:
    conversation_id = await talk(app)
    await app.turns.insert(ANN, conversation_id, "user", "What is a paddock?")
    await app.turns.insert(ANN, conversation_id, "assistant", "A field.")
    await app.turns.insert(ANN, conversation_id, "narrator", "It rains.")
    assert await says(app, conversation_id) == [("user", "", "What is a paddock?"), ("assistant", "", "A field."), ("user", "Narrator", "It rains.")]
    assert (await app.conversations.read(ANN, conversation_id)).title == "What is a paddock?"
    prompt = await app.conversations.messages_for_prompt(ANN, (await shown(app, conversation_id))[-1].id)
    assert [(message.role, message.content) for message in prompt] == [
        ("user", "What is a paddock?"), ("assistant", "A field."), ("user", "Narrator: It rains."),
    ]  # fmt: skip
    await app.turns.insert(ANN, conversation_id, "user", "", Attached([Image(kind="png", data="iVBORw0KGgo=")]))
    assert [image.kind for image in (await shown(app, conversation_id))[-1].images] == ["png"]
    for role, text in (("system", "x"), ("user", "  ")):
        with pytest.raises(InvalidRequest):
            await app.turns.insert(ANN, conversation_id, role, text)
    with pytest.raises(NotFound):
        await app.turns.insert("bob", conversation_id, "user", "x")


async def test_a_reply_begins_with_the_given_words(app: App) -> None:
    conversation_id = await talk(app)
    await app.turns.begin(ANN, conversation_id, "What is Paddock?", "Once upon a time")
    last = await ended(app, conversation_id)
    assert last.content.startswith("Once upon a time")
    assert len(last.content) > len("Once upon a time")
    await app.turns.begin(ANN, conversation_id, "", "Well,")
    again = await ended(app, conversation_id)
    assert again.content.startswith("Well,")
    assert (again.parent_id, again.version_count) == (last.parent_id, 2)
    empty = await talk(app)
    with pytest.raises(InvalidRequest, match="write a message first"):
        await app.turns.begin(ANN, empty, "", "Well,")
    with pytest.raises(InvalidRequest, match="begin with"):
        await app.turns.begin(ANN, empty, "Hi", " ")


async def test_the_person_s_turn_is_written_and_not_stored(app: App) -> None:
    conversation_id = await talk(app, {**SHORT, "system_prompt": "Be brief."})
    with pytest.raises(InvalidRequest, match="nothing to go on from"):
        await written(app, conversation_id)
    await app.turns.insert(ANN, conversation_id, "user", "Hello!")
    await app.turns.insert(ANN, conversation_id, "assistant", "Hello. What can I do for you?")
    before = await says(app, conversation_id)
    alone = await written(app, conversation_id)
    begun = await written(app, conversation_id, "How do I load")
    assert alone.strip()
    assert begun.strip()
    assert alone != begun
    assert await says(app, conversation_id) == before


async def test_the_last_turn_is_taken_back_with_what_followed(app: App) -> None:
    conversation_id = await talk(app)
    with pytest.raises(InvalidRequest, match="not said anything"):
        await app.turns.take_back(ANN, conversation_id)
    for role, text in (("user", "One"), ("assistant", "1"), ("user", "Two"), ("assistant", "2"), ("assistant", "2b")):
        await app.turns.insert(ANN, conversation_id, role, text)
    taken = await app.turns.take_back(ANN, conversation_id)
    assert (taken.text, taken.images, taken.files) == ("Two", (), ())
    assert [content for _, _, content in await says(app, conversation_id)] == ["One", "1"]
    await app.conversation_bin.restore(ANN, taken.bin_id)
    assert [content for _, _, content in await says(app, conversation_id)] == ["One", "1", "Two", "2", "2b"]


async def test_what_was_attached_to_a_turn_comes_back_with_it(app: App) -> None:
    conversation_id = await talk(app)
    picture = Image(kind="png", data="iVBORw0KGgo=")
    file = await app.attachments.add_text(ANN, conversation_id, "A long text")
    await app.turns.insert(ANN, conversation_id, "user", "Look", Attached([picture], [file.id]))
    taken = await app.turns.take_back(ANN, conversation_id)
    assert [image.address for image in taken.images] == [picture.address]
    waiting = await app.attachments.waiting(ANN, conversation_id)
    assert waiting == taken.files
    assert [(await app.attachments.text(ANN, one.id))[1] for one in waiting] == ["A long text"]
    await app.turns.insert(ANN, conversation_id, "user", "Look again", Attached(taken.images, [one.id for one in taken.files]))
    for _ in range(FILE_LIMIT):
        await app.attachments.add_text(ANN, conversation_id, "One more")
    with pytest.raises(InvalidRequest, match=f"your last one has 1, and {FILE_LIMIT} are attached"):
        await app.turns.take_back(ANN, conversation_id)
    assert [content for _, _, content in await says(app, conversation_id)] == ["Look again"]


async def test_nothing_is_done_while_a_reply_is_written(app: App) -> None:
    conversation_id = await talk(app, ENDLESS)
    await app.replies.send(ANN, conversation_id, "Tell me a story.")
    await growing(app, conversation_id)
    tries: tuple[Any, ...] = (
        app.turns.insert(ANN, conversation_id, "user", "x"), app.turns.begin(ANN, conversation_id, "x", "y"), app.turns.take_back(ANN, conversation_id),
        app.turns.cast(ANN, conversation_id, "", ""), written(app, conversation_id),
    )  # fmt: skip
    for attempt in tries:
        with pytest.raises(Conflict):
            await attempt
    await app.replies.stop(conversation_id)
    await ended(app, conversation_id)


async def test_a_character_reaches_the_prompt_of_a_reply(app: App) -> None:
    name = await app.casting.characters.save({"name": "Edgar", "description": "{{char}} only speaks of horses."})
    conversation_id = await talk(app, {**SHORT, "character": name})
    await app.turns.insert(ANN, conversation_id, "user", "Hello")
    made = await app.turns._requests.make(ANN, conversation_id, (await shown(app, conversation_id))[-1].id, continues=False)
    assert "Edgar only speaks of horses." in made.request.prompt.messages[0].content  # type: ignore[union-attr]
    assert made.request.params.stop == ("\nUser:", "\nEdgar:")
    await app.casting.characters.delete(name)
    await app.replies.regenerate(ANN, conversation_id, (await shown(app, conversation_id))[-1].id)
    last = await ended(app, conversation_id)
    assert last.status == "failed"
    assert "There is no character “Edgar”" in last.error
