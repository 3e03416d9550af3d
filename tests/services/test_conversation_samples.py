"""Data sets of one's own conversations: which replies and pairs, what is left out, what is marked, and the file that is written."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.core.errors import Conflict, InvalidRequest
from modules.core.messages import Image
from modules.services.conversation_samples import ConversationSamples, SamplesPreview
from modules.services.conversations import ConversationService
from modules.services.datasets import DatasetService
from modules.services.storage import Storage
from modules.training.formats import read_samples, recognise
from modules.training.samples import ChatSample, DatasetSpec, FeedbackSample, PairSample

ANN, BOB = "ann", "bob"
REPLIES = ("chosen", "liked", "edited")


class Desk:
    """Both services over one store, and short words for what a person does in a conversation."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder = folder
        self.talks = ConversationService(storage)
        self.samples = ConversationSamples(storage, DatasetService(folder))

    async def talk(self, *texts: str, system: str = "") -> SimpleNamespace:
        """A conversation of questions and answers in turn; its id and the ids of the messages."""
        conversation_id = await self.talks.create(ANN, {"system_prompt": system})
        found = SimpleNamespace(id=conversation_id, ids=[])
        for place, text in enumerate(texts):
            await self.say(found, "assistant" if place % 2 else "user", text)
        return found

    async def say(self, talk: SimpleNamespace, role: str, text: str, parent: str = "", **more: object) -> str:
        """A message at the end, or below another one."""
        parent_id = parent or (talk.ids[-1] if talk.ids else None)
        talk.ids.append((await self.talks.append(ANN, talk.id, parent_id, role, text, **more)).id)  # type: ignore[arg-type]
        return str(talk.ids[-1])

    async def end(self, message_id: str, text: str, status: str, reason: str = "stop") -> None:
        """A reply as it is saved at its end."""
        await self.talks.save_reply(ANN, message_id, content=text, status=status, model="m", receipt={"finish_reason": reason})  # type: ignore[arg-type]

    async def look(self, *choose: str, redact: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> SamplesPreview:
        return await self.samples.preview(ANN, choose, redact, names)

    async def learned(self, *choose: str) -> list[list[str]]:
        """The replies that are learned, sample by sample, as the written file says."""
        return [[message.content for place, message in enumerate(sample.messages) if message.role == "assistant" and place not in sample.unlearned] for sample in await self.written(*choose)]

    async def pairs(self) -> list[tuple[str, str]]:
        found = await self.written("pairs")
        return [(sample.chosen.content, sample.rejected.content) for sample in found if isinstance(sample, PairSample)]

    async def written(self, *choose: str, redact: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> list[ChatSample | PairSample | FeedbackSample]:
        """What a run would read from the file; the file is deleted."""
        name = await self.samples.write(ANN, "own", choose, redact, names)
        path = self.folder / name
        kind = recognise(path).format
        assert kind == {("pairs",): "preference", ("rated",): "feedback"}.get(choose, "messages")
        found = list(read_samples(DatasetSpec(path=path, format=kind)))
        path.unlink()
        return found  # type: ignore[return-value]

    async def counts(self) -> dict[str, int]:
        return {choice.value: choice.count for choice in await self.samples.choices(ANN)}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    storage = Storage(tmp_path / "state")
    yield Desk(tmp_path / "datasets", storage)
    await storage.close()


def said(sample: ChatSample | PairSample | FeedbackSample) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in sample.messages]


# ---- replies -------------------------------------------------------------------------------------------------------


async def test_a_conversation_is_one_sample_with_its_system_prompt(desk: Desk) -> None:
    await desk.talk("Hello", " Good day! \n", "And you?", "Fine.", system="Be polite.")
    (sample,) = await desk.written("chosen")
    assert said(sample) == [("system", "Be polite."), ("user", "Hello"), ("assistant", "Good day!"), ("user", "And you?"), ("assistant", "Fine.")]
    assert sample.unlearned == frozenset()


async def test_only_the_shown_branch_is_chosen(desk: Desk) -> None:
    talk = await desk.talk("Hello", "One", "More", "Last")
    await desk.say(talk, "assistant", "Two", parent=talk.ids[0])
    assert await desk.learned("chosen") == [["Two"]]
    await desk.talks.select_version(ANN, talk.ids[1])
    assert await desk.learned("chosen") == [["One", "Last"]]
    assert await desk.counts() == {"chosen": 2, "liked": 0, "edited": 0, "pairs": 0, "rated": 0}


async def test_replies_that_are_bad_broken_or_cut_off_are_read_but_not_learned(desk: Desk) -> None:
    talk = await desk.talk("a", "good", "b", "bad", "c", "cut", "d", "stopped", "e", "failed", "f", "last")
    await desk.talks.rate(ANN, talk.ids[3], -1)
    await desk.end(talk.ids[5], "cut", "complete", "length")
    await desk.end(talk.ids[7], "stopped", "stopped")
    await desk.end(talk.ids[9], "failed", "failed")
    (sample,) = await desk.written("chosen")
    assert await desk.learned("chosen") == [["good", "last"]]
    assert [content for role, content in said(sample) if role == "assistant"] == ["good", "bad", "cut", "stopped", "failed", "last"]
    await desk.talks.rate(ANN, talk.ids[5], 1)
    assert await desk.learned("chosen") == [["good", "cut", "last"]], "who likes it knows how it ends"


async def test_what_cannot_be_learned(desk: Desk) -> None:
    talk = await desk.talk("Hello")
    await desk.say(talk, "assistant", "half a rep", status="streaming")
    await desk.talk("Hello again", "   ")
    greeting = await desk.talk()
    await desk.say(greeting, "assistant", "Welcome!")
    await desk.talk("only a question")
    thinking = await desk.talk("Think")
    await desk.say(thinking, "assistant", "<think>and never end")
    assert await desk.counts() == {"chosen": 0, "liked": 0, "edited": 0, "pairs": 0, "rated": 0}
    with pytest.raises(InvalidRequest, match="nothing to write"):
        await desk.written("chosen")
    assert not list(desk.folder.glob("*"))


async def test_a_greeting_is_read(desk: Desk) -> None:
    talk = await desk.talk()
    for role, text in (("assistant", "Welcome!"), ("user", "Hello"), ("assistant", "How are you?")):
        await desk.say(talk, role, text)
    (sample,) = await desk.written("chosen")
    assert said(sample) == [("assistant", "Welcome!"), ("user", "Hello"), ("assistant", "How are you?")]
    assert sample.unlearned == {0}


async def test_liked_replies_of_any_branch_are_learned_once_each(desk: Desk) -> None:
    talk = await desk.talk("a", "A", "b", "B", "c", "C")
    other = await desk.say(talk, "assistant", "B2", parent=talk.ids[2])
    for message_id in (talk.ids[1], talk.ids[5], other):
        await desk.talks.rate(ANN, message_id, 1)
    found = await desk.written("liked")
    assert await desk.learned("liked") == [["A", "C"], ["B2"]]
    assert said(found[0]) == [("user", "a"), ("assistant", "A"), ("user", "b"), ("assistant", "B"), ("user", "c"), ("assistant", "C")]
    assert found[0].unlearned == {3}
    assert said(found[1]) == [("user", "a"), ("assistant", "A"), ("user", "b"), ("assistant", "B2")]
    assert found[1].unlearned == {1}, "it is learned in the other sample"
    await desk.talks.rate(ANN, talk.ids[5], 0)
    assert await desk.learned("liked") == [["A", "B2"]]


async def test_edited_replies(desk: Desk) -> None:
    talk = await desk.talk("a", "written", "b", "kept")
    edit = (await desk.talks.add_version(ANN, talk.ids[1], "edited")).id
    assert await desk.learned("edited") == [["edited"]]
    again = (await desk.talks.add_version(ANN, edit, "edited twice")).id
    assert await desk.learned("edited") == [["edited twice"]]
    await desk.talks.rate(ANN, again, -1)
    assert await desk.learned("edited") == [["edited"]]
    await desk.talks.add_version(ANN, talk.ids[0], "another question")  # an edit too, but no reply
    assert await desk.counts() == {"chosen": 0, "liked": 0, "edited": 1, "pairs": 2, "rated": 1}


async def test_choices_together_learn_a_reply_once(desk: Desk) -> None:
    talk = await desk.talk("a", "A", "b", "B")
    await desk.talks.rate(ANN, talk.ids[1], 1)
    await desk.talks.add_version(ANN, talk.ids[3], "B edited")
    assert await desk.learned(*REPLIES) == [["A", "B edited"]]
    assert (await desk.look(*REPLIES)).count == 1


async def test_a_reply_that_thinks_is_learned_with_its_thoughts_and_read_without(desk: Desk) -> None:
    await desk.talk("a", "<think>Hm.</think>\n\nA", "b", "<think>\n\n</think>\n\nB", "c", "<think>Well.</think>C")
    found = await desk.written("chosen")
    assert await desk.learned("chosen") == [["<think>Hm.</think>\n\nA"], ["B", "<think>Well.</think>C"]]
    assert [content for role, content in said(found[1]) if role == "assistant"] == ["A", "B", "<think>Well.</think>C"]
    assert found[1].unlearned == {1}


async def test_a_question_that_was_not_answered_is_joined_with_the_next(desk: Desk) -> None:
    talk = await desk.talk("Hello", "", "Are you there?", "Yes.", "Good", "Indeed.")
    await desk.end(talk.ids[1], "", "failed")
    (sample,) = await desk.written("chosen")
    assert said(sample) == [("user", "Hello\n\nAre you there?"), ("assistant", "Yes."), ("user", "Good"), ("assistant", "Indeed.")]
    assert sample.unlearned == frozenset()


async def test_what_shows_images_is_left_out_and_counted(desk: Desk) -> None:
    talk = await desk.talk("Hello", "Good day")
    images = [Image(kind="png", data=base64.b64encode(b"picture").decode())]
    await desk.say(talk, "user", "What is it?", images=images)
    await desk.say(talk, "assistant", "A fox.")
    await desk.talks.add_version(ANN, talk.ids[-1], "A dog.")
    found = await desk.look("chosen")
    assert (found.count, found.with_images) == (1, 1)
    assert await desk.learned("chosen") == [["Good day"]]
    found = await desk.look("pairs")
    assert (found.count, found.with_images) == (0, 1)


# ---- pairs ---------------------------------------------------------------------------------------------------------


async def test_an_edit_is_better_than_its_original(desk: Desk) -> None:
    talk = await desk.talk("a", "A", "b", "written", system="Be kind.")
    other = await desk.say(talk, "assistant", "other version", parent=talk.ids[2])
    edit = (await desk.talks.add_version(ANN, talk.ids[3], "edited")).id
    (sample,) = await desk.written("pairs")
    assert said(sample) == [("system", "Be kind."), ("user", "a"), ("assistant", "A"), ("user", "b")]
    assert (sample.chosen.content, sample.rejected.content) == ("edited", "written")
    await desk.talks.add_version(ANN, edit, "edited twice")
    assert await desk.pairs() == [("edited twice", "written")]
    await desk.talks.add_version(ANN, other, "other version")  # saved without a change
    assert await desk.pairs() == [("edited twice", "written")]


async def test_an_edit_that_was_not_liked_better_is_no_pair(desk: Desk) -> None:
    talk = await desk.talk("a", "written")
    edit = (await desk.talks.add_version(ANN, talk.ids[1], "edited")).id
    await desk.talks.rate(ANN, talk.ids[1], 1)
    assert (await desk.counts())["pairs"] == 0
    await desk.talks.rate(ANN, edit, 1)
    assert await desk.pairs() == [("edited", "written")]
    await desk.talks.rate(ANN, edit, -1)
    assert await desk.pairs() == [("written", "edited")]


async def test_an_original_that_is_gone_makes_no_pair(desk: Desk) -> None:
    talk = await desk.talk("a", "written")
    edit = (await desk.talks.add_version(ANN, talk.ids[1], "edited")).id
    branch = await desk.talks.branch(ANN, edit)
    await desk.talks.delete_message(ANN, talk.ids[1])
    await desk.talks.delete(ANN, talk.id)
    assert [message.edited_from for message in (await desk.talks.read(ANN, branch)).messages] == [None, talk.ids[1]]
    assert await desk.counts() == {"chosen": 1, "liked": 0, "edited": 1, "pairs": 0, "rated": 0}


async def test_up_is_better_than_down_and_so_is_what_is_shown(desk: Desk) -> None:
    talk = await desk.talk("a", "first")
    for text in ("second", "third", "shown"):
        await desk.say(talk, "assistant", text, parent=talk.ids[0])
    await desk.talks.rate(ANN, talk.ids[1], 1)
    await desk.talks.rate(ANN, talk.ids[2], -1)
    assert await desk.pairs() == [("first", "second"), ("shown", "second")]
    await desk.talks.rate(ANN, talk.ids[3], -1)
    assert set(await desk.pairs()) == {("first", "second"), ("first", "third"), ("shown", "second"), ("shown", "third")}
    await desk.talks.rate(ANN, talk.ids[4], -1)
    assert {better for better, _ in await desk.pairs()} == {"first"}


async def test_answers_to_different_questions_are_no_pair(desk: Desk) -> None:
    talk = await desk.talk("a", "good", "b", "bad")
    await desk.talks.rate(ANN, talk.ids[1], 1)
    await desk.talks.rate(ANN, talk.ids[3], -1)
    edited = await desk.talks.add_version(ANN, talk.ids[0], "a, differently")
    await desk.say(talk, "assistant", "worse", parent=edited.id)
    await desk.talks.rate(ANN, talk.ids[-1], -1)
    assert (await desk.counts())["pairs"] == 0


async def test_single_answers_with_their_thumbs(desk: Desk) -> None:
    talk = await desk.talk("My name is Anna", "Hello Anna", "b", "bad", system="Be kind.")
    await desk.talks.rate(ANN, talk.ids[1], 1)
    await desk.talks.rate(ANN, talk.ids[3], -1)
    assert (await desk.counts())["rated"] == 2
    found = await desk.written("rated", redact=("name",))
    assert [(said(sample), sample.answer.content, sample.is_good) for sample in found if isinstance(sample, FeedbackSample)] == [
        ([("system", "Be kind."), ("user", "My name is [name 1]")], "Hello [name 1]", True),
        ([("system", "Be kind."), ("user", "My name is [name 1]"), ("assistant", "Hello [name 1]"), ("user", "b")], "bad", False),
    ]
    shown = await desk.look("rated")
    assert [(sample.kind, sample.is_good, sample.messages[-1].text) for sample in shown.samples] == [("feedback", True, "Hello Anna"), ("feedback", False, "bad")]
    assert (shown.count, shown.pairs, shown.findings[0].count) == (2, 0, 4)


# ---- duplicates, personal data -------------------------------------------------------------------------------------


async def test_duplicates_are_left_out_and_counted(desk: Desk) -> None:
    long = "word " * 5 + " ".join(f"word{number}" for number in range(100))
    for texts in (("Hello", "Good day"), ("Hello", "Good day"), (long, "Yes"), (long + " more", "Yes"), (long, "No")):
        await desk.talk(*texts)
    found = await desk.look("chosen")
    assert (found.count, found.exact, found.near, found.pairs) == (3, 1, 1, 0)
    assert [sample.messages[-1].text for sample in found.samples] == ["Good day", "Yes", "No"]
    assert await desk.learned("chosen") == [["Good day"], ["Yes"], ["No"]]


async def test_personal_data_is_shown_by_kind_and_marked_as_chosen(desk: Desk) -> None:
    await desk.talk(
        "My name is Anna Schmidt, my mail is anna@example.org.", "Hello Anna! I wrote to anna@example.org. My name is Paddock.",
        "Use sk-abcdefghijklmnopqrstuvwx, and call bob", "I called Bob.", system="You serve anna@example.org and carl@example.org.",
    )  # fmt: skip
    plain = await desk.look("chosen")
    assert [(finding.kind, finding.count, finding.examples) for finding in plain.findings] == [
        ("e-mail", 4, ("anna@example.org", "carl@example.org")),
        ("name", 2, ("Anna Schmidt", "Anna")),
        ("key", 1, ("sk-abcdefghijklmnopqrstuvwx",)),
    ]
    assert all(finding.title for finding in plain.findings)
    assert "anna@example.org" in plain.samples[0].messages[1].text
    marked = await desk.look("chosen", redact=("e-mail", "name"), names=("bob",))
    assert [(finding.kind, finding.count) for finding in marked.findings] == [("e-mail", 4), ("name", 4), ("key", 1)], "what there is, whatever is marked"
    (sample,) = await desk.written("chosen", redact=("e-mail", "name"), names=("bob",))
    assert [content for _, content in said(sample)] == [message.text for message in marked.samples[0].messages] == [
        "You serve [e-mail 1] and [e-mail 2].",
        "My name is [name 1], my mail is [e-mail 1].",
        "Hello [name 1]! I wrote to [e-mail 1]. My name is Paddock.",
        "Use sk-abcdefghijklmnopqrstuvwx, and call [name 2]",
        "I called [name 2].",
    ]


async def test_pairs_are_marked_as_well(desk: Desk) -> None:
    talk = await desk.talk("Write to a@b.co", "To a@b.co I wrote")
    await desk.talks.add_version(ANN, talk.ids[1], "I wrote to c@d.co and a@b.co")
    (sample,) = await desk.written("pairs", redact=("e-mail",))
    assert (said(sample), sample.chosen.content, sample.rejected.content) == (
        [("user", "Write to [e-mail 1]")], "I wrote to [e-mail 2] and [e-mail 1]", "To [e-mail 1] I wrote",
    )  # fmt: skip
    found = await desk.look("pairs", redact=("e-mail",))
    assert (found.count, found.pairs) == (1, 1)
    assert [(finding.kind, finding.count) for finding in found.findings] == [("e-mail", 4)]
    assert (found.samples[0].kind, found.samples[0].chosen) == ("pair", "I wrote to [e-mail 2] and [e-mail 1]")


# ---- requests, owners, the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choose", "redact", "words"),
    [
        ((), (), "Nothing is chosen"),
        (("everything",), (), "“everything” is unknown; use chosen, liked, edited, pairs, rated"),
        (("chosen",), ("shoe size",), "“shoe size” is unknown; use e-mail"),
        (("chosen", "pairs"), (), "cannot stand in one file"),
        (("rated", "pairs"), (), "cannot stand in one file"),
    ],
)
async def test_refused_requests(desk: Desk, choose: tuple[str, ...], redact: tuple[str, ...], words: str) -> None:
    await desk.talk("Hello", "Good day")
    for ask in (desk.samples.preview(ANN, choose, redact), desk.samples.write(ANN, "own", choose, redact)):
        with pytest.raises(InvalidRequest, match=words):
            await ask
    assert not desk.folder.exists()


async def test_conversations_of_others_do_not_exist(desk: Desk) -> None:
    await desk.talk("Hello", "Good day")
    assert {choice.count for choice in await desk.samples.choices(BOB)} == {0}
    assert (await desk.samples.preview(BOB, ("chosen",), ())).count == 0


async def test_the_file(desk: Desk) -> None:
    await desk.talk("Grüß Gott", "你好 ✓\u2028line", system="half a pair")
    assert await desk.samples.write(ANN, " my talk ", ("chosen",), ()) == "my talk.jsonl"
    assert await desk.samples.write(ANN, "other.json", ("chosen",), ()) == "other.jsonl"
    for taken in ("my talk", "MY TALK.jsonl"):
        with pytest.raises(Conflict, match="already"):
            await desk.samples.write(ANN, taken, ("chosen",), ())
    for bad in ("", "../outside", "a/b", "con", ".hidden"):
        with pytest.raises(InvalidRequest):
            await desk.samples.write(ANN, bad, ("chosen",), ())
    assert sorted(path.name for path in desk.folder.iterdir()) == ["my talk.jsonl", "other.jsonl"]
    lines = (desk.folder / "my talk.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines[1:] == [""]
    assert json.loads(lines[0]) == {"messages": [
        {"role": "system", "content": "half a pair"}, {"role": "user", "content": "Grüß Gott"}, {"role": "assistant", "content": "你好 ✓\u2028line"},
    ]}  # fmt: skip


async def test_a_conversation_of_a_thousand_turns(desk: Desk) -> None:
    rows = [{"role": "assistant" if place % 2 else "user", "content": f"text {place}"} for place in range(2000)]
    await desk.talks.import_(ANN, {"messages": rows})
    (sample,) = await desk.written("chosen")
    assert len(sample.messages) == 2000
    assert sample.unlearned == frozenset()
