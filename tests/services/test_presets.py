"""Presets: the shipped files, bounds with sentences, and files that are never torn."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import yaml

from modules.core import files
from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.params import GenerationParams
from modules.services.presets import DEFAULT_PRESET, PresetService, params_from

SHIPPED = ("Balanced", "Creative", "Deterministic", "Precise")


@pytest.fixture
def presets(tmp_path: Path) -> PresetService:
    return PresetService(tmp_path)


# ---- shipped -------------------------------------------------------------------------------------------------------


def test_the_shipped_presets_are_there_and_described(root: Path) -> None:
    listed = PresetService(root / "presets").list()
    shipped = {summary.name: summary for summary in listed}
    assert set(SHIPPED) <= set(shipped)
    assert DEFAULT_PRESET in SHIPPED
    for name in SHIPPED:
        assert shipped[name].description
        assert shipped[name].problem == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_holds_only_what_is_not_neutral_in_the_order_of_the_model(root: Path, name: str) -> None:
    written = yaml.safe_load((root / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert next(iter(written)) == "description"
    del written["description"]
    read = PresetService(root / "presets").read(name)
    assert written == read.changed()
    assert list(written) == [field for field in GenerationParams.model_fields if field in written]


def test_deterministic_takes_the_likeliest(root: Path) -> None:
    assert PresetService(root / "presets").read("Deterministic").temperature == 0


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": 9}, ("temperature", "5", "9")),
        ({"temperature": -0.1}, ("temperature", "0", "-0.1")),
        ({"temperature": float("nan")}, ("temperature", "nan")),
        ({"temperature": float("inf")}, ("temperature", "inf")),
        ({"top_p": 0}, ("top_p", "greater than 0")),
        ({"top_k": 1.5}, ("top_k", "1.5")),
        ({"max_tokens": 10**9}, ("max_tokens", "1048576", "1000000000")),
        ({"logit_bias": {5: 101}}, ("logit_bias", "100", "101")),
        ({"sampler_order": ["top_k", "top_k"]}, ("sampler_order", "twice")),
        ({"sampler_order": ["magic"]}, ("sampler_order", "magic")),
        ({"stop": [""]}, ("stop", "1 to 1000")),
        ({"temprature": 1}, ("temprature", "not known")),
        ({"temperature": None}, ("temperature", "None")),
    ],
)
def test_a_value_outside_its_limits_gives_field_limit_and_value(presets: PresetService, values, words) -> None:
    for call in (lambda: params_from(values), lambda: presets.merge("", values), lambda: presets.merge(None, values)):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert all(word in caught.value.message for word in words), caught.value.message
        assert caught.value.details["field"] == next(iter(values))


def test_merging_puts_the_given_values_over_the_preset(presets: PresetService) -> None:
    presets.save("mine", params_from({"temperature": 0.5, "top_k": 7, "logit_bias": {3: 1.5}}))
    merged = presets.merge("mine", {"temperature": 1.0, "min_p": 0.1})
    assert merged.changed() == {"top_k": 7, "min_p": 0.1, "logit_bias": {"3": 1.5}}, "1.0 is neutral and still replaces 0.5"
    assert presets.merge("mine", {}) == presets.read("mine")
    assert presets.merge("", {}) == presets.merge(None, {}) == presets.neutral() == GenerationParams()
    presets.save("shaped", GenerationParams(regex="a+", top_k=7))
    assert presets.merge("shaped", {"json_schema": {"type": "null"}}).changed() == {"top_k": 7, "json_schema": '{"type":"null"}'}
    assert presets.merge("shaped", {"top_k": 8}).changed() == {"top_k": 8, "regex": "a+"}
    with pytest.raises(NotFound, match="no preset “absent”"):
        presets.merge("absent", {})


# ---- files ---------------------------------------------------------------------------------------------------------


def test_every_field_comes_back_as_it_was_saved(presets: PresetService) -> None:
    params = params_from({
        "max_tokens": 100, "temperature": 0.7, "dry_sequence_breakers": ["\n", "“"], "logit_bias": {1: -100, 2: 3.5}, "seed": 2**64 - 1,
        "sampler_order": ["min_p", "temperature"], "stop": ["</s>", "\n\nUser:", "ü"], "ban_eos": True, "banned_tokens": [4, 5],
    })  # fmt: skip
    assert presets.save(" My preset (2) ", params, description="For  tests\n of mine") == "My preset (2)"
    assert presets.read("My preset (2)") == params
    assert [(line.name, line.description) for line in presets.list()] == [("My preset (2)", "For tests of mine")]


def test_an_existing_preset_is_replaced_only_when_asked(presets: PresetService) -> None:
    presets.save("mine", params_from({"top_k": 1}), description="keeps to one")
    with pytest.raises(Conflict, match="already a preset “mine”"):
        presets.save("mine", params_from({"top_k": 2}))
    assert presets.read("mine").top_k == 1
    presets.save("mine", params_from({"top_k": 2}), overwrite=True)
    assert presets.read("mine").top_k == 2
    assert presets.list()[0].description == "keeps to one"
    presets.save("mine", params_from({}), overwrite=True, description="")
    assert presets.list()[0].description == ""
    assert presets.read("mine") == presets.neutral()


def test_a_deleted_preset_is_gone(presets: PresetService) -> None:
    presets.save("mine", params_from({"top_k": 1}))
    presets.delete("mine")
    assert presets.list() == ()
    for call in (presets.read, presets.delete):
        with pytest.raises(NotFound):
            call("mine")


def test_a_file_changed_by_hand_is_read_again(presets: PresetService, tmp_path: Path) -> None:
    presets.save("mine", params_from({"top_k": 1}))
    assert presets.read("mine").top_k == 1
    (tmp_path / "mine.yaml").write_text("top_k: 22\n", encoding="utf-8")
    assert presets.read("mine").top_k == 22
    (tmp_path / "mine.yaml").unlink()
    with pytest.raises(NotFound):
        presets.read("mine")


def test_an_unchanged_file_is_read_once(presets: PresetService, monkeypatch: pytest.MonkeyPatch) -> None:
    presets.save("mine", params_from({"top_k": 1}))
    first = presets.read("mine")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("read again"))
    assert presets.read("mine") is first


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("temperature: 9", ("broken.yaml", "temperature", "5", "9")),
        ("tempratur: 1", ("broken.yaml", "tempratur", "not known")),
        ("- a\n- b", ("broken.yaml", "name: value")),
        ("just text", ("broken.yaml", "name: value")),
        ("a: [", ("broken.yaml", "not valid YAML")),
        ("a: &x 1\nb: *x", ("broken.yaml", "anchors")),
        ("a: !!python/object:os.system x", ("broken.yaml", "tags")),
        ("description: " + "x" * 400, ("broken.yaml", "400", "300")),
        ("stop: [" + "a, " * 100_000 + "]", ("broken.yaml", "256 KiB")),
        (b"\xff\xfe\x00", ("broken.yaml", "UTF-8")),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_hides_no_other(presets: PresetService, tmp_path: Path, content, words) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "broken.yaml").write_bytes(raw)
    presets.save("good", params_from({"top_k": 1}))
    with pytest.raises(InvalidRequest) as caught:
        presets.read("broken")
    assert all(word in caught.value.message for word in words), caught.value.message
    broken, good = presets.list()
    assert broken.problem == caught.value.message
    assert good.problem == ""


def test_an_empty_file_is_neutral(presets: PresetService, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n", encoding="utf-8")
    assert presets.read("empty") == presets.neutral()


@pytest.mark.parametrize("name", ["../x", "..\\x", "/etc/passwd", "C:x", "con", "x\0", "%2e%2e/x", "x" * 300, "", ".hidden", "a/b", "x."])
def test_a_name_that_leaves_the_folder_is_refused_by_every_verb(presets: PresetService, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.parent.rglob("*"))
    for call in (
        lambda: presets.read(name),
        lambda: presets.save(name, params_from({})),
        lambda: presets.save(name, params_from({}), overwrite=True),
        lambda: presets.delete(name),
    ):
        with pytest.raises(InvalidRequest):
            call()
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs symbolic links")
def test_a_link_out_of_the_folder_is_refused(presets: PresetService, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.yaml"
    outside.write_text("top_k: 1\n", encoding="utf-8")
    (tmp_path / "link.yaml").symlink_to(outside)
    for call in (lambda: presets.read("link"), lambda: presets.delete("link"), lambda: presets.save("link", params_from({}), overwrite=True)):
        with pytest.raises(InvalidRequest):
            call()
    assert outside.read_text(encoding="utf-8") == "top_k: 1\n"
    assert presets.list()[0].problem


def test_a_full_disk_leaves_the_old_preset_whole(presets: PresetService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets.save("mine", params_from({"top_k": 1}))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(AppError, match="old one is intact"):
        presets.save("mine", params_from({"top_k": 2}), overwrite=True)
    monkeypatch.undo()
    assert presets.read("mine").top_k == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_reader_never_sees_half_a_preset(presets: PresetService, tmp_path: Path) -> None:
    """Replaced again and again while it is read: always one or the other, whole."""
    one, two = params_from({"stop": ["a" * 900] * 10}), params_from({"stop": ["b" * 900] * 20})
    presets.save("mine", one)
    done = threading.Event()

    def replace() -> None:
        for turn in range(15):
            presets.save("mine", (one, two)[turn % 2], overwrite=True)
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    reads = 0
    while not done.is_set() or not reads:
        assert PresetService(tmp_path).read("mine") in (one, two)
        reads += 1
    thread.join()
