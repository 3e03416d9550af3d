"""Presets of TextGen and of programs that write like it: one YAML file of sampling values under their own names.

What has the same meaning here is taken over. What has none is left out, and told where it was more than its neutral value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from modules.core.errors import InvalidRequest
from modules.core.files import read_yaml
from modules.core.params import DEFAULT_ORDER, GenerationParams, SamplerName
from modules.core.settings import validation_sentence


class ReadPreset(NamedTuple):
    """What a file holds in our terms, and what of it has no place here, in words."""

    params: GenerationParams
    left_out: tuple[str, ...]


SAME: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p", "typical": "typical_p",
        "top_n_sigma": "top_n_sigma", "nsigma": "top_n_sigma", "xtc_threshold": "xtc_threshold", "xtc_probability": "xtc_probability",
        "dry_multiplier": "dry_multiplier", "dry_base": "dry_base", "dry_allowed_length": "dry_allowed_length", "dry_penalty_last_n": "dry_range",
        "repetition_penalty": "repetition_penalty", "rep_pen": "repetition_penalty", "frequency_penalty": "frequency_penalty", "freq_pen": "frequency_penalty",
        "presence_penalty": "presence_penalty", "presence_pen": "presence_penalty", "repetition_penalty_range": "penalty_range",
        "rep_pen_range": "penalty_range", "mirostat_tau": "mirostat_tau", "mirostat_eta": "mirostat_eta", "max_new_tokens": "max_tokens",
        "ban_eos_token": "ban_eos", "smoothing_factor": "smoothing_factor", "smoothing_curve": "smoothing_curve",
        "no_repeat_ngram_size": "no_repeat_ngram_size", "guidance_scale": "guidance_scale", "negative_prompt": "negative_prompt",
    }
)  # fmt: skip
# Names without a place here, each with the value at which it does nothing.
NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "tfs": 1, "top_a": 0, "epsilon_cutoff": 0, "eta_cutoff": 0, "adaptive_target": 0, "adaptive_decay": 0.9,
        "encoder_repetition_penalty": 1, "penalty_alpha": 0, "num_beams": 1, "length_penalty": 1,
        "min_length": 0, "early_stopping": False,
    }
)  # fmt: skip
ORDER_NAMES: Mapping[str, str] = MappingProxyType(
    {"repetition_penalty": "penalties", "presence_penalty": "penalties", "frequency_penalty": "penalties", "dynamic_temperature": "temperature",
     "quadratic_sampling": "smoothing", "no_repeat_ngram": "no_repeat"}
)
LONGEST_ORDER = 10_000  # characters; what stands behind them names no sampler that was not named
BEFORE_CUTS: tuple[SamplerName, ...] = ("penalties", "dry", "no_repeat", "temperature", "smoothing")  # there, unless a preset says otherwise
LAST = ("temperature", "smoothing")  # where the temperature is to be last
APART = ("dynamic_temperature", "dynatemp_low", "dynatemp_high", "dynatemp_exponent", "do_sample", "temperature_last", "sampler_priority", "dry_sequence_breakers", "seed")


def read_foreign(text: str, file_name: str) -> ReadPreset:
    """The parameters of a preset file of TextGen.

    Raises:
        InvalidRequest: it is no such file, or a value is outside the limits here.
    """
    values = read_yaml(text, file_name)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InvalidRequest(f"{file_name} must hold one “name: value” a line.", field="file")
    ours = {SAME[key]: value for key, value in values.items() if key in SAME}
    for reader in (read_dynamic_temperature, _mirostat, read_order, _breakers, _greedy, _seed):
        reader(values, ours)
    known = {*SAME, *NEUTRAL, *APART, "mirostat_mode"}
    lost = [f"{key} {value}" for key, value in values.items() if key in NEUTRAL and value != NEUTRAL[key]]
    lost += [f"{key} (not known)" for key in values if key not in known]
    if len(lost) == len(values) and values:
        raise InvalidRequest(f"{file_name} holds nothing that is a sampling value here; choose a preset file of TextGen (YAML).", field="file")
    try:
        return ReadPreset(GenerationParams.model_validate(ours), tuple(lost))
    except ValidationError as error:
        raise InvalidRequest(f"{file_name}: {validation_sentence(error)}", field="file") from error


def read_dynamic_temperature(values: Mapping[str, Any], ours: dict[str, Any]) -> None:
    """Put their temperatures among our values: a lowest and a highest are one temperature and how far it goes to both sides."""
    low, high = values.get("dynatemp_low", 1), values.get("dynatemp_high", 1)
    if values.get("dynamic_temperature") is not True or not all(isinstance(number, int | float) for number in (low, high)):
        return
    ours["temperature"] = (low + high) / 2
    ours["dynamic_temperature_range"] = abs(high - low) / 2
    ours["dynamic_temperature_exponent"] = values.get("dynatemp_exponent", 1)


def _mirostat(values: Mapping[str, Any], ours: dict[str, Any]) -> None:
    if values.get("mirostat_mode") in (1, 2):
        ours["mirostat_mode"] = values["mirostat_mode"]


def read_order(values: Mapping[str, Any], ours: dict[str, Any]) -> None:
    """Put their order of samplers among our values: their list of samplers, without those that are not here; temperature last is an order too."""
    names = values.get("sampler_priority")
    if isinstance(names, str):
        names = [line.strip() for line in names[:LONGEST_ORDER].replace(",", "\n").splitlines() if line.strip()]
    is_last = values.get("temperature_last") is True
    if isinstance(names, list):
        found = dict.fromkeys(ORDER_NAMES.get(str(name), str(name)) for name in names)
        order = [name for name in found if name in DEFAULT_ORDER]
        order += [name for name in DEFAULT_ORDER if name not in order]
    elif is_last or (ours.get("temperature", 1) in (0, 1) and not ours.get("smoothing_factor")):
        return
    else:  # there the temperature acts before the cuts unless a preset says otherwise
        order = [*BEFORE_CUTS, *(name for name in DEFAULT_ORDER if name not in BEFORE_CUTS)]
    if is_last:
        order = [*(name for name in order if name not in LAST), *(name for name in order if name in LAST)]
    if tuple(order) != DEFAULT_ORDER:
        ours["sampler_order"] = order


def _breakers(values: Mapping[str, Any], ours: dict[str, Any]) -> None:
    """Strings in JSON, with or without the brackets of a list."""
    written = values.get("dry_sequence_breakers")
    if isinstance(written, str):
        try:
            written = json.loads(written if written.lstrip().startswith("[") else f"[{written}]")
        except ValueError as error:
            raise InvalidRequest(f"dry_sequence_breakers is no list of strings: {error}.", field="dry_sequence_breakers") from error
    if isinstance(written, list):
        ours["dry_sequence_breakers"] = written


def _greedy(values: Mapping[str, Any], ours: dict[str, Any]) -> None:
    if values.get("do_sample") is False:
        ours["temperature"] = 0


def _seed(values: Mapping[str, Any], ours: dict[str, Any]) -> None:
    seed = values.get("seed")
    if isinstance(seed, int) and seed >= 0:
        ours["seed"] = seed
