"""Private conversations: everything works in them, and nothing of them is written anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.services.app import App
from modules.services.storage import is_private
from modules.services.turns import Attached
from tests.services.reply_steps import ANN, ENDLESS, SHORT, ended, growing, shown

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
SECRET = "quillfeather"


async def private(app: App, settings: Mapping[str, Any] = SHORT) -> str:
    conversation_id = await app.beginnings.begin(ANN, private=True)
    await app.conversations.update_settings(ANN, conversation_id, settings)
    return conversation_id


def traces(folder: Path, word: str) -> list[str]:
    """Files below the state folder that have a word."""
    return [path.name for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


async def test_all_that_is_done_in_one_leaves_no_trace(app: App) -> None:
    kept = await app.conversations.create(ANN, SHORT)
    await app.conversations.append(ANN, kept, None, "user", "ordinaryword")
    conversation_id = await private(app, {**SHORT, "system_prompt": f"You are {SECRET}."})
    question, reply = await app.replies.send(ANN, conversation_id, f"Who is {SECRET}?")
    assert (await ended(app, conversation_id)).status == "complete"
    again = await app.replies.regenerate(ANN, conversation_id, reply)
    await ended(app, conversation_id)
    edited, _ = await app.replies.resend(ANN, conversation_id, question, f"Where is {SECRET}?")
    await ended(app, conversation_id)
    inserted = await app.turns.insert(ANN, conversation_id, "user", f"{SECRET} again")
    branch = await app.conversations.branch(ANN, edited)
    bin_id = await app.conversations.delete_message(ANN, inserted)
    await app.conversation_bin.restore(ANN, bin_id)
    pasted = await app.attachments.add_text(ANN, conversation_id, f"{SECRET} " * 40)
    await app.turns.insert(ANN, conversation_id, "user", "Read this.", Attached(files=(pasted.id,)))
    await app.conversations.rename(ANN, conversation_id, f"About {SECRET}")
    assert all(is_private(some_id) for some_id in (conversation_id, branch, question, reply, again, edited, inserted, bin_id, pasted.id))
    assert (await shown(app, conversation_id))[-1].files[0].id == pasted.id
    assert (await app.replies.send(ANN, branch, "And?"))[0]
    await ended(app, branch)

    state = app.settings.state_dir
    assert traces(state, "ordinaryword"), "else nothing is looked at"
    assert traces(state, SECRET) == []
    listed = [row.id for row in await app.conversations.list(ANN)]
    assert kept in listed
    assert not any(is_private(row_id) for row_id in listed)
    assert await app.conversations.list(ANN, SECRET) == ()
    assert await app.conversation_bin.list(ANN) == ()
    fresh = await app.beginnings.begin(ANN)
    assert (await app.conversations.read(ANN, fresh)).settings.system_prompt == "", "its settings are not those of the last one used"
    with pytest.raises(NotFound):
        await app.conversations.read("bob", conversation_id)


async def test_a_reply_in_one_stops_and_goes_on(app: App) -> None:
    conversation_id = await private(app, ENDLESS)
    _, reply = await app.replies.send(ANN, conversation_id, "Tell me a story.", versions=2)
    await growing(app, conversation_id)
    assert len(app.replies.together(conversation_id)) == 2
    await app.replies.pick(ANN, conversation_id, reply)
    await app.replies.stop(conversation_id)
    stopped = await ended(app, conversation_id)
    assert (stopped.id, stopped.status) == (reply, "stopped")
    goes_on = {**ENDLESS, "params": {**ENDLESS["params"], "max_tokens": 12}}  # wherever it was stopped: there may be a good end
    await app.conversations.update_settings(ANN, conversation_id, goes_on)
    await app.replies.extend(ANN, conversation_id, reply)
    assert len((await ended(app, conversation_id)).content) > len(stopped.content)


async def test_what_is_computed_for_one_never_goes_to_disk(app: App) -> None:
    kept = await app.conversations.create(ANN, SHORT)
    hidden = await private(app)
    for conversation_id in (kept, hidden):
        question = await app.turns.insert(ANN, conversation_id, "user", "Hi")
        made = await app.turns._requests.make(ANN, conversation_id, question, continues=False)
        assert made.request.keep_on_disk == (conversation_id == kept)


async def test_a_document_is_refused_since_it_would_be_written(app: App) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"secret"

    with pytest.raises(InvalidRequest, match="Paste its text"):
        await app.attachments.add(ANN, await private(app), "plan.txt", pieces())


async def test_forgotten_is_forgotten(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.services import beginnings

    conversation_id = await private(app)
    question, _ = await app.replies.send(ANN, conversation_id, "Hi")
    await ended(app, conversation_id)
    assert await app.storage.private.run(lambda stores: len(stores.conversations.list(ANN))) >= 1
    monkeypatch.setattr(beginnings, "FORGOTTEN_S", -1.0)  # as if two days had passed
    left = await app.beginnings.begin(ANN, private=True)
    assert [row.id for row in await app.storage.private.run(lambda stores: stores.conversations.list(ANN))] == [left]
    with pytest.raises(NotFound):
        await app.conversations.message(ANN, question)
