"""The conversation service: titles, settings, versions, owners and news."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.services.conversation_news import WAITING_LIMIT
from modules.services.conversation_settings import EntryEdits
from modules.services.conversations import ConversationService, ConversationSettings
from modules.services.storage import Storage
from tests.services.conversation_steps import ANN, BOB, shown, talk


async def test_an_untouched_conversation_is_reused(service: ConversationService) -> None:
    first = await service.create(ANN)
    assert await service.create(ANN) == first
    await service.append(ANN, first, None, "user", "hello")
    second = await service.create(ANN)
    assert second != first
    await service.rename(ANN, second, "For later")
    assert await service.create(ANN) != second
    assert first < second, "ids sort by time"


async def test_the_list_is_pinned_first_then_newest(service: ConversationService) -> None:
    ids = [(await talk(service, f"number {number}"))[0] for number in range(3)]
    await service.pin(ANN, ids[0], True)
    await service.rename(ANN, ids[1], "renamed, but not newer")
    listed = await service.list(ANN)
    assert [line.id for line in listed] == [ids[0], ids[2], ids[1]]
    assert [line.pinned for line in listed] == [True, False, False]
    assert [line.messages for line in listed] == [1, 1, 1]
    assert [line.id for line in await service.list(ANN, "numb 2")] == [ids[2]]


async def test_the_first_user_message_gives_the_title_unless_one_was_given(service: ConversationService) -> None:
    conversation_id, ids = await talk(service, "What is rust?", "A fungus.")
    await service.append(ANN, conversation_id, ids[-1], "user", "No, the language")
    assert (await service.read(ANN, conversation_id)).title == "What is rust?"
    named = await service.create(ANN)
    await service.rename(ANN, named, "  My \n talk ")
    await service.append(ANN, named, None, "user", "Hello there")
    assert (await service.read(ANN, named)).title == "My talk"
    for bad in ("", " \n ", "x" * 201):
        with pytest.raises(InvalidRequest, match="1 to 200"):
            await service.rename(ANN, named, bad)


async def test_versions_and_what_follows_them(service: ConversationService) -> None:
    conversation_id, (question, reply, thanks) = await talk(service, "question", "reply", "thanks")
    other = await service.append(ANN, conversation_id, question, "assistant", "reply 2")  # regenerate
    assert (other.version_index, other.version_count, other.version_ids) == (2, 2, (reply, other.id))
    assert await shown(service, conversation_id) == ["question", "reply 2"]
    await service.select_version(ANN, reply)
    assert await shown(service, conversation_id) == ["question", "reply", "thanks"]
    edited = await service.add_version(ANN, question, "better question")
    assert edited.role == "user"
    assert await shown(service, conversation_id) == ["better question"]
    await service.delete_message(ANN, edited.id)
    assert (await shown(service, conversation_id))[0] == "question"
    await service.select_version(ANN, thanks)
    await service.delete_message(ANN, reply)
    assert await shown(service, conversation_id) == ["question", "reply 2"]
    with pytest.raises(NotFound):
        await service.message(ANN, thanks)
    await service.delete_message(ANN, question)
    assert await shown(service, conversation_id) == []


async def test_a_reply_is_saved_while_it_grows_and_at_its_end(service: ConversationService) -> None:
    conversation_id, (question,) = await talk(service, "question")
    reply = await service.append(ANN, conversation_id, question, "assistant", "", status="streaming")
    await service.save_reply(ANN, reply.id, content="half", status="streaming")
    assert (await service.message(ANN, reply.id)).status == "streaming"
    receipt = {"completion_tokens": 2, "seed": 2**63 + 1, "finish_reason": "stop"}
    await service.save_reply(ANN, reply.id, content="half more", status="complete", model="starter", receipt=receipt)
    found = (await service.read(ANN, conversation_id)).messages[-1]
    assert (found.content, found.status, found.model, found.error, found.receipt) == ("half more", "complete", "starter", "", receipt)
    await service.delete(ANN, conversation_id)
    with pytest.raises(NotFound):
        await service.save_reply(ANN, reply.id, content="too late", status="complete")


async def test_a_restart_stops_what_was_being_written(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = ConversationService(storage)
    conversation_id, (question,) = await talk(first, "question")
    reply = await first.append(ANN, conversation_id, question, "assistant", "half a", status="streaming")
    await storage.close()
    storage = Storage(tmp_path)
    found = await ConversationService(storage).message(ANN, reply.id)
    assert (found.status, found.content) == ("stopped", "half a")
    assert found.error == "The server stopped while this was being written; the text so far was kept."
    await storage.close()


async def test_a_branch_copies_the_history_up_to_a_message(service: ConversationService) -> None:
    conversation_id, ids = await talk(service, "question", "reply", "thanks", "welcome")
    await service.update_settings(ANN, conversation_id, {"system_prompt": "Be brief."})
    branch_id = await service.branch(ANN, ids[1])
    branch = await service.read(ANN, branch_id)
    assert [message.content for message in branch.messages] == ["question", "reply"]
    assert {message.id for message in branch.messages} & set(ids) == set()
    assert branch.title == "question (branch)"
    assert branch.settings.system_prompt == "Be brief."
    await service.append(ANN, branch_id, branch.messages[-1].id, "user", "other way")
    assert await shown(service, conversation_id) == ["question", "reply", "thanks", "welcome"]
    assert (await service.read(ANN, await service.branch(ANN, branch.messages[0].id))).title == "question (branch)"


async def test_a_summary_goes_with_a_branch_that_has_what_it_stands_for(service: ConversationService) -> None:
    conversation_id, ids = await talk(service, "question", "reply", "thanks", "welcome")
    await service.update_settings(ANN, conversation_id, {"summary": "They greeted.", "summary_until": ids[1]})
    branch = await service.read(ANN, await service.branch(ANN, ids[2]))
    assert (branch.settings.summary, branch.settings.summary_until) == ("They greeted.", branch.messages[1].id)
    shorter = (await service.read(ANN, await service.branch(ANN, ids[0]))).settings
    assert (shorter.summary, shorter.summary_until) == ("", "")


async def test_ratings_and_edits_go_with_a_branch(service: ConversationService) -> None:
    _, (question, reply) = await talk(service, "question", "reply")
    edit = await service.add_version(ANN, reply, "better reply")
    await service.rate(ANN, edit.id, 1)
    branch = await service.read(ANN, await service.branch(ANN, edit.id))
    assert [(message.content, message.rating, message.edited_from) for message in branch.messages] == [("question", 0, None), ("better reply", 1, reply)]
    await service.rate(ANN, edit.id, 0)
    assert (await service.message(ANN, branch.messages[1].id)).rating == 1
    with pytest.raises(InvalidRequest, match="Only a reply"):
        await service.rate(ANN, question, 1)


async def test_a_rating_is_told_to_other_tabs(service: ConversationService) -> None:
    conversation_id, (_, reply) = await talk(service, "question", "reply")
    with service.subscribe(conversation_id) as news:
        await service.rate(ANN, reply, -1)
        assert [change.kind for change in news.pending()] == ["tree"]


# ---- settings ------------------------------------------------------------------------------------------------------


async def test_settings_are_merged_and_checked(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    before = await service.read(ANN, conversation_id)
    assert before.settings == ConversationSettings()
    await service.update_settings(ANN, conversation_id, {"system_prompt": "Be brief.", "params": {"temperature": "0.5", "stop": ["\n"]}})
    await service.update_settings(ANN, conversation_id, {"preset": "Creative", "template_variables": {"enable_thinking": False}})
    after = await service.read(ANN, conversation_id)
    assert after.settings.model_dump() == ConversationSettings().model_dump() | {
        "system_prompt": "Be brief.",
        "preset": "Creative",
        "params": {"temperature": 0.5, "stop": ["\n"]},
        "template": "",
        "template_variables": {"enable_thinking": False},
        "adapters": None,
    }
    await service.update_settings(ANN, conversation_id, {"preset": "Creative"})
    assert (await service.read(ANN, conversation_id)).rev == after.rev, "the same again changes nothing"


async def test_single_entries_of_settings_are_changed(service: ConversationService) -> None:
    conversation_id = await service.create(ANN, {"params": {"temperature": 0.5, "top_k": 7}, "template_variables": {"tone": "dry"}})
    edits = {"params": EntryEdits(put={"top_p": 0.5}, drop=("top_k", "min_p")), "template_variables": EntryEdits(put={"enable_thinking": True})}
    after = await service.update_settings(ANN, conversation_id, {"preset": ""}, within=edits)
    assert (after.params, after.template_variables) == ({"temperature": 0.5, "top_p": 0.5}, {"tone": "dry", "enable_thinking": True})
    with pytest.raises(InvalidRequest, match="params"):
        await service.update_settings(ANN, conversation_id, {"params": [1]}, within=edits)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"params": {"temperature": 9}}, ("temperature", "5", "9")),
        ({"params": {"temprature": 1}}, ("temprature", "not known")),
        ({"params": {"temperature": float("nan")}}, ("temperature",)),
        ({"params": 3}, ("params",)),
        ({"sytem_prompt": "x"}, ("sytem_prompt", "not known")),
        ({"system_prompt": "x" * 200_001}, ("system_prompt", "200000")),
        ({"template_variables": {"x": "y" * 70_000}}, ("template_variables", "65,536")),
        ({"template_variables": {"x": float("inf")}}, ("template_variables",)),
        ({"template_variables": {"x": object()}}, ("template_variables",)),
    ],
)
async def test_a_setting_outside_its_limits_is_refused_with_a_sentence(service: ConversationService, values, words) -> None:
    conversation_id = await service.create(ANN)
    with pytest.raises(InvalidRequest) as caught:
        await service.update_settings(ANN, conversation_id, values)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert (await service.read(ANN, conversation_id)).settings == ConversationSettings()


async def test_two_tabs_that_set_different_things_both_win(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    changes = [{"system_prompt": "Be brief."}, {"preset": "Precise"}, {"template": "chatml"}, {"params": {"top_k": 5}}]
    await asyncio.gather(*(service.update_settings(ANN, conversation_id, change) for change in changes))
    settings = (await service.read(ANN, conversation_id)).settings.model_dump()
    assert all(settings[name] == value for change in changes for name, value in change.items())


async def test_a_revision_that_was_seen_is_kept_or_refused(service: ConversationService) -> None:
    conversation_id, (question,) = await talk(service, "question")
    rev = (await service.read(ANN, conversation_id)).rev
    await service.add_version(ANN, question, "edit in tab one", rev=rev)
    with pytest.raises(Conflict, match="another window"):
        await service.add_version(ANN, question, "edit in tab two", rev=rev)
    with pytest.raises(Conflict):
        await service.update_settings(ANN, conversation_id, {"preset": ""}, rev=rev)
    assert await shown(service, conversation_id) == ["edit in tab one"]


async def test_settings_of_another_version_are_read_as_far_as_they_go(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    old = {"system_prompt": "Be brief.", "mood": "good", "params": 3}
    await service._storage.run(lambda stores: stores.conversations.change_settings(ANN, conversation_id, old))
    settings = (await service.read(ANN, conversation_id)).settings
    assert settings == ConversationSettings(system_prompt="Be brief.")


# ---- owners, news --------------------------------------------------------------------------------------------


CALLS = {
    "read": lambda c, m: (c,),
    "rename": lambda c, m: (c, "mine"),
    "pin": lambda c, m: (c, True),
    "outline": lambda c, m: (c,),
    "summary": lambda c, m: (c,),
    "tag": lambda c, m: (c, ["mine"]),
    "update_settings": lambda c, m: (c, {"preset": ""}),
    "delete": lambda c, m: (c,),
    "export": lambda c, m: (c,),
    "message": lambda c, m: (m,),
    "message_text": lambda c, m: (m,),
    "messages_for_prompt": lambda c, m: (m,),
    "prompt_material": lambda c, m: (m,),
    "unsent_material": lambda c, m: (c, "text"),
    "pin_message": lambda c, m: (m, True),
    "image": lambda c, m: (m, 0),
    "append": lambda c, m: (c, m, "user", "x"),
    "add_version": lambda c, m: (m, "x"),
    "select_version": lambda c, m: (m,),
    "rate": lambda c, m: (m, 1),
    "delete_message": lambda c, m: (m,),
    "branch": lambda c, m: (m,),
}


def test_every_verb_is_tried_by_a_stranger() -> None:
    verbs = {name for name, function in inspect.getmembers(ConversationService, inspect.iscoroutinefunction) if not name.startswith("_")}
    assert verbs - {"list", "tags", "characters", "create", "import_", "save_reply"} == set(CALLS)


async def test_a_stranger_finds_nothing_whatever_the_verb(service: ConversationService) -> None:
    conversation_id, (question,) = await talk(service, "secret")
    before = await service.read(ANN, conversation_id)
    for name, arguments in CALLS.items():
        with pytest.raises(NotFound):
            await getattr(service, name)(BOB, *arguments(conversation_id, question))
    with pytest.raises(NotFound):
        await service.save_reply(BOB, question, content="x", status="complete")
    assert await service.list(BOB, "secret") == ()
    assert await service.read(ANN, conversation_id) == before


async def test_other_tabs_get_news(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    elsewhere = await service.create(BOB)
    with service.subscribe(conversation_id) as changes, service.subscribe(elsewhere) as others:
        question = await service.append(ANN, conversation_id, None, "user", "question")
        first = await asyncio.wait_for(changes.get(), 1)
        assert (first.conversation_id, first.kind) == (conversation_id, "tree")
        assert [(change.kind, change.title) for change in changes.pending()] == [("title", "question")]
        await service.save_reply(ANN, question.id, content="grown", status="complete")
        assert changes.pending() == ()
        await service.add_version(ANN, question.id, "better")
        await service.select_version(ANN, question.id)
        await service.delete_message(ANN, question.id)
        await service.update_settings(ANN, conversation_id, {"preset": ""})
        await service.update_settings(ANN, conversation_id, {"preset": ""})
        await service.rename(ANN, conversation_id, "Name")
        await service.delete(ANN, conversation_id)
        kinds = [change.kind for change in changes.pending()]
        assert kinds == ["tree", "tree", "tree", "settings", "title", "deleted"]
        assert others.pending() == ()
    assert service._news._followers == {}


async def test_to_a_tab_that_is_far_behind_anything_may_have_changed(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    with service.subscribe(conversation_id) as changes:
        for number in range(WAITING_LIMIT + 3):
            service._news.publish(conversation_id, "title", str(number), (str(number),))
        found = changes.pending()
    assert (found[0].kind, found[0].message_ids) == ("tree", None)
    assert [change.title for change in found[1:]] == [str(WAITING_LIMIT + 1), str(WAITING_LIMIT + 2)]


async def test_an_unknown_role_is_refused(service: ConversationService) -> None:
    conversation_id = await service.create(ANN)
    with pytest.raises(InvalidRequest, match="no role"):
        await service.append(ANN, conversation_id, None, "robot", "x")
