"""The notebook in its middle, in several tries, with versions and more than one notebook: over a real engine and a real store."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.services import notebook as notebook_module
from modules.services.app import App
from modules.services.conversation_settings import EntryEdits
from modules.services.notebook import Order
from tests.services.test_notebook import BEGINNING, ENDLESS, SHORT, ended, growing, stored

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
WARM = {"preset": "", "params": {"temperature": 1.5, "max_tokens": 8}}
END = "\n\nThe end. 🐎"


async def test_at_the_cursor_what_follows_stays_behind(app: App) -> None:
    owner, text = "cursor", BEGINNING + END
    await app.notebook.generate(owner, BEGINNING, SHORT)
    alone = (await ended(app, owner))["text"]
    begun = await app.notebook.generate(owner, text, Order(SHORT, (len(BEGINNING), len(BEGINNING))))
    assert begun["behind"] == len(END)
    assert (await ended(app, owner))["text"] == alone + END, "the model is told only what stands before"
    assert (await app.notebook.undo(owner))["text"] == text
    await app.notebook.redo(owner)
    await app.notebook.regenerate(owner, SHORT)
    assert (await ended(app, owner))["text"] == alone + END, "another try goes to the same place"


async def test_a_selection_is_replaced_and_comes_back_with_undo(app: App) -> None:
    owner, text = "selection", BEGINNING + " XXXX" + END
    await app.notebook.generate(owner, text, Order(SHORT, (len(BEGINNING), len(BEGINNING) + 5)))
    shown = (await ended(app, owner))["text"]
    assert shown.startswith(BEGINNING) and shown.endswith(END) and "XXXX" not in shown and len(shown) > len(BEGINNING + END)
    assert (await app.notebook.undo(owner))["text"] == text


@pytest.mark.parametrize("place", [(5, 4), (0, 999), (-1, 2)])
async def test_a_place_outside_the_text_is_refused(app: App, place: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="is not in the text, which has 16 characters"):
        await app.notebook.generate("outside", BEGINNING, Order(SHORT, place))
    with pytest.raises(InvalidRequest, match="write a beginning first"):
        await app.notebook.generate("outside", BEGINNING, Order(SHORT, (0, 3)))
    with pytest.raises(InvalidRequest, match="1 to 6 can be written"):
        await app.notebook.generate("outside", BEGINNING, Order(SHORT, None, 7))


async def test_alternatives_differ_and_one_is_taken(app: App) -> None:
    owner, text = "alternatives", BEGINNING + END
    begun = await app.notebook.generate(owner, text, Order({"preset": "", "params": {"temperature": 1.5, "max_tokens": 8, "seed": 5}}, (16, 16), 3))
    assert (begun["text"], len(begun["alternatives"]["tries"]), begun["alternatives"]["done"]) == (text, 3, False)
    shown = await ended(app, owner)
    assert (shown["text"], shown["can_undo"], shown["alternatives"]["done"]) == (text, False, True)
    tries = shown["alternatives"]["tries"]
    assert [one["seed"] for one in tries] == [5, 6, 7]
    assert len({one["text"] for one in tries}) == 3
    versions = await app.notebook.shelf.versions(owner)
    assert [row.kind for row in versions] == ["alternative"] * 3 + ["typed"], "none is lost, whichever is taken"
    taken = await app.notebook.take(owner, BEGINNING + tries[1]["text"] + END, shown["rev"])
    assert (taken["text"], taken["alternatives"], taken["can_undo"]) == (BEGINNING + tries[1]["text"] + END, None, True)
    with pytest.raises(Conflict):
        await app.notebook.take(owner, "late", shown["rev"])
    await app.notebook.regenerate(owner, SHORT)
    again = (await ended(app, owner))["text"]
    assert again.startswith(BEGINNING) and again.endswith(END) and len(again) > len(text)
    assert (await app.notebook.undo(owner))["text"] == text


async def test_none_of_the_alternatives_is_taken(app: App) -> None:
    owner = "none"
    await app.notebook.generate(owner, BEGINNING, Order(WARM, None, 2))
    assert (await ended(app, owner))["alternatives"] is not None
    assert (await app.notebook.dismiss(owner))["alternatives"] is None
    assert (await app.notebook.read(owner))["text"] == BEGINNING


async def test_stop_ends_all_alternatives(app: App) -> None:
    owner = "stop all"
    await app.notebook.generate(owner, BEGINNING, Order(ENDLESS, None, 3))
    shown = await app.notebook.stop(owner)
    assert (shown["running"], shown["alternatives"]["done"]) == (False, True)
    assert (await app.models.get()).name
    while (counters := await app.generation.counters()).running or counters.waiting:  # one that was not begun yet is cancelled a moment later
        await asyncio.sleep(0.01)


async def test_what_stands_beside_the_text_is_gone_on_with(app: App) -> None:
    owner = "aside"
    await app.notebook.generate(owner, BEGINNING + END, Order(SHORT, (16, 16), aside=True))
    shown = await ended(app, owner)
    first = shown["alternatives"]["tries"][0]["text"]
    assert (shown["text"], shown["can_undo"], shown["alternatives"]["aside"]) == (BEGINNING + END, False, True)
    await app.notebook.generate(owner, BEGINNING + END, Order(SHORT, (16, 16), aside=True, begun=first))
    longer = (await ended(app, owner))["alternatives"]["tries"][0]["text"]
    assert longer.startswith(first) and len(longer) > len(first)
    await app.notebook.generate(owner, BEGINNING + first, SHORT)
    assert (await ended(app, owner))["text"] == BEGINNING + longer, "it went on from both together"
    numbers = [row.number for row in await app.notebook.shelf.versions(owner) if row.kind == "alternative"]
    assert [(await app.notebook.shelf.version(owner, number)).text for number in numbers] == [BEGINNING + longer + END, BEGINNING + first + END]
    with pytest.raises(InvalidRequest, match="one text can be gone on with"):
        await app.notebook.generate(owner, BEGINNING, Order(SHORT, None, 2, begun="x"))


async def test_alternatives_are_on_disk_while_they_are_written(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook_module, "SAVE_INTERVAL_S", 0.05)
    owner = "kept tries"
    await app.notebook.generate(owner, BEGINNING, Order({"preset": "", "params": {"ban_eos": True, "temperature": 1.0}}, None, 3))
    while len(kept := [row for row in await app.notebook.shelf.versions(owner) if row.kind == "alternative"]) < 3:
        await asyncio.sleep(0.02)
    assert (await app.notebook.read(owner))["running"]
    before = {row.number: row.characters for row in kept}
    while any(row.characters <= before[row.number] for row in await app.notebook.shelf.versions(owner) if row.number in before):
        await asyncio.sleep(0.02)
    tries = (await app.notebook.stop(owner))["alternatives"]["tries"]
    whole = [(await app.notebook.shelf.version(owner, number)).text for number in before]
    assert sorted(whole) == sorted(BEGINNING + one["text"] for one in tries), "each is kept once, as it ended"


async def test_whether_a_text_begins_with_its_token_and_has_special_ones(app: App) -> None:
    text, plain = "Once<|im_end|>", {"add_bos": False, "parse_special": False}
    looked = [await app.notebook.probabilities.of_text(text, settings) for settings in ({}, {"add_bos": False}, plain)]
    marked, bare, letters = [[row["token_id"] for row in rows] for rows in looked]
    assert marked[1:] == bare and len(letters) > len(bare)
    first, second = [(await app.notebook.probabilities.next_tokens("Once upon a", 5, settings))["before"] for settings in ({}, plain)]
    assert first != second
    await app.notebook.generate("marks", BEGINNING, SHORT | {"add_bos": False})
    without = (await ended(app, "marks"))["text"]
    await app.notebook.generate("marks", BEGINNING, SHORT)
    assert (await ended(app, "marks"))["text"] != without


async def test_followers_see_every_character_of_every_alternative_once(app: App) -> None:
    owner, texts = "followed tries", ["", "", ""]
    await app.notebook.generate(owner, BEGINNING, Order(WARM, None, 3))
    async for kind, data in app.notebook.events(owner):
        if kind == "snapshot" and data["alternatives"]:
            texts = [one["text"] for one in data["alternatives"]["tries"]]
        elif kind == "append":
            texts[data["try"]] += data["text"]
        elif kind == "finished" or not data.get("running", True):
            break
    assert texts == [one["text"] for one in (await ended(app, owner))["alternatives"]["tries"]]


async def test_what_a_stalled_model_wrote_last_is_on_disk_too(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook_module, "SAVE_INTERVAL_S", 0.1)
    owner, pid = "stalled", (await app.models.get()).pid
    await app.notebook.generate(owner, BEGINNING, ENDLESS)
    await growing(app, owner)
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(200):  # what had left the engine arrives, and no more comes
            shown = (await app.notebook.read(owner))["text"]
            await asyncio.sleep(0.02)
            if shown == (await app.notebook.read(owner))["text"] == await stored(app, owner):
                break
        else:
            raise AssertionError("text that came is not saved before more comes")
    finally:
        os.kill(pid, signal.SIGCONT)
        await app.notebook.stop(owner)


async def test_versions_are_kept_around_generations_and_can_be_gone_back_to(app: App) -> None:
    owner = "versions"
    rev = await app.notebook.save(owner, "first", None)
    await app.notebook.save(owner, "first words", rev)
    assert [row.text for row in await app.notebook.shelf.versions(owner)] == ["first"], "a minute has not passed"
    await app.notebook.generate(owner, BEGINNING, SHORT)
    written = (await ended(app, owner))["text"]
    rows = await app.notebook.shelf.versions(owner)
    assert [(row.kind, row.text) for row in rows] == [("written", written), ("typed", BEGINNING), ("typed", "first")]
    await app.notebook.save(owner, "typed over it", None)
    back = await app.notebook.restore_version(owner, rows[0].number)
    assert back["text"] == written
    assert "typed over it" in [row.text for row in await app.notebook.shelf.versions(owner)]
    assert (await app.notebook.undo(owner))["text"] == "typed over it"
    with pytest.raises(NotFound):
        await app.notebook.restore_version(owner, 10**9)


async def test_an_edit_of_how_a_notebook_is_written_on_keeps_what_somebody_else_edited(app: App) -> None:
    owner, shelf = "two browsers", app.notebook.shelf
    at_first = {"preset": "Balanced", "params": {"max_tokens": 256}}
    await shelf.edit_settings(owner, {}, {"params": EntryEdits(put={"temperature": 1.3})}, at_first)
    after = await shelf.edit_settings(owner, {"add_bos": False}, {"params": EntryEdits(put={"top_k": 7}, drop=("max_tokens",))}, at_first)
    assert after == {"preset": "Balanced", "params": {"temperature": 1.3, "top_k": 7}, "add_bos": False}
    assert (await app.notebook.read(owner))["settings"] == after
    typed = await shelf.edit_settings(owner, {}, {"params": EntryEdits(put={"seed": "7", "top_k": 7}, drop=("temperature",))}, at_first)
    assert typed["params"] == {"seed": 7, "top_k": 7}, "as a box holds it"
    with pytest.raises(InvalidRequest, match="banned_tokens"):
        await shelf.edit_settings(owner, {}, {"params": EntryEdits(put={"banned_tokens": ["many"]})}, at_first)
    await shelf.edit_settings(owner, {}, {"params": EntryEdits(put={"regex": "a+"})}, at_first)
    with pytest.raises(InvalidRequest, match="a text has one shape"):
        await shelf.edit_settings(owner, {}, {"params": EntryEdits(put={"choices": ["a", "b"]})}, at_first)
    after = await shelf.edit_settings(owner, {}, {"params": EntryEdits(drop=("regex",))}, at_first)
    assert (await app.notebook.read(owner))["settings"] == after == typed


async def test_notebooks_are_written_on_at_the_same_time(app: App) -> None:
    owner = "two notebooks"
    first = await app.notebook.shelf.open(owner)
    await app.notebook.shelf.change_settings(owner, SHORT, first)
    second = await app.notebook.shelf.create(owner, "  The   second ")
    assert (await app.notebook.read(owner, second))["settings"] == SHORT, "it begins as the last one was"
    await app.notebook.generate(owner, BEGINNING, ENDLESS, first)
    await app.notebook.generate(owner, BEGINNING, SHORT, second)
    with pytest.raises(Conflict):
        await app.notebook.save(owner, "x", None, first)
    shown = await app.notebook.read(owner, second)
    assert (shown["id"], shown["name"]) == (second, "The second")
    await app.notebook.stop(owner, first)
    rows = await app.notebook.shelf.list(owner)
    assert [row.id for row in rows] == [second, first]
    assert (await app.notebook.read(owner, first))["name"].startswith("Once upon a time")
    await app.notebook.stop_all(owner)
    await app.notebook.shelf.delete(owner, second)
    assert [row.id for row in await app.notebook.shelf.list(owner, deleted=True)] == [second]
    with pytest.raises(NotFound):
        await app.notebook.read(owner, second)
    with pytest.raises(InvalidRequest, match="300 characters and may have 200"):
        await app.notebook.shelf.rename(owner, first, "x" * 300)


# ---- what the model finds likely -----------------------------------------------------------------------------------


async def next_tokens(app: App, text: str, count: int, **params: Any) -> dict[str, Any]:
    return await app.notebook.probabilities.next_tokens(text, count, {"preset": "", "params": params})


async def test_the_next_tokens_before_and_after_the_samplers(app: App) -> None:
    found = await next_tokens(app, "Once upon a", 6)
    before = found["before"]
    assert before[0]["text"] == " time"
    shares = [token["probability"] for token in before]
    assert shares == sorted(shares, reverse=True) and 0.3 < shares[0] <= sum(shares) <= 1
    assert [token["token_id"] for token in found["after"]] == [token["token_id"] for token in before], "neutral settings change nothing"
    assert [token["probability"] for token in found["after"]] == pytest.approx(shares, abs=1e-5)
    cut = await next_tokens(app, "Once upon a", 6, top_k=2, json_schema={"type": "object"}, stop=["x"])
    assert [token["probability"] for token in cut["before"]] == pytest.approx(shares, abs=1e-5)
    assert [token["probability"] for token in cut["after"]] == pytest.approx([share / sum(shares[:2]) for share in shares[:2]], abs=1e-5)
    greedy = (await next_tokens(app, "Once upon a", 6, temperature=0))["after"]
    assert [(token["text"], token["probability"]) for token in greedy] == [(" time", 1.0)]


async def test_each_token_of_a_text_has_its_place_and_its_alternatives(app: App) -> None:
    text = "Once upon a time 🐎\n"
    rows = await app.notebook.probabilities.of_text(text, {})
    assert "".join(text[row["start"] : row["stop"]] for row in rows) == text
    assert rows[0]["probability"] is None and rows[0]["alternatives"] == []
    likely = next(row for row in rows if row["text"] == " time")
    expected = (await next_tokens(app, "Once upon a", 6))["before"]
    assert likely["probability"] == pytest.approx(expected[0]["probability"], abs=1e-3)
    assert [other["token_id"] for other in likely["alternatives"]] == [token["token_id"] for token in expected]
    with pytest.raises(InvalidRequest, match="write a beginning first"):
        await app.notebook.probabilities.of_text("", {})
