"""Attached documents from upload to prompt: read in a real child, kept until they are sent, told to the model, carried by versions and branches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from modules.core.errors import InvalidRequest, NotFound
from modules.core.messages import FILE_LIMIT
from modules.services import attachments as module
from modules.services.attachments import PASTED, AttachmentService
from modules.services.conversation_prompt import document_block
from modules.services.conversations import ConversationService
from modules.services.storage import Storage
from modules.store.records import StoredFile
from tests.document_files import docx, paragraph, pdf

ANN, BOB = "ann", "bob"


class Desk(NamedTuple):
    """Both services over one store."""

    files: AttachmentService
    conversations: ConversationService
    state: Path


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    storage = Storage(tmp_path / "state")
    yield Desk(AttachmentService(tmp_path / "state", storage), ConversationService(storage), tmp_path / "state")
    await storage.close()


async def arriving(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.processes
async def test_documents_are_read_and_told_to_the_model_in_order(desk: Desk) -> None:
    talk = await desk.conversations.create(ANN)
    report = await desk.files.add(ANN, talk, "C:\\papers\\report.pdf", arriving(pdf(["The lamp is on."])))
    letter = await desk.files.add(ANN, talk, "letter.docx", arriving(docx(paragraph("Dear Ann"))))
    assert (report.name, report.kind, report.note) == ("report.pdf", "PDF", "1 page")
    assert [file.name for file in await desk.files.waiting(ANN, talk)] == ["report.pdf", "letter.docx"]
    assert not list((desk.state / "incoming").iterdir()), "the files themselves are not kept"
    message = await desk.conversations.append(ANN, talk, None, "user", "Is it on?", files=[report.id, letter.id])
    (told,) = await desk.conversations.messages_for_prompt(ANN, message.id)
    assert told.content == (
        "Attached file “report.pdf”:\n```\n[Page 1]\nThe lamp is on.\n```\n\nAttached file “letter.docx”:\n```\nDear Ann\n```\n\nIs it on?"
    )
    version = await desk.conversations.add_version(ANN, message.id, "Is it warm?")
    copy = (await desk.conversations.read(ANN, await desk.conversations.branch(ANN, version.id))).messages[0]
    (told,) = await desk.conversations.messages_for_prompt(ANN, copy.id)
    assert told.content.endswith("Dear Ann\n```\n\nIs it warm?")


async def test_a_pasted_text_is_one_too_and_a_message_may_be_nothing_else(desk: Desk) -> None:
    talk = await desk.conversations.create(ANN)
    first = await desk.files.add_text(ANN, talk, "one\r\ntwo")
    second = await desk.files.add_text(ANN, talk, "three")
    assert [(file.name, file.kind, file.note) for file in (first, second)] == [("Pasted text 1.txt", PASTED, "2 lines"), ("Pasted text 2.txt", PASTED, "1 line")]
    assert await desk.files.text(ANN, first.id) == (first, "one\ntwo")
    await desk.files.remove(ANN, talk, second.id)
    material = await desk.conversations.unsent_material(ANN, talk, "")
    assert [part.message.content for part in material.parts] == ["Attached file “Pasted text 1.txt”:\n```\none\ntwo\n```"]
    message = await desk.conversations.append(ANN, talk, None, "user", "", files=[first.id])
    assert [each.content for each in await desk.conversations.messages_for_prompt(ANN, message.id)] == [part.message.content for part in material.parts]
    with pytest.raises(InvalidRequest, match="nothing in the pasted text"):
        await desk.files.add_text(ANN, talk, " \n")


def test_a_block_cannot_be_closed_from_within() -> None:
    file = StoredFile("1", "h", "a.md", "text", "", 9, 9)
    block = document_block(file.name, "before\n````\nnot the end\n````")
    assert block == "Attached file “a.md”:\n`````\nbefore\n````\nnot the end\n````\n`````"


@pytest.mark.processes
async def test_what_is_refused_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = await desk.conversations.create(ANN)
    with pytest.raises(InvalidRequest, match=r"photo.raw cannot be attached: it is no text"):
        await desk.files.add(ANN, talk, "photo.raw", arriving(bytes(range(256)) * 9))
    with pytest.raises(InvalidRequest, match=r"empty.txt is empty"):
        await desk.files.add(ANN, talk, "empty.txt", arriving(b""))
    monkeypatch.setattr(module, "FILE_LIMIT_BYTES", 2 << 20)
    with pytest.raises(InvalidRequest, match=r"big.txt has more than 2 MiB, the limit of an attachment"):
        await desk.files.add(ANN, talk, "big.txt", arriving(b"x" * (3 << 20), 1 << 20))
    monkeypatch.setattr(module, "CHILD_LIMIT_S", 0.001)
    with pytest.raises(InvalidRequest, match=r"slow.txt could not be read within 0 s"):
        await desk.files.add(ANN, talk, "slow.txt", arriving(b"words"))
    assert await desk.files.waiting(ANN, talk) == ()
    assert not list((desk.state / "incoming").iterdir())


@pytest.mark.processes
async def test_a_strange_name_is_only_a_name(desk: Desk) -> None:
    talk = await desk.conversations.create(ANN)
    added = await desk.files.add(ANN, talk, "../../etc/pass\x00wd\n", arriving(b"words"))
    assert added.name == "pass wd"
    assert (await desk.files.add(ANN, talk, "", arriving(b"words"))).name == "file"


async def test_so_many_and_nobody_else_s(desk: Desk) -> None:
    talk = await desk.conversations.create(ANN)
    added = [await desk.files.add_text(ANN, talk, f"text {number}") for number in range(FILE_LIMIT)]
    with pytest.raises(InvalidRequest, match=f"{FILE_LIMIT} files are attached already"):
        await desk.files.add_text(ANN, talk, "one more")
    for ask in (
        desk.files.add(BOB, talk, "a.txt", arriving(b"words")), desk.files.add_text(BOB, talk, "words"), desk.files.waiting(BOB, talk),
        desk.files.remove(BOB, talk, added[0].id), desk.files.text(BOB, added[0].id),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await ask
    assert len(await desk.files.waiting(ANN, talk)) == FILE_LIMIT
