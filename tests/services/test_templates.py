"""Prompt templates as a person keeps them: saved, changed by two, deleted, brought back, moved in and out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.files import read_yaml
from modules.prompts.library import TemplateLibrary
from modules.services.app import App
from modules.services.model_choices import LoadChoice, ModelChoices
from modules.services.template_bin import KEPT_S, TemplateBin
from modules.services.templates import TemplateService


@pytest.fixture
def templates(tmp_path: Path) -> TemplateService:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "ChatML.yaml").write_text("description: As it came.\ntemplate: shipped\nstop: ['##']\n")
    return TemplateService(TemplateLibrary(folder), TemplateBin(tmp_path / "bin"))


async def test_a_new_one_takes_no_name_that_is_there(templates: TemplateService) -> None:
    saved = await templates.save("Mine", "a", description="For me.", stop=["\nYou:"])
    assert (saved.name, saved.kind, saved.source.stop) == ("Mine", "own", ("\nYou:",))
    for name in ("Mine", "ChatML"):
        with pytest.raises(Conflict, match="already a prompt template"):
            await templates.save(name, "b")
    with pytest.raises(InvalidRequest, match="cannot be a template"):
        await templates.save("../x", "b")
    with pytest.raises(InvalidRequest, match="301 characters; the limit is 300"):
        await templates.save("Other", "b", description="x" * 301)


async def test_what_changed_meanwhile_is_not_replaced(templates: TemplateService) -> None:
    first = await templates.save("Mine", "one")
    second = await templates.save("Mine", "two or three", stamp=first.stamp)
    with pytest.raises(Conflict, match="changed meanwhile"):
        await templates.save("Mine", "three", stamp=first.stamp)
    assert (await templates.find("Mine")).source.text == "two or three"
    assert (await templates.save("Mine", "four", stamp=second.stamp)).source.text == "four"


async def test_a_shipped_one_is_changed_and_reset(templates: TemplateService) -> None:
    shipped = await templates.find("ChatML")
    changed = await templates.save("ChatML", "mine", stamp=shipped.stamp)
    assert changed.kind == "changed"
    await templates.delete("ChatML")
    assert await templates.find("ChatML") == shipped
    with pytest.raises(NotFound, match="comes with Paddock"):
        await templates.delete("ChatML")
    (entry,) = await templates.deleted()
    restored = await templates.restore(entry.id)
    assert (restored.kind, restored.source.text) == ("changed", "mine")
    assert await templates.deleted() == ()


async def test_deleted_and_restored_as_it_was(templates: TemplateService) -> None:
    await templates.save("Mine", "a\n  b\n", description="For me.", stop=["##", "\nYou:"])
    before = await templates.find("Mine")
    await templates.delete("Mine")
    with pytest.raises(NotFound):
        await templates.find("Mine")
    (entry,) = await templates.deleted()
    await templates.save("Mine", "another")
    with pytest.raises(Conflict, match="another prompt template “Mine” now"):
        await templates.restore(entry.id)
    await templates.delete("Mine")
    restored = await templates.restore(entry.id)
    assert (restored.source, restored.description, restored.kind) == (before.source, before.description, before.kind)
    (other,) = await templates.deleted()
    await templates.discard(other.id)
    for act in (templates.restore, templates.discard):
        with pytest.raises(NotFound, match="no longer in the bin"):
            await act(other.id)
        with pytest.raises(NotFound, match="no longer in the bin"):
            await act("../../etc/passwd")


async def test_a_broken_own_file_may_be_replaced(templates: TemplateService, tmp_path: Path) -> None:
    (tmp_path / "templates" / "own").mkdir()
    (tmp_path / "templates" / "own" / "Bad.yaml").write_text("template: {\n")
    assert (await templates.save("Bad", "good")).source.text == "good"


async def test_the_bin_forgets_after_thirty_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted = TemplateBin(tmp_path)
    old = deleted.keep("Old", "template: a\n")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + KEPT_S + 5)
    new = deleted.keep("New", "template: b\n")
    assert deleted.entries() == (new,)
    with pytest.raises(NotFound):
        deleted.find(old.id)
    (tmp_path / f"{new.id}.json").write_text("{")
    assert deleted.entries() == ()


async def test_exported_and_read_back(templates: TemplateService) -> None:
    template = await templates.save("Mine", "{{ 'ä\\n' }}\n", description="For me.", stop=["##"])
    text = templates.exported(template)
    assert read_yaml(text, "x") == {"description": "For me.", "template": "{{ 'ä\\n' }}\n", "stop": ["##"]}
    source, description = templates.read_file("Mine.yaml", text)
    assert (source.text, source.stop, description) == (template.source.text, ("##",), "For me.")
    assert templates.read_file("theirs.jinja", "{{ x }}")[0].text == "{{ x }}"
    with pytest.raises(InvalidRequest, match=r"choose a file that ends in \.yaml"):
        templates.read_file("picture.png", "x")


def test_the_template_of_a_model_outlives_other_ways_to_load_it(tmp_path: Path) -> None:
    choices = ModelChoices(tmp_path / "models.yaml")
    assert choices.template_of("a.gguf") == ""
    choices.choose_template("a.gguf", "ChatML")
    choices.pin("a.gguf", True)
    choices.remember(LoadChoice("a.gguf", "llama.cpp", {"context_length": 512}))
    assert (choices.template_of("a.gguf"), choices.pinned(), choices.last()) == ("ChatML", {"a.gguf"}, "a.gguf")
    choices.move({"a.gguf": "b.gguf"})
    assert choices.with_template("ChatML") == ("b.gguf",)
    choices.choose_template("b.gguf", "")
    assert (choices.template_of("b.gguf"), choices.of("b.gguf").options, choices.pinned()) == ("", {"context_length": 512}, {"b.gguf"})


async def test_the_settings_name_one_for_models_that_have_none_chosen(start_app: Callable[..., App]) -> None:
    assert start_app().models.template_of("one.gguf") == ""
    app = start_app(prompt_template="ChatML")
    assert app.models.template_of("one.gguf") == "ChatML"
    await app.models.choose_template("one.gguf", "Plain")
    assert app.models.template_of("one.gguf") == "Plain"
