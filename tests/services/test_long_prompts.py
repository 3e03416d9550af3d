"""Of a conversation that is longer than any prompt only the end is read, and the prompt is the same as if all had been."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

import pytest

from modules.core.errors import ContextOverflow
from modules.core.messages import Image, Message
from modules.prompts.fitting import fit_chat
from modules.services.kept_prompts import LEFT_OUT_LIMIT, named
from modules.services.prompt_material import PromptMaterial, material_of, unsent_material
from modules.services.storage import Stores, _open_stores
from modules.store.paths import TAIL_STEP
from modules.store.records import NewConversation, NewMessage

LIMIT = 900  # characters
TOKENS = 400  # each a character
PICTURE = Image(kind="png", data="cGl4ZWxz")
SAID = ("", "   ", "<think>\nHm.\n</think>\n\n", "<think>\nHm.\n</think>\n\nYes, that is so.", "Only a few words.", "Some words more than that. " * 3)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    opened = _open_stores(tmp_path_factory.mktemp("long"), False)
    yield opened
    opened.database.close()


def told(stores: Stores, rows: Sequence[NewMessage], system_prompt: str = "Be kind.") -> tuple[str, str]:
    """A conversation of these messages; its id and that of its last message."""
    made = stores.messages.insert_tree("ann", NewConversation("Long", {"system_prompt": system_prompt}, tuple(rows)))
    return made, stores.paths.head("ann", made) or ""


def fitted(material: PromptMaterial) -> tuple[str, int] | str:
    """The prompt, and how many of the parts were left out; or why there is none."""

    def count(messages: tuple[Message, ...]) -> list[int]:
        text = "".join(f"[{message.role}]{message.content}" for message in messages)
        if sum(len(message.content) for message in messages) > LIMIT:
            raise ContextOverflow("too much text")
        return list(map(ord, text))

    try:
        found = fit_chat([part.message for part in material.parts], count=count, limit_tokens=TOKENS, limit_characters=LIMIT)
    except ContextOverflow as error:
        return error.message
    return "".join(map(chr, found.token_ids)), found.dropped


def chatter(draw: random.Random, count: int, *, plain: bool) -> list[NewMessage]:
    """Messages in turn, or with all that makes turns uneven: failed replies, thoughts alone, pins, system messages."""
    rows = []
    for place in range(count):
        role = "assistant" if place % 2 else "user"
        text = f"{place} {draw.choice(SAID[4:])}"
        if not plain and draw.random() < 0.2:
            role, text = draw.choice((("user", f"{place} again"), ("assistant", draw.choice(SAID)), ("assistant", f"{place}"), ("system", f"{place} Be brief.")))
        rows.append(NewMessage(role, text, place - 1 if place else None, time.time(), pinned=not plain and draw.random() < 0.01))
    return rows


@pytest.mark.parametrize("seed", range(24))
def test_the_prompt_is_the_same(stores: Stores, seed: int) -> None:
    draw = random.Random(seed)
    conversation_id, last = told(stores, chatter(draw, draw.randrange(4 * TAIL_STEP), plain=seed % 3 == 0) or [NewMessage("user", "Hi", None, time.time())])
    whole, short = (material_of(stores, "ann", last, limit) for limit in (None, LIMIT))
    first, second = fitted(whole), fitted(short)
    assert first[0] == second[0] if isinstance(first, tuple) else first == second
    gone = [origin for part in whole.parts for origin in part.origins if origin not in short.records]
    assert len(gone) <= short.left_out <= len(whole.records) - len(short.records)
    assert (whole.left_out, whole.parts[-1]) == (0, short.parts[-1])
    missing = [record for record in stores.messages.read("ann", conversation_id).messages if record.id not in short.records]
    assert [one["role"] for one in short.first_left_out] == [record.role for record in missing[:LEFT_OUT_LIMIT]]
    assert all(one["start"] in record.content for one, record in zip(short.first_left_out, missing, strict=False))
    unsent = [unsent_material(stores, "ann", conversation_id, "And now?", [PICTURE], limit_characters=limit) for limit in (None, LIMIT)]
    assert fitted(unsent[0])[0] == fitted(unsent[1])[0]
    assert unsent[0].parts[-1] == unsent[1].parts[-1], "with the image that waits"
    assert len(unsent[0].parts[-1].message.images) == 1


def test_only_the_end_is_read(stores: Stores) -> None:
    rows = chatter(random.Random(1), 20 * TAIL_STEP, plain=True)
    _, last = told(stores, [NewMessage("system", "From the file.", None, time.time()), *(NewMessage(row.role, row.content, place, row.created_s) for place, row in enumerate(rows))])
    found = material_of(stores, "ann", last, LIMIT)
    assert len(found.records) < TAIL_STEP
    assert found.left_out == len(rows) + 1 - len(found.records)
    assert found.parts[0].message.content == "Be kind.\n\nFrom the file."
    assert list(found.first_left_out) == [named(row.role, row.content.strip()) for row in rows[:LEFT_OUT_LIMIT]]
    assert material_of(stores, "ann", last, 10**6).left_out == 0


@pytest.mark.parametrize("special", [{"pinned": True}, {"role": "system"}])
def test_what_must_stay_has_all_read(stores: Stores, special: dict[str, object]) -> None:
    rows = chatter(random.Random(2), 4 * TAIL_STEP, plain=True)
    rows[4] = NewMessage(**{"role": "user", "content": "Stay.", "parent": 3, "created_s": time.time(), **special})  # type: ignore[arg-type]
    _, last = told(stores, rows)
    found = material_of(stores, "ann", last, LIMIT)
    assert (found.left_out, len(found.records)) == (0, len(rows))
