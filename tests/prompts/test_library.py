"""Library: prompt templates as files, and the template a model brings."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest, NotFound
from modules.core.files import dump_yaml
from modules.prompts.library import (
    MAX_TEMPLATE_BYTES,
    TemplateLibrary,
    gguf_template,
    gguf_templates,
    own_template,
    own_templates,
    read_template,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def library(tmp_path: Path) -> TemplateLibrary:
    return TemplateLibrary(tmp_path)


class TestLibrary:
    def test_save_list_read_delete(self, library: TemplateLibrary) -> None:
        text = "{{ 'ä\\n' }}  \n\t{% if x %}\r\n# no comment: {{ y }}\n{% endif %}\n"
        library.save("My own", text, description="For me.", stop=["###", "\nYou:"])
        (summary,) = library.list()
        assert (summary.name, summary.description, summary.problem, summary.kind) == ("My own", "For me.", "", "own")
        source = library.read("My own")
        assert (source.text, source.stop, source.bos_token) == (text, ("###", "\nYou:"), "")
        assert "My own" in source.origin
        library.save("My own", "b")
        assert library.read("My own").text == "b"
        library.delete("My own")
        assert library.list() == ()
        with pytest.raises(NotFound, match="My own"):
            library.read("My own")
        with pytest.raises(NotFound):
            library.delete("My own")

    def test_a_bare_jinja_file_is_a_template_and_yields_to_a_saved_one(self, library: TemplateLibrary) -> None:
        (library.folder / "plain.jinja").write_text("a")
        assert library.read("plain").text == "a"
        library.save("plain", "b")
        assert library.read("plain").text == "b"
        assert (library.folder / "plain.jinja").read_text() == "a"

    def test_an_own_one_stands_before_a_shipped_one_until_it_is_deleted(self, library: TemplateLibrary) -> None:
        (library.folder / "ChatML.yaml").write_text("description: As it came.\ntemplate: shipped\n")
        shipped = library.find("ChatML")
        assert (shipped.kind, shipped.source.text, shipped.description) == ("shipped", "shipped", "As it came.")
        library.save("ChatML", "mine", description="As I like it.")
        (summary,) = library.list()
        assert (summary.kind, summary.description) == ("changed", "As I like it.")
        changed = library.find("ChatML")
        assert (changed.source.text, changed.stamp != shipped.stamp) == ("mine", True)
        assert "mine" in library.own_file("ChatML")
        library.delete("ChatML")
        assert library.find("ChatML") == shipped
        for act in (library.delete, library.own_file):
            with pytest.raises(NotFound, match="comes with Paddock"):
                act("ChatML")
        assert (library.folder / "ChatML.yaml").is_file()

    def test_a_broken_own_one_can_be_deleted(self, library: TemplateLibrary) -> None:
        (library.folder / "own").mkdir()
        (library.folder / "own" / "bad.yaml").write_text("template: {\n")
        assert [(row.name, row.kind, bool(row.problem)) for row in library.list()] == [("bad", "own", True)]
        library.delete("bad")
        assert library.list() == ()

    def test_a_file_handed_in_is_read_by_its_ending(self) -> None:
        source, description = read_template("description: For me.\ninstruction_template: '{{ x }}'\nstop: ['##']\n", "theirs.yaml")
        assert (source.text, source.stop, description) == ("{{ x }}", ("##",), "For me.")
        assert read_template("{{ y }}", "bare.jinja")[0].text == "{{ y }}"
        with pytest.raises(InvalidRequest, match=r"theirs\.yaml is not valid YAML"):
            read_template("{", "theirs.yaml")

    def test_the_key_of_other_programs_is_read(self, library: TemplateLibrary) -> None:
        (library.folder / "old.yaml").write_text("instruction_template: |-\n  {{ messages }}\n")
        assert library.read("old").text == "{{ messages }}"

    def test_a_changed_file_is_read_again(self, library: TemplateLibrary) -> None:
        path = library.folder / "a.yaml"
        path.write_text("template: one\n")
        first = library.read("a")
        assert library.read("a") is first
        path.write_text("template: two\n")
        os.utime(path, ns=(1, 1))
        assert library.read("a").text == "two"

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("- a\n", "keys template"),
            ("description: x\n", "no text"),
            ("template: [1]\n", "no text"),
            ("template: a\nstop: x\n", "“stop”"),
            ("template: &a x\n", "anchors"),
            ("template: !!python/object:os.system x\n", "tags"),
            ("template: {\n", "not valid YAML"),
            (b"template: \xff\n", "UTF-8"),
        ],
    )
    def test_a_broken_file_is_listed_with_its_problem(self, library: TemplateLibrary, content: str | bytes, part: str) -> None:
        (library.folder / "bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        (library.folder / "good.yaml").write_text("template: x\n")
        bad, good = library.list()
        assert part in bad.problem
        assert not good.problem
        with pytest.raises(InvalidRequest, match=part):
            library.read("bad")

    @pytest.mark.parametrize("name", ["../x", "..\\x", "/etc/x", "C:x", "con", "x\0", "", ".hidden", "a/b", "x" * 300])
    def test_names_stay_in_the_folder(self, library: TemplateLibrary, name: str) -> None:
        for act in (library.read, library.delete, lambda name: library.save(name, "x")):
            with pytest.raises(InvalidRequest):
                act(name)
        assert list(library.folder.iterdir()) == []

    @pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
    def test_a_link_out_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret.yaml").write_text("template: x\n")
        library = TemplateLibrary(tmp_path / "templates")
        library.folder.mkdir()
        (library.folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
        with pytest.raises(InvalidRequest, match="outside"):
            library.read("link")
        assert library.list()[0].problem

    def test_too_large_and_empty(self, library: TemplateLibrary) -> None:
        with pytest.raises(InvalidRequest, match="no text"):
            library.save("a", "  ")
        with pytest.raises(InvalidRequest, match="KiB"):
            library.save("a", "x" * 300_000)
        (library.folder / "b.jinja").write_text("x" * (MAX_TEMPLATE_BYTES + 1))
        with pytest.raises(InvalidRequest, match=r"1,048,577 bytes; the limit is 1,048,576"):
            library.read("b")
        assert [path.name for path in library.folder.iterdir()] == ["b.jinja"]

    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300))
    @settings(max_examples=60, deadline=None)
    def test_any_text_is_kept_or_refused(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        library = TemplateLibrary(tmp_path_factory.mktemp("library"))
        if not text.strip():
            with pytest.raises(InvalidRequest):
                library.save("a", text)
        else:
            assert library.save("a", text).text == text


class TestOwnTemplate:
    def write(self, folder: Path, **values: Any) -> None:
        (folder / "tokenizer_config.json").write_text(json.dumps(values))

    def test_none(self, tmp_path: Path) -> None:
        assert own_template(tmp_path) is None
        self.write(tmp_path, bos_token="<s>")
        assert own_template(tmp_path) is None

    def test_one_text_with_tokens_in_both_forms(self, tmp_path: Path) -> None:
        self.write(tmp_path, chat_template="T", bos_token={"content": "<s>", "lstrip": False}, eos_token="</s>")
        found = own_template(tmp_path)
        assert found is not None
        assert (found.text, found.bos_token, found.eos_token, found.origin) == ("T", "<s>", "</s>", "tokenizer_config.json")

    def test_a_list_prefers_default(self, tmp_path: Path) -> None:
        self.write(tmp_path, chat_template=[{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}], bos_token=None)
        found = own_template(tmp_path)
        assert found is not None
        assert (found.text, found.bos_token) == ("D", "")
        assert own_templates(tmp_path)["rag"].origin == "tokenizer_config.json, “rag”"
        self.write(tmp_path, chat_template=[{"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}, "junk"])
        assert own_templates(tmp_path).keys() == {"tool_use", "rag"}
        assert own_template(tmp_path).text == "R"  # type: ignore[union-attr]

    def test_files_come_before_the_configuration(self, tmp_path: Path) -> None:
        self.write(tmp_path, chat_template="old")
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "older"}))
        (tmp_path / "chat_template.jinja").write_text("new")
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
        assert {name: source.text for name, source in own_templates(tmp_path).items()} == {"default": "new", "tool_use": "tools"}

    def test_the_processor_file_and_the_token_map(self, tmp_path: Path) -> None:
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "T"}))
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<e>"}}))
        found = own_template(tmp_path)
        assert found is not None
        assert (found.text, found.eos_token) == ("T", "<e>")

    @pytest.mark.parametrize(
        ("content", "part"), [("{", "not valid JSON"), ("[]", "JSON object"), ("[" * 100_000, "not valid JSON"), (json.dumps({"chat_template": "x" * 1_100_000}), "the limit is")]
    )
    def test_broken_files_are_told(self, tmp_path: Path, content: str, part: str) -> None:
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(InvalidRequest, match=part):
            own_template(tmp_path)

    def test_a_real_model(self, testdata: Path) -> None:
        folder = testdata / "tokenizers" / "smollm2-135m-instruct"
        found = own_template(folder)
        assert found is not None
        assert (found.origin, found.bos_token, found.eos_token) == ("chat_template.jinja", "<|im_start|>", "<|im_end|>")
        assert own_template(testdata / "tokenizers" / "llama2").origin == "tokenizer_config.json"  # type: ignore[union-attr]
        assert own_template(testdata / "tokenizers" / "gpt2") is None


def test_gguf_metadata() -> None:
    metadata = {
        "general.name": "x", "tokenizer.chat_template": "D", "tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "T",
    }  # fmt: skip
    found = gguf_template(metadata, bos_token="<s>", eos_token="</s>")
    assert found is not None
    assert (found.text, found.bos_token, found.eos_token, found.origin) == ("D", "<s>", "</s>", "GGUF metadata")
    assert gguf_templates(metadata).keys() == {"default", "tool_use"}
    assert gguf_template({"tokenizer.chat_template.rag": "R"}).text == "R"  # type: ignore[union-attr]
    assert gguf_template({"general.name": "x", "tokenizer.chat_template": ""}) is None
    with pytest.raises(InvalidRequest, match="the limit is"):
        gguf_template({"tokenizer.chat_template": "x" * 1_100_000})


def test_a_saved_file_is_readable_yaml(library: TemplateLibrary) -> None:
    library.save("a", "x", stop=["y"])
    assert (library.folder / "own" / "a.yaml").read_text() == dump_yaml({"template": "x", "stop": ["y"]})
