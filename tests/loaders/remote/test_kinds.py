"""Each kind of server is recognised, and is sent what it acts on and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from modules.core.messages import Image, Message
from modules.core.params import GenerationParams
from modules.core.text_shape import SHAPE_FIELDS
from modules.loaders.remote.kinds import KINDS, left_out, recognise, sampling, spec_of
from modules.loaders.remote.requests import LENGTH_WITHOUT_LIMIT, Ask

ALL_KINDS = [row.kind for row in KINDS]
OPENAI = {"temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias"}
EVERYTHING = GenerationParams(
    max_tokens=9, context_tokens=700, temperature=0.7, dynamic_temperature_range=0.2, dynamic_temperature_exponent=1.1, top_k=40, top_p=0.9, min_p=0.05, typical_p=0.9,
    top_n_sigma=2, xtc_probability=0.2, xtc_threshold=0.2, dry_multiplier=0.8, dry_base=2, dry_allowed_length=3, dry_range=64,
    dry_sequence_breakers=(";",), repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.2, penalty_range=128, mirostat_mode=2,
    smoothing_factor=0.2, smoothing_curve=2, no_repeat_ngram_size=3, show_special_tokens=True,
    mirostat_tau=4, mirostat_eta=0.2, logit_bias={5: 1.5}, banned_tokens=(6,), ban_eos=True, sampler_order=("top_k", "typical_p", "smoothing", "temperature"), seed=3,
    stop=("END",), deterministic=True, drafts=False, deadline_s=60, guidance_scale=1.5, negative_prompt="Rude.",
)  # fmt: skip


def ask(prompt, **params) -> Ask:
    return Ask(GenerationRequest(prompt=prompt, params=GenerationParams(**params)), "m", 3)


CHAT = ChatPrompt(messages=(Message(role="user", content="Hi"),))


def test_images_are_sent_in_parts_between_the_text():
    message = Message(role="user", content="See ?", images=(Image(kind="webp", data="AAAA", at=4),))
    (sent,) = ask(ChatPrompt(messages=(message,))).body("openai", "m")["messages"]
    assert sent == {"role": "user", "content": [
        {"type": "text", "text": "See "}, {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AAAA"}}, {"type": "text", "text": "?"},
    ]}  # fmt: skip
    assert ask(CHAT).body("openai", "m")["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(("entry", "kind"), [
    ({"id": "m", "owned_by": "vllm", "max_model_len": 9}, "vllm"),
    ({"id": "m", "owned_by": "sglang"}, "sglang"),
    ({"id": "m", "owned_by": "llamacpp", "meta": {}}, "llama-server"),
    ({"id": "m:latest", "owned_by": "library"}, "ollama"),
    ({"id": "m", "owned_by": "m"}, "tgi"),
    ({"id": "m", "owned_by": "local", "loaded": True, "quantization": ""}, "paddock"),
    ({"id": "gpt", "owned_by": "system"}, "openai"),
    ({"id": "m"}, "openai"),
    ({"id": "m", "owned_by": None}, "openai"),
])  # fmt: skip
def test_kinds_are_recognised(entry, kind):
    assert recognise(entry) == kind


def test_an_unknown_server_gets_what_openai_has_and_only_what_was_set():
    assert set(sampling(EVERYTHING, "openai")) == OPENAI
    assert sampling(GenerationParams(), "openai") == {}


def test_vllm_gets_neutral_values_as_its_own_defaults_are_others():
    assert sampling(GenerationParams(), "vllm") == {
        "temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    body = sampling(EVERYTHING, "vllm")
    assert body["logit_bias"] == {"5": 1.5, "6": -100.0}
    assert (body["ignore_eos"], body["top_k"], body["skip_special_tokens"]) == (True, 40, False)
    assert set(body) == {*OPENAI, "top_k", "min_p", "repetition_penalty", "ignore_eos", "skip_special_tokens"}


def test_llama_server_gets_everything_under_its_own_names():
    assert sampling(EVERYTHING, "llama-server") == {
        "temperature": 0.7, "top_p": 0.9, "frequency_penalty": 0.1, "presence_penalty": 0.2, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
        "repeat_last_n": 128, "typical_p": 0.9, "top_n_sigma": 2, "xtc_probability": 0.2, "xtc_threshold": 0.2, "dynatemp_range": 0.2,
        "dynatemp_exponent": 1.1, "dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 3, "dry_penalty_last_n": 64,
        "dry_sequence_breakers": [";"], "mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2, "samplers": ["top_k", "typ_p", "temperature"],
        "ignore_eos": True, "logit_bias": [[5, 1.5], [6, False]],
    }  # fmt: skip
    neutral = sampling(GenerationParams(), "llama-server")
    assert (neutral["top_k"], neutral["min_p"], neutral["repeat_last_n"], neutral["dry_penalty_last_n"]) == (0, 0.0, 32_768, 32_768)
    assert not {"samplers", "ignore_eos", "logit_bias"} & set(neutral)
    assert "dry_sequence_breakers" not in sampling(GenerationParams(dry_sequence_breakers=()), "llama-server")  # it refuses an empty list
    assert ask(CHAT, logprobs=0).body("llama-server", "m")["top_logprobs"] == 1


def test_another_paddock_gets_our_own_names():
    kept = {name: value for name, value in EVERYTHING.changed().items() if name not in ("max_tokens", "seed", "stop")}
    assert sampling(EVERYTHING, "paddock") == kept


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_left_out_is_what_changes_nothing_in_the_body(kind):
    neutral = ask(CHAT).body(kind, "m")
    for name in GenerationParams.model_fields:
        if name in ("logprobs", "prompt_logprobs", "prompt_only", "seed", *SHAPE_FIELDS):
            continue
        more = {"mirostat_mode": 2} if name.startswith("mirostat") and kind != "paddock" else {}
        changed = ask(CHAT, **{name: getattr(EVERYTHING, name)}, **({} if name in more else more)).body(kind, "m")
        same = changed == (ask(CHAT, **more).body(kind, "m") if name not in more else neutral)
        assert same == (name in left_out(kind)), name


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_chat_sends_messages_and_a_text_its_text(kind):
    body = ask(CHAT, stop=["x"], max_tokens=5).body(kind, "their-name")
    assert (body["model"], body["messages"], body["stop"], body["max_tokens"]) == ("their-name", [{"role": "user", "content": "Hi"}], ["x"], 5)
    assert (body["stream"], body["stream_options"], body["seed"]) == (True, {"include_usage": True}, 3)
    text = ask(TextPrompt(text="Once")).body(kind, "m")
    with pytest.raises(InvalidRequest, match="whether a text begins with the token for that"):
        ask(TextPrompt(text="Once", add_bos=False)).body(kind, "m")
    assert text["prompt"] == "Once"
    assert text.get("max_tokens") == (LENGTH_WITHOUT_LIMIT if spec_of(kind).needs_length else None)
    assert ask(TokenPrompt(token_ids=(1, 2))).body(kind, "m")["prompt"] == [1, 2]
    assert "max_tokens" not in ask(CHAT).body(kind, "m")


@given(context_length=st.integers(0, 100_000))
def test_a_text_without_a_length_asks_for_one_that_leaves_room(context_length):
    request = GenerationRequest(prompt=TextPrompt(text="a"))
    length = Ask(request, "m", 0, context_length).body("vllm", "m")["max_tokens"]
    assert 0 < length <= LENGTH_WITHOUT_LIMIT
    assert context_length < 2 or length <= context_length / 2


def test_what_a_kind_cannot_do_is_refused_with_a_sentence():
    unfinished = CHAT.model_copy(update={"continue_final_message": True})
    with pytest.raises(InvalidRequest, match="Ollama cannot continue"):
        ask(unfinished).body("ollama", "m")
    assert ask(unfinished).body("vllm", "m")["add_generation_prompt"] is False
    variables = CHAT.model_copy(update={"template_variables": {"enable_thinking": False}})
    with pytest.raises(InvalidRequest, match="enable_thinking"):
        ask(variables).body("openai", "m")
    assert ask(variables).body("vllm", "m")["chat_template_kwargs"] == {"enable_thinking": False}
    with pytest.raises(InvalidRequest, match="log-probabilities"):
        ask(CHAT, logprobs=2).body("ollama", "m")
    assert ask(CHAT, logprobs=2).body("vllm", "m")["top_logprobs"] == 2


def test_tools_are_sent_with_what_must_be_called():
    tools = tuple({"type": "function", "function": {"name": name}} for name in ("a", "b", "c"))
    with_tools = CHAT.model_copy(update={"tools": tools})
    free = ask(with_tools).body("ollama", "m")
    assert free["tools"] == list(tools)
    assert {"tool_choice", "parallel_tool_calls"}.isdisjoint(free)
    named = ask(with_tools.model_copy(update={"must_call": ("b",), "several_calls": False})).body("vllm", "m")
    assert (named["tool_choice"], named["parallel_tool_calls"]) == ({"type": "function", "function": {"name": "b"}}, False)
    some = ask(with_tools.model_copy(update={"must_call": ("a", "b")})).body("openai", "m")
    assert (some["tool_choice"], some["tools"]) == ("required", list(tools[:2]))
    with pytest.raises(InvalidRequest, match="not known to keep to a tool_choice"):
        ask(with_tools.model_copy(update={"must_call": ("b",)})).body("ollama", "m")


SCHEMA = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}}}
AS_OPENAI = {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}}
SHAPES = {"json_schema": SCHEMA, "grammar": 'root ::= "a"', "regex": "a+", "choices": ("é", 'b"')}
SENT_SHAPES = {  # what each kind gets in a chat; what is not here is refused
    "vllm": {
        "json_schema": AS_OPENAI, "grammar": {"structured_outputs": {"grammar": 'root ::= "a"'}}, "regex": {"structured_outputs": {"regex": "a+"}},
        "choices": {"structured_outputs": {"choice": ["é", 'b"']}},
    },
    "sglang": {"json_schema": AS_OPENAI, "grammar": {"ebnf": 'root ::= "a"'}, "regex": {"regex": "a+"}, "choices": {"regex": '(é|b")'}},
    "llama-server": {
        "json_schema": {"json_schema": SCHEMA}, "grammar": {"grammar": 'root ::= "a"'},
        "choices": {"grammar": 'root ::= "\\U000000E9" | "\\U00000062\\U00000022"'},
    },
    "ollama": {"json_schema": AS_OPENAI},
    "tgi": {
        "json_schema": {"response_format": {"type": "json_object", "value": SCHEMA}}, "regex": {"response_format": {"type": "regex", "value": "a+"}},
    },
    "paddock": {
        "json_schema": {"json_schema": '{"type":"object","properties":{"b":{"type":"null"},"a":{"type":"null"}}}'},
        "grammar": {"grammar": 'root ::= "a"'}, "regex": {"regex": "a+"}, "choices": {"choices": ["é", 'b"']},
    },
    "openai": {"json_schema": AS_OPENAI},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_shape_is_sent_as_the_server_calls_it_or_refused(kind, name):
    plain = ask(CHAT).body(kind, "m")
    expected = SENT_SHAPES[kind].get(name)
    if expected is None:
        with pytest.raises(InvalidRequest, match=f"is not known to keep a chat to {name}; there it takes .*use a model of this machine") as refused:
            ask(CHAT, **{name: SHAPES[name]}).body(kind, "m")
        assert refused.value.details["field"] == name
    else:
        assert ask(CHAT, **{name: SHAPES[name]}).body(kind, "m") == plain | expected


def test_text_that_is_continued_has_a_shape_where_the_server_has_one_for_it():
    assert ask(TextPrompt(text="a"), json_schema=SCHEMA).body("sglang", "m")["json_schema"] == '{"type":"object","properties":{"b":{"type":"null"},"a":{"type":"null"}}}'
    assert ask(TextPrompt(text="a"), json_schema=SCHEMA).body("llama-server", "m")["json_schema"] == SCHEMA
    for kind in ("ollama", "tgi", "openai"):
        with pytest.raises(InvalidRequest, match="keep a text that is continued to json_schema; there it takes no shape at all"):
            ask(TextPrompt(text="a"), json_schema=SCHEMA).body(kind, "m")
