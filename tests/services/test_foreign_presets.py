"""Presets of TextGen: what means the same is taken over, what has no place here is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import InvalidRequest
from modules.core.params import DEFAULT_ORDER
from modules.services.foreign_presets import ReadPreset, read_foreign
from modules.services.presets import PresetService


def read(text: str) -> ReadPreset:
    return read_foreign(text, "theirs.yaml")


def test_what_means_the_same_is_taken_over() -> None:
    params, left_out = read("temperature: 0.98\ntop_p: 0.37\ntop_k: 100\nrepetition_penalty: 1.18\nrepetition_penalty_range: 512\ntemperature_last: true\n")
    assert params.changed() == {"temperature": 0.98, "top_p": 0.37, "top_k": 100, "repetition_penalty": 1.18, "penalty_range": 512}
    assert left_out == ()


def test_the_temperature_acts_where_it_acted_there() -> None:
    assert read("temperature: 1.5\nmin_p: 0.1\n").params.sampler_order[:4] == ("penalties", "dry", "no_repeat", "temperature")
    assert read("temperature: 1.5\nmin_p: 0.1\ntemperature_last: true\n").params.sampler_order == DEFAULT_ORDER
    assert read("min_p: 0.1\n").params.sampler_order == DEFAULT_ORDER
    order = read("sampler_priority: |\n  temperature\n  quadratic_sampling\n  repetition_penalty\n  frequency_penalty\n  min_p\n").params.sampler_order
    assert order[:4] == ("temperature", "smoothing", "penalties", "min_p")
    assert sorted(order) == sorted(DEFAULT_ORDER)
    assert read("smoothing_factor: 0.3\n").params.sampler_order[3:6] == ("temperature", "smoothing", "top_n_sigma")
    assert read("smoothing_factor: 0.3\ntemperature: 2\ntemperature_last: true\n").params.sampler_order == DEFAULT_ORDER


def test_values_that_are_written_otherwise() -> None:
    params = read("dynamic_temperature: true\ndynatemp_low: 0.5\ndynatemp_high: 1.5\ndynatemp_exponent: 2\ndry_multiplier: 0.8\ndry_sequence_breakers: '\"\\n\", \":\"'\nseed: -1\n").params
    assert (params.temperature, params.dynamic_temperature_range, params.dynamic_temperature_exponent) == (1.0, 0.5, 2.0)
    assert (params.dry_multiplier, params.dry_sequence_breakers, params.seed) == (0.8, ("\n", ":"), None)
    assert read("do_sample: false\ntop_p: 0.9\nseed: 7\n").params.changed() == {"temperature": 0.0, "top_p": 0.9, "seed": 7}
    kept = read("mirostat_mode: 1\nsmoothing_factor: 0.2\nsmoothing_curve: 2\nno_repeat_ngram_size: 3\ntemperature_last: true\n")
    assert kept.params.changed() == {"mirostat_mode": 1, "smoothing_factor": 0.2, "smoothing_curve": 2.0, "no_repeat_ngram_size": 3}
    assert kept.left_out == ()
    guided = read("guidance_scale: 1.5\nnegative_prompt: Rude.\n")
    assert (guided.params.changed(), guided.left_out) == ({"guidance_scale": 1.5, "negative_prompt": "Rude."}, ())
    assert read("mirostat_mode: 2\nmirostat_tau: 8\n").params.changed() == {"mirostat_mode": 2, "mirostat_tau": 8.0}


def test_what_has_no_place_here_is_told_unless_it_did_nothing() -> None:
    params, left_out = read("temperature: 0.7\ntop_a: 0.3\ntfs: 1\nmagic: 3\n")
    assert params.temperature == 0.7
    assert left_out == ("top_a 0.3", "magic (not known)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n", "one “name: value” a line"),
        ("just words\n", "one “name: value” a line"),
        ("colour: red\nshape: round\n", "nothing that is a sampling value"),
        ("temperature: hot\n", "theirs.yaml: temperature"),
        ("top_p: 7\n", "theirs.yaml: top_p"),
        ("dry_sequence_breakers: '[1'\n", "no list of strings"),
        ("temperature: {\n", "not valid YAML"),
    ],
)
def test_what_is_no_preset_is_refused(text: str, part: str) -> None:
    with pytest.raises(InvalidRequest, match=part):
        read(text)


def test_a_file_is_kept_under_its_name_or_the_next_free_one(tmp_path: Path) -> None:
    presets = PresetService(tmp_path)
    assert presets.import_file("Big O.yaml", "temperature: 0.87\ntop_p: 0.99\ntemperature_last: true\n") == ("Big O", ())
    assert presets.import_file("Big O.yaml", "top_k: 5\ntfs: 0.9\n") == ("Big O (2)", ("tfs 0.9",))
    assert (presets.read("Big O").top_p, presets.read("Big O (2)").top_k) == (0.99, 5)
    ours = (tmp_path / "Big O.yaml").read_text()
    assert presets.import_file("Mine.yml", f"description: For me.\n{ours}") == ("Mine", ())
    assert (presets.read("Mine"), presets.list()[-1].description) == (presets.read("Big O"), "For me.")
    for name, part in (("a.txt", "ends in .yaml"), ("../a.yaml", "cannot be a preset"), ("yaml", "ends in .yaml")):
        with pytest.raises(InvalidRequest, match=part):
            presets.import_file(name, "top_k: 5\n")
