"""Fields that TextGen's clients send: by our names where they mean something here, refused where leaving them out would change the text."""

from __future__ import annotations

from typing import Any

import pytest

from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.errors import InvalidRequest
from modules.core.params import DEFAULT_ORDER

MESSAGES = [{"role": "user", "content": "Hello"}]
# As programs send it that were written for TextGen: all at what does nothing, or nearly
USUAL: dict[str, Any] = {
    "mode": "instruct", "preset": "", "max_tokens": 100, "temperature": 0.7, "dynamic_temperature": False, "dynatemp_low": 1, "dynatemp_high": 1, "smoothing_factor": 0,
    "top_p": 0.9, "top_k": 20, "tfs": 1, "top_a": 0, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "encoder_repetition_penalty": 1, "penalty_alpha": 0, "seed": -1,
    "mirostat_mode": 0, "do_sample": True, "ban_eos_token": False, "skip_special_tokens": True, "add_bos_token": True, "truncation_length": 2048, "custom_token_bans": "",
    "repetition_penalty_range": 1024, "grammar_string": "", "auto_max_new_tokens": False, "temperature_last": False, "prompt_lookup_num_tokens": 0, "character": "",
}  # fmt: skip


def test_what_programs_usually_send_is_taken() -> None:
    given = ChatRequest.model_validate({**USUAL, "messages": MESSAGES}).given()
    told = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "context_tokens": 2048, "penalty_range": 1024, "ban_eos": False}
    assert {name: given[name] for name in told} == told
    assert "seed" not in given and "sampler_order" not in given and not given.get("grammar")


@pytest.mark.parametrize(
    ("sent", "given"),
    [
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0}),
        ({"custom_token_bans": "5, 7"}, {"banned_tokens": (5, 7)}),
        ({"skip_special_tokens": False}, {"show_special_tokens": True}),
        ({"grammar_string": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 1.5}, {"temperature": 1.0, "dynamic_temperature_range": 0.5}),
        ({"penalty_range": 3, "repetition_penalty_range": 9}, {"penalty_range": 3}),
        ({"seed": 4, "typical": 0.5}, {"seed": 4, "typical_p": 0.5}),
    ],
)
def test_fields_mean_what_they_mean_there(sent: dict[str, Any], given: dict[str, Any]) -> None:
    found = CompletionRequest.model_validate({"prompt": "x", **sent}).given()
    assert {name: found[name] for name in given} == given


def test_their_order_of_samplers_is_kept() -> None:
    asked = {"prompt": "x", "sampler_priority": "temperature\ntop_k\ntop_p"}
    order = CompletionRequest.model_validate(asked).given()["sampler_order"]
    assert order[:3] == ("temperature", "top_k", "top_p") and set(order) == set(DEFAULT_ORDER)
    assert CompletionRequest.model_validate({**asked, "temperature_last": True}).given()["sampler_order"][-2:] == ("temperature", "smoothing")
    assert "sampler_order" not in CompletionRequest.model_validate({"prompt": "x", "temperature": 0.5}).given(), "nobody else's order is touched"


def test_other_fields_of_the_body_have_their_names_here() -> None:
    chat = ChatRequest.model_validate({"messages": MESSAGES, "instruction_template": "Alpaca", "continue_": True, "max_new_tokens": 9})
    assert (chat.prompt_template, chat.continue_final_message, chat.max_tokens) == ("Alpaca", True, 9)
    assert CompletionRequest.model_validate({"prompt": "x", "add_bos_token": False}).add_bos is False


def test_who_speaks_becomes_settings_of_a_conversation() -> None:
    assert ChatRequest.model_validate({"messages": MESSAGES, "mode": "chat", "context": ""}).role() is None
    assert ChatRequest.model_validate({"messages": MESSAGES, "context": "nothing in this mode"}).role() is None
    role = ChatRequest.model_validate({"messages": MESSAGES, "character": "Example", "mode": "chat-instruct", "chat_instruct_command": "Go on: {{prompt}}"}).role()
    assert role is not None and (role.character, role.mode, role.command) == ("Example", "chat-instruct", "Go on: {{prompt}}")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"tfs": 0.9}, "tfs: there is no such sampler"),
        ({"top_a": 0.1}, "top_a: "),
        ({"mode": "chat", "context": "Ann is old."}, "context: who speaks is said by character"),
        ({"instruction_template_str": "{{ messages }}"}, "chosen by its name"),
    ],
)
def test_what_would_change_the_text_and_has_no_place_is_refused(sent: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        ChatRequest.model_validate({"messages": MESSAGES, **sent})
