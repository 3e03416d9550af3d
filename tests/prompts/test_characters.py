"""The folder of characters: written, read, brought in, deleted and put back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.prompts.character_card import CardText, json_file, new_card, png_file
from modules.prompts.characters import BIN, KEPT_S, CharacterFolder
from modules.prompts.png_text import plain_picture

PICTURE = plain_picture(2, 2, (1, 2, 3), (4, 5, 6))


@pytest.fixture
def folder(tmp_path: Path) -> CharacterFolder:
    return CharacterFolder(tmp_path)


def test_a_new_one_gets_a_file_and_a_second_of_its_name_another(folder: CharacterFolder) -> None:
    assert folder.save(CardText(name="Ada / Lovelace!", description="x")) == "Ada Lovelace"
    assert folder.save(CardText(name="Ada / Lovelace!")) == "Ada Lovelace (2)"
    assert [(row.name, row.title) for row in folder.list()] == [("Ada Lovelace", "Ada / Lovelace!"), ("Ada Lovelace (2)", "Ada / Lovelace!")]
    assert folder.save(CardText(name="../../etc/passwd")) == "etc passwd"
    assert folder.save(CardText(name="…")) == "Character"
    assert folder.save(CardText(name="Con")) == "Character Con"
    assert folder.save(CardText(name="長" * 150)) == "長" * 30
    assert (folder.folder / "Ada Lovelace (2).json").is_file()


def test_an_edit_keeps_what_it_does_not_know_and_the_name_of_the_file(folder: CharacterFolder) -> None:
    name = folder.add(json.dumps({"spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "Ada", "odd": {"a": 1}}, "more": 2}).encode())
    assert folder.save(folder.text(name).model_copy(update={"name": "Grace"}), name) == "Ada"
    card = folder.card("Ada")
    assert (card["spec"], card["data"]["name"], card["data"]["odd"], card["more"]) == ("chara_card_v3", "Grace", {"a": 1}, 2)


def test_a_text_file_becomes_a_card_when_it_is_edited(folder: CharacterFolder) -> None:
    (folder.folder / "Bo.yaml").write_text("name: Bo\ncontext: cooks\nmine: 3\n", encoding="utf-8")
    folder.save(folder.text("Bo").model_copy(update={"scenario": "A kitchen."}), "Bo")
    assert [path.name for path in folder.folder.iterdir()] == ["Bo.json"]
    assert (folder.text("Bo").description, folder.text("Bo").scenario, folder.card("Bo")["mine"]) == ("cooks", "A kitchen.", 3)


def test_a_card_in_a_picture_leaves_its_picture(folder: CharacterFolder) -> None:
    name = folder.add(png_file(new_card(CardText(name="Ada")), PICTURE))
    assert folder.picture(name) == PICTURE
    assert folder.list()[0].picture > 0
    folder.set_picture(name, None)
    assert folder.picture(name) is None
    with pytest.raises(InvalidRequest, match="ends too early"):
        folder.set_picture(name, PICTURE[:-3])
    with pytest.raises(NotFound):
        folder.set_picture("Nobody", PICTURE)


def test_a_deleted_one_comes_back_with_its_picture(folder: CharacterFolder) -> None:
    name = folder.add(png_file(new_card(CardText(name="Ada")), PICTURE))
    mark = folder.delete(name)
    assert folder.list() == ()
    with pytest.raises(NotFound, match="Choose one from the list"):
        folder.text(name)
    folder.save(CardText(name="Ada"))
    with pytest.raises(Conflict, match="again"):
        folder.restore(mark)
    second = folder.delete("Ada")
    assert folder.restore(mark) == "Ada"
    assert folder.picture("Ada") == PICTURE
    with pytest.raises(NotFound, match="bin"):
        folder.restore(mark)
    with pytest.raises(Conflict):
        folder.restore(second)


def test_the_bin_forgets_after_its_time(folder: CharacterFolder) -> None:
    old = folder.folder / BIN / str(int((time.time() - KEPT_S - 60) * 1e9))
    old.mkdir(parents=True)
    (old / "Old.json").write_bytes(json_file(new_card(CardText(name="Old")), "v2"))
    folder.save(CardText(name="Ada"))
    mark = folder.delete("Ada")
    assert [path.name for path in (folder.folder / BIN).iterdir()] == [mark]


def test_files_that_change_and_broken_ones(folder: CharacterFolder) -> None:
    path = folder.folder / "Bo.yaml"
    path.write_text("name: Bo\n", encoding="utf-8")
    assert folder.text("Bo").name == "Bo"
    path.write_text("name: Bobo\n", encoding="utf-8")
    assert folder.text("Bo").name == "Bobo"
    path.write_text("name: [", encoding="utf-8")
    row = folder.list()[0]
    assert row.name == "Bo"
    assert row.problem.startswith("Bo.yaml: ")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "con", "x\0", ".hidden", "", "y" * 300])
def test_no_name_leaves_the_folder(folder: CharacterFolder, name: str) -> None:
    for verb in (folder.card, folder.text, folder.picture, folder.delete, lambda name: folder.set_picture(name, PICTURE), folder.restore):
        with pytest.raises((InvalidRequest, NotFound)):
            verb(name)


def test_a_link_out_of_the_folder_is_refused(folder: CharacterFolder, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "card.json"
    outside.write_bytes(json_file(new_card(CardText(name="Out")), "v2"))
    (folder.folder / "Out.json").symlink_to(outside)
    with pytest.raises(InvalidRequest, match="outside its folder"):
        folder.text("Out")


def test_those_that_ship_can_be_used(root: Path) -> None:
    shipped = CharacterFolder(root / "characters")
    rows = {row.name: row for row in shipped.list()}
    assert {"Assistant", "Example"} <= set(rows)
    assert not any(row.problem for row in rows.values())
    assert len(shipped.text("Example").greetings) == 2
    assert len(shipped.card("Example")["data"]["character_book"]["entries"]) == 2
