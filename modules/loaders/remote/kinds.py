"""The kinds of servers: how each is recognised, which sampling parameters it takes and under which names.

A server is sent only what its kind is known to act on; the rest is left out, and `left_out` says what that is. Checked against the sources of vLLM,
SGLang, llama.cpp, Ollama and TGI; unknown servers get what OpenAI's own API has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from modules.core.params import DEFAULT_ORDER, GenerationParams
from modules.core.text_shape import SHAPE_FIELDS
from modules.loaders.remote.options import Kind

BASIC = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
ALWAYS = ("max_tokens", "seed", "stop")
REPORTS = ("logprobs", "prompt_logprobs", "prompt_only")  # change no text
MORE = ("top_k", "min_p", "repetition_penalty")
LAST_TOKENS_ALL = 32_768  # our 0 means all; what it means to llama-server differs among its versions, and newer ones refuse -1
NEVER = -100.0  # the lowest bias of OpenAI's API


@dataclass(frozen=True)
class KindSpec:
    """What is known of one kind of server."""

    kind: Kind
    title: str
    owner: str  # what it writes into `owned_by` of its models; empty if that does not tell
    takes: frozenset[str]  # fields of GenerationParams
    says_neutral: bool  # its defaults are others than ours, so that neutral values are sent too
    continues: Mapping[str, Any] | None  # what to send so that the last message is continued; None: it cannot
    template_variables: bool  # takes chat_template_kwargs
    forces_calls: bool  # keeps to a tool_choice that asks for a call
    needs_length: bool  # writes few tokens where a completion names no number


def _takes(*names: str) -> frozenset[str]:
    return frozenset((*BASIC, *ALWAYS, *names))


_CONTINUE: Mapping[str, Any] = MappingProxyType(
    {"continue_final_message": True, "add_generation_prompt": False}
)
_EVERYTHING = frozenset(GenerationParams.model_fields)
_OURS = frozenset({"context_tokens", "deterministic", "drafts", "deadline_s", "guidance_scale", "negative_prompt"})  # what no other server has
_NOT_LLAMA = frozenset({"smoothing_factor", "smoothing_curve", "no_repeat_ngram_size", "show_special_tokens"})
_NAMES_LLAMA = MappingProxyType({"typical_p": "typ_p", "smoothing": "", "no_repeat": ""})  # of samplers, where another one or none

KINDS: tuple[KindSpec, ...] = (
    KindSpec(
        "vllm",
        "vLLM",
        "vllm",
        _takes(*MORE, "logit_bias", "banned_tokens", "ban_eos", "show_special_tokens", "logprobs"),
        True,
        _CONTINUE,
        True,
        True,
        True,
    ),
    KindSpec(
        "sglang",
        "SGLang",
        "sglang",
        _takes(*MORE, "logit_bias", "banned_tokens", "ban_eos", "show_special_tokens", "logprobs"),
        True,
        _CONTINUE,
        True,
        True,
        True,
    ),
    KindSpec(
        "llama-server", "llama-server", "llamacpp", _EVERYTHING - _OURS - _NOT_LLAMA, True, MappingProxyType({}), True, True, False
    ),
    KindSpec("ollama", "Ollama", "library", _takes(), True, None, False, False, False),
    KindSpec("tgi", "TGI", "", _takes("logit_bias", "logprobs"), False, None, False, True, True),
    KindSpec(
        "paddock",
        "Paddock",
        "",
        _EVERYTHING,
        False,
        MappingProxyType({"continue_final_message": True}),
        True,
        True,
        True,
    ),
    KindSpec("openai", "OpenAI-compatible", "", _takes("logit_bias", "logprobs"), False, None, False, True, True),
)


def spec_of(kind: Kind) -> KindSpec:
    """The row of a kind."""
    return next(row for row in KINDS if row.kind == kind)


def recognise(entry: Mapping[str, Any]) -> Kind:
    """The kind of a server from an entry of its list of models."""
    if "loaded" in entry and "quantization" in entry:
        return "paddock"
    owner = str(entry.get("owned_by") or "")
    found = next((row.kind for row in KINDS if row.owner and row.owner == owner), None)
    if found is not None:
        return found
    return "tgi" if owner and owner == entry.get("id") else "openai"


def left_out(kind: Kind) -> tuple[str, ...]:
    """Parameters that a kind of server does not get, in the order of the page."""
    takes = spec_of(kind).takes
    return tuple(name for name in GenerationParams.model_fields if name not in takes and name not in (*REPORTS, *SHAPE_FIELDS))


def sampling(params: GenerationParams, kind: Kind) -> dict[str, Any]:
    """The sampling fields of a request, under the server's names. Length, seed, stop and logprobs are not among them."""
    if kind == "paddock":
        return {name: value for name, value in params.changed().items() if name not in (*ALWAYS, *REPORTS)}
    spec = spec_of(kind)
    changed = params.changed()
    body: dict[str, Any] = {}
    for name in (*BASIC, *MORE):
        if name in spec.takes and (spec.says_neutral or name in changed):
            body[name] = getattr(params, name)
    if kind == "llama-server":
        return body | _llama_server(params, body)
    if "top_k" in body:
        body["top_k"] = params.top_k or -1  # 0 is refused by SGLang
    if "ban_eos" in changed and "ban_eos" in spec.takes:
        body["ignore_eos"] = True
    if "show_special_tokens" in changed and "show_special_tokens" in spec.takes:
        body["skip_special_tokens"] = False
    bias = (
        {str(token_id): value for token_id, value in params.logit_bias.items()}
        if "logit_bias" in spec.takes
        else {}
    )
    bias |= (
        {str(token_id): NEVER for token_id in params.banned_tokens} if "banned_tokens" in spec.takes else {}
    )
    return body | ({"logit_bias": bias} if bias else {})


def _llama_server(params: GenerationParams, body: dict[str, Any]) -> dict[str, Any]:
    """Its own names for what it calls otherwise than we do."""
    del body["repetition_penalty"]
    more: dict[str, Any] = {
        "repeat_penalty": params.repetition_penalty,
        "repeat_last_n": params.penalty_range or LAST_TOKENS_ALL,
        "typical_p": params.typical_p,
        "top_n_sigma": params.top_n_sigma or -1.0,
        "xtc_probability": params.xtc_probability,
        "xtc_threshold": params.xtc_threshold,
        "dynatemp_range": params.dynamic_temperature_range,
        "dynatemp_exponent": params.dynamic_temperature_exponent,
        "dry_multiplier": params.dry_multiplier,
        "dry_base": params.dry_base,
        "dry_allowed_length": params.dry_allowed_length,
        "dry_penalty_last_n": params.dry_range or LAST_TOKENS_ALL,
        "mirostat": params.mirostat_mode,
        "mirostat_tau": params.mirostat_tau,
        "mirostat_eta": params.mirostat_eta,
    }
    if params.sampler_order != DEFAULT_ORDER:
        more["samplers"] = [named for name in params.sampler_order if (named := _NAMES_LLAMA.get(name, name))]
    if params.dry_sequence_breakers:
        more["dry_sequence_breakers"] = list(params.dry_sequence_breakers)
    if params.ban_eos:
        more["ignore_eos"] = True
    bias: list[list[Any]] = [[token_id, value] for token_id, value in params.logit_bias.items()]
    bias += [[token_id, False] for token_id in params.banned_tokens]
    return more | ({"logit_bias": bias} if bias else {})
