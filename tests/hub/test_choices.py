"""A repository becomes choices: whole sets only, what belongs together together, what is refused named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest, NotFound
from modules.hub.choices import Choice, Choices, group, named_file
from modules.hub.names import RepoRef
from modules.hub.repository import RemoteFile

SMALL = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md", "merges.txt"]


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, 10 + number, sha256="0" * 64) for number, path in enumerate(paths)]


def taken(choice: Choice) -> set[str]:
    return {file.path for file in choice.files}


def one(found: Choices) -> Choice:
    assert len(found.choices) == 1, [choice.label for choice in found.choices]
    return found.choices[0]


def reasons(found: Choices) -> dict[str, str]:
    return {row.path: row.reason for row in found.refused}


def test_each_gguf_is_a_choice_and_parts_are_one() -> None:
    parts = [f"big/M-Q8_0-0000{number}-of-00003.gguf" for number in (2, 1, 3)]
    found = group(files("M-Q4_K_M.gguf", "M-Q2_K.gguf", *parts, "README.md", ".gitattributes"))
    assert [(choice.label, choice.quantization) for choice in found.choices] == [("M-Q4_K_M", "Q4_K_M"), ("M-Q2_K", "Q2_K"), ("big/M-Q8_0", "Q8_0")]
    whole = found.choices[-1]
    assert [file.path for file in whole.files] == sorted(parts)
    assert whole.total_bytes == sum(file.size for file in whole.files)
    assert not whole.problem
    assert found.refused == ()


def test_a_missing_part_is_a_problem_with_its_name() -> None:
    choice = one(group(files("M-Q8_0-00001-of-00003.gguf", "M-Q8_0-00003-of-00003.gguf")))
    assert "M-Q8_0-00002-of-00003.gguf" in choice.problem


def test_projectors_are_add_ons_and_importance_matrices_hidden() -> None:
    found = group(files("imatrix.gguf", "M.imatrix.gguf", "imatrix.dat", "M-imatrix-Q4_K_M.gguf", "mmproj-M-F16.gguf"))
    assert [(choice.label, choice.is_addon) for choice in found.choices] == [("M-imatrix-Q4_K_M", False), ("mmproj-M-F16", True)]


def test_a_folder_takes_the_small_files_and_no_pickles() -> None:
    bad = ["pytorch_model.bin", "modeling_evil.py", "optimizer.pt", "model.onnx", "weights.zip"]
    found = group(files("model.safetensors", *SMALL, *bad, "additional_chat_templates/tools.jinja", "logo.png"))
    choice = one(found)
    assert choice.kind == "folder"
    assert taken(choice) == {"model.safetensors", *SMALL, "additional_chat_templates/tools.jinja"}
    assert set(reasons(found)) == set(bad)
    assert "any program" in reasons(found)["pytorch_model.bin"]


def test_shards_go_with_their_index_and_other_weights_stay_behind() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    everything = files(*shards, index, "consolidated.safetensors", "consolidated.safetensors.index.json", "config.json", "tokenizer.json")
    choice = one(group(everything))
    assert taken(choice) == {*shards, index, "config.json", "tokenizer.json"}
    assert any("consolidated.safetensors" in note for note in choice.notes)
    assert "model-00002-of-00002" in one(group([file for file in everything if file.path != shards[1]])).problem


def test_an_index_says_which_weights_belong_to_the_model() -> None:
    names = ["model-a.safetensors", "model-b.safetensors", "model.safetensors.index.json", "config.json", "vocab.json"]
    index = {"model.safetensors.index.json": ["model-a.safetensors", "model-b.safetensors"]}
    assert {"model-a.safetensors", "model-b.safetensors"} <= taken(one(group(files(*names), index)))
    assert "model-b" in one(group(files(*[name for name in names if name != "model-b.safetensors"]), index)).problem


def test_folders_of_a_repository_are_choices_of_their_own() -> None:
    found = group(files("fp16/model.safetensors", "fp16/config.json", "model.safetensors", "config.json", "tokenizer.model"))
    assert {choice.label: len(choice.files) for choice in found.choices} == {"fp16": 2, "safetensors": 3}


def test_adapters_are_found_and_pickled_ones_refused() -> None:
    found = group(files("adapter_config.json", "adapter_model.safetensors", "README.md", "checkpoint-5/adapter_config.json", "checkpoint-5/adapter_model.bin"))
    kinds = {choice.label: (choice.kind, bool(choice.problem)) for choice in found.choices}
    assert kinds == {"LoRA adapter": ("adapter", False), "checkpoint-5": ("adapter", True)}


def test_unsafe_names_are_named_and_never_offered() -> None:
    found = group(files("../../evil.gguf", "con.gguf", "sub/paddock.json", "ok.gguf"))
    assert [choice.label for choice in found.choices] == ["ok"]
    assert set(reasons(found)) == {"../../evil.gguf", "con.gguf", "sub/paddock.json"}


def test_a_file_asked_for_by_name_is_given_with_a_warning() -> None:
    choice = named_file(files("a/pytorch_model.bin"), "a/pytorch_model.bin")
    assert choice.kind == "file"
    assert "any program" in choice.notes[0]
    with pytest.raises(NotFound):
        named_file(files("a"), "b")
    with pytest.raises(InvalidRequest):
        named_file(files("../b"), "../b")


def test_a_link_or_a_tag_picks_its_choice() -> None:
    found = group(files("M-Q4_K_M.gguf", "M-Q8_0.gguf", "mmproj-F16.gguf"))
    for ref in (RepoRef("o/n", path="M-Q8_0.gguf"), RepoRef("o/n", quantization="Q8_0")):
        picked = found.pick(ref)
        assert picked is not None
        assert picked.label == "M-Q8_0"
    assert found.pick(RepoRef("o/n")) is None
    with pytest.raises(NotFound, match="Q4_K_M"):
        found.pick(RepoRef("o/n", quantization="Q5_K_M"))


paths = st.lists(
    st.sampled_from(["a", "b-Q4_K_M", "model", "model-00001-of-00002", "model-00002-of-00002", "adapter_model", "adapter_config", "../x", "config"]).flatmap(
        lambda stem: st.sampled_from([".gguf", ".safetensors", ".json", ".bin", ".py", ".safetensors.index.json", ".txt"]).map(lambda suffix: stem + suffix)
    ),
    max_size=12,
    unique=True,
)


@given(paths)
def test_no_choice_has_a_refused_or_foreign_file_and_none_is_in_two_models(names: list[str]) -> None:
    found = group(files(*names))
    refused = set(reasons(found))
    for choice in found.choices:
        assert taken(choice) <= set(names) - refused
    weights = [file.path for choice in found.choices for file in choice.files if file.path.endswith((".gguf", ".safetensors"))]
    assert len(weights) == len(set(weights))
