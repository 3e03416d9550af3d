"""What is learned of a conversation, token by token, under every shipped prompt template and under real templates of models:
each reply's content and the mark that ends it, and nothing else. The marks stand here by hand, not as the product finds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.bos import for_model, single_bos
from modules.prompts.library import TemplateLibrary
from modules.training.encoding import Encoder
from modules.training.options import TrainingOptions
from modules.training.samples import IGNORED, ChatSample, Encoded
from modules.training.tokens import load_tokenizer
from tests.prompts.real_templates import NAMES, template_text

ROOT = Path(__file__).resolve().parents[2]
EOS = "<|im_end|>"  # of the starter model
BOS = "<s>"
SHIPPED = tuple(sorted(path.stem for path in (ROOT / "prompt_templates").glob("*.yaml")))

# Template → what stands before and behind the content in what is learned
SHIPPED_REPLIES = {
    "Alpaca": ("", EOS), "ChatML": ("", "<|im_end|>"), "Command R": ("", "<|END_OF_TURN_TOKEN|>"), "DeepSeek": ("", "<｜end▁of▁sentence｜>"),
    "GLM-4": ("", "<|user|>"), "Gemma": ("", "<end_of_turn>"), "Granite": ("", "<|end_of_text|>"), "Llama 2": (" ", " " + EOS),
    "Llama 3": ("", "<|eot_id|>"), "Llama 4": ("", "<|eot|>"), "Mistral": (" ", EOS), "Mistral V7": ("", EOS), "Open Assistant": ("", EOS),
    "OpenChat": (" ", "<|end_of_turn|>"), "Phi-3": ("", "<|end|>"), "Phi-4": ("", "<|im_end|>"), "Plain": (" ", EOS), "Solar": ("", EOS),
    "Vicuna": (" ", EOS), "Zephyr": ("", EOS),
}  # fmt: skip
# Those that write no mark: space at the end of a reply cannot be told from what the template writes behind it
UNMARKED = ("GLM-4", "Plain", "Solar")

REAL_REPLIES = {
    "GLM-4.6": ("", "<|user|>"), "HuggingFaceTB-SmolLM3-3B": ("", "<|im_end|>"), "Kimi-K2-Instruct": ("", "<|im_end|>"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("", EOS), "Qwen-Qwen2.5-7B-Instruct": ("", "<|im_end|>"), "Qwen-Qwen3-0.6B": ("", "<|im_end|>"),
    "Qwen3.5-4B": ("", "<|im_end|>"), "alpaca": ("", EOS), "amberchat": (" ", EOS), "chatml": ("", "<|im_end|>"), "chatqa": (" ", EOS),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("", "<｜end▁of▁sentence｜>"), "deepseek-ai-DeepSeek-V3.1": ("", "<｜end▁of▁sentence｜>"),
    "falcon-instruct": (" ", EOS), "gemma-it": ("", "<end_of_turn>"), "google-gemma-2-2b-it": ("", "<end_of_turn>"),
    "google-gemma-4-31B-it": ("", "<turn|>"), "granite-3.0-instruct": ("", "<|end_of_text|>"),
    "ibm-granite-granite-3.3-2B-Instruct": ("", "<|end_of_text|>"), "llama-2-chat": (" ", " " + EOS), "llama-3-instruct": ("", "<|eot_id|>"),
    "meta-llama-Llama-3.1-8B-Instruct": ("", "<|eot_id|>"), "meta-llama-Llama-3.2-3B-Instruct": ("", "<|eot_id|>"),
    "microsoft-Phi-3.5-mini-instruct": ("", "<|end|>"), "mistral-instruct": (" ", EOS), "mistralai-Mistral-Nemo-Instruct-2407": ("", EOS),
    "openai-gpt-oss-120b": ("", "<|return|>"), "openchat-3.5": (" ", "<|end_of_turn|>"), "phi-3": ("", "<|end|>"), "phi-3-small": ("", "<|end|>"),
    "qwen2.5-instruct": ("", "<|im_end|>"), "saiga": ("", EOS), "solar-instruct": ("", EOS), "vicuna": (" ", EOS), "zephyr": ("", EOS),
}  # fmt: skip
REFUSED = {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "does not take a conversation without tools"}
# What stands before a reply there is not the prompt for it, but that with an empty thought or a channel behind it, or without an opened thought
OTHERWISE_ASKED = (
    "GLM-4.6", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "openai-gpt-oss-120b", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
)  # fmt: skip

# What begins a call and what ends it, with templates that know tools
CALLS = {
    "GLM-4.6": ("<tool_call>get_weather", "</tool_call><|observation|>"), "Mistral-Small-3.2-24B-Instruct-2506": ("[TOOL_CALLS]get_weather", "}" + EOS),
    "Qwen-Qwen2.5-7B-Instruct": ('<tool_call>\n{"name": "get_weather"', "</tool_call><|im_end|>"),
    "Qwen-Qwen3-0.6B": ('<tool_call>\n{"name": "get_weather"', "</tool_call><|im_end|>"),
    "Qwen3.5-4B": ("<tool_call>\n<function=get_weather>", "</tool_call><|im_end|>"),
    "deepseek-ai-DeepSeek-V3.1": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather", "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather", "<｜tool▁call▁end｜>"),
    "meta-llama-Llama-3.1-8B-Instruct": ('{"name": "get_weather"', "}<|eot_id|>"), "meta-llama-Llama-3.2-3B-Instruct": ('{"name": "get_weather"', "}<|eot_id|>"),
    "mistralai-Mistral-Nemo-Instruct-2407": ('[TOOL_CALLS][{"name": "get_weather"', "]" + EOS),
    "openai-gpt-oss-120b": (" to=functions.get_weather", "}<|call|>"), "qwen2.5-instruct": ('<tool_call>\n{"name": "get_weather"', "</tool_call><|im_end|>"),
}  # fmt: skip
TOOLS = (
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather", "parameters": {
            "type": "object", "required": ["city"], "properties": {"city": {"type": "string", "description": "Where"}}}}},
)  # fmt: skip

letters = st.text("abcDE äß🙂é.,:?!#<>|/[]\n", max_size=24)
questions = letters.map(lambda text: f"Q{text.rstrip()}")
answers = st.builds(lambda first, text, last: first + text + last, st.sampled_from(["Yes", "Ja", "ü", "🙂", "12", "#", "user"]), letters, st.sampled_from(["", ".", "\n", " "]))


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    turns = [Message(role="system", content="System: be kind.")] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Message(role="user", content=draw(questions)), Message(role="assistant", content=draw(answers))]
    return turns


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(ROOT / "models" / "starter")


def encoded(encoder: Encoder, messages: list[Message], tools: Any = ()) -> list[Encoded]:
    found = list(encoder.encode([ChatSample("here", tuple(messages), tools)]))
    assert not encoder.report.problems, encoder.report.problems
    return found


def runs(encoder: Encoder, sequences: list[Encoded]) -> list[tuple[str, str]]:
    """Each stretch of learned tokens as text, with all the text before it."""
    found = []
    for one in sequences:
        assert all(label in (IGNORED, token) for label, token in zip(one.labels, one.token_ids, strict=True))
        pieces = [encoder.tokenizer.pieces.piece(token) for token in one.token_ids]
        at = 0
        for learned, group in groupby(label != IGNORED for label in one.labels):
            end = at + len(list(group))
            if learned:
                found.append((spaced(b"".join(pieces[:at]).decode()), spaced(b"".join(pieces[at:end]).decode())))
            at = end
    return found


def spaced(text: str) -> str:
    """SentencePiece has one piece for a space and for “▁”, so they cannot be told apart."""
    return text.replace("▁", " ")


def encoder_of(tokenizer: Any, source: TemplateSource) -> Encoder:
    return Encoder(tokenizer, source, TrainingOptions(), 4096)


@pytest.fixture(scope="module")
def encoders(tokenizer: Any) -> Callable[[TemplateSource], Encoder]:
    """One for each template: large ones take a while to compile."""
    return functools.cache(lambda source: encoder_of(tokenizer, source))


def assert_learned(encoder: Encoder, source: TemplateSource, messages: list[Message], expected: tuple[str, str], asked: bool, trims: bool) -> None:
    """Each reply is learned with its end; what stands before it is what inference shows the model."""
    found = runs(encoder, encoded(encoder, messages))
    places = [place for place, message in enumerate(messages) if message.role == "assistant"]
    assert len(found) == len(places)
    lead, end = expected
    for place, (before, learned) in zip(places, found, strict=True):
        content = messages[place].content
        allowed = {spaced(lead + content + end)} | ({spaced(lead + content.strip() + end)} if trims else set())
        assert learned in allowed, (messages, learned)
        if asked:
            assert before == spaced(single_bos(encoder.writer.template.render(messages[:place]).text, source.bos_token))


def test_the_tables_name_every_template(testdata: Path) -> None:
    assert set(SHIPPED) == set(SHIPPED_REPLIES)
    assert set(NAMES) == set(REAL_REPLIES) | set(REFUSED)


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_shipped_templates(encoders: Callable[[TemplateSource], Encoder], name: str, messages: list[Message]) -> None:
    source = for_model(TemplateLibrary(ROOT / "prompt_templates").read(name), bos_token=BOS, eos_token=EOS, adds_bos=True)
    assert_learned(encoders(source), source, messages, SHIPPED_REPLIES[name], True, name in UNMARKED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_templates_with_a_tool_that_answered(tokenizer: Any, name: str) -> None:
    messages = [
        Message(role="user", content="Weather?"), Message(role="assistant", content="I look."), Message(role="tool", content="Sunny, 20."),
        Message(role="assistant", content="It is sunny."),
    ]  # fmt: skip
    source = for_model(TemplateLibrary(ROOT / "prompt_templates").read(name), bos_token=BOS, eos_token=EOS, adds_bos=True)
    encoder = encoder_of(tokenizer, source)
    lead, end = SHIPPED_REPLIES[name]
    first = "<|observation|>" if name == "GLM-4" else end  # the mark that opens the next turn ends this one
    assert [learned for _, learned in runs(encoder, encoded(encoder, messages))] == [spaced(f"{lead}I look.{first}"), spaced(f"{lead}It is sunny.{end}")]


def real_source(name: str) -> TemplateSource:
    return TemplateSource(text=template_text(name), origin=name, bos_token=BOS, eos_token=EOS)


@pytest.mark.parametrize("name", sorted(REAL_REPLIES))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_real_templates(testdata: Path, encoders: Callable[[TemplateSource], Encoder], name: str, messages: list[Message]) -> None:
    source = real_source(name)
    assert_learned(encoders(source), source, messages, REAL_REPLIES[name], name not in OTHERWISE_ASKED, True)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_templates_are_named(testdata: Path, tokenizer: Any, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        encoded(encoder_of(tokenizer, real_source(name)), [Message(role="user", content="Q"), Message(role="assistant", content="A")])


@pytest.mark.parametrize("name", sorted(CALLS))
def test_calls_are_learned_and_results_are_not(testdata: Path, tokenizer: Any, name: str) -> None:
    call = {"id": "c12345678", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Kiel"}}}
    messages = [
        Message(role="user", content="Weather?"), Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="sunny20", tool_call_id="c12345678", name="get_weather"), Message(role="assistant", content="It is fine."),
        Message(role="user", content="Thanks"), Message(role="assistant", content="Welcome."),
    ]  # fmt: skip
    encoder = encoder_of(tokenizer, real_source(name))
    called, told, thanked = (learned for _, learned in runs(encoder, encoded(encoder, messages, TOOLS)))
    begin, end = CALLS[name]
    assert called.startswith(spaced(begin)) and called.endswith(spaced(end)) and "Kiel" in called and "sunny20" not in called
    lead, closing = REAL_REPLIES[name]
    assert (told, thanked) == (spaced(f"{lead}It is fine.{closing}"), spaced(f"{lead}Welcome.{closing}"))


@pytest.mark.parametrize("name", sorted(set(REAL_REPLIES) - set(CALLS)))
def test_templates_that_lose_calls_say_so(testdata: Path, tokenizer: Any, name: str) -> None:
    call = {"id": "c12345678", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Kiel"}}}
    encoder = encoder_of(tokenizer, real_source(name))
    sample = ChatSample("talk.jsonl, line 3", (Message(role="user", content="Weather?"), Message(role="assistant", tool_calls=(call,))), TOOLS)
    assert not list(encoder.encode([sample]))
    assert encoder.report.refused == 1 and "talk.jsonl, line 3" in encoder.report.problems[0] and name in encoder.report.problems[0]


THINKING = {
    "Qwen-Qwen3-0.6B": "<think>\nfirst\n</think>\n\n", "Qwen3.5-4B": "first\n</think>\n\n", "GLM-4.6": "\n<think>first</think>\n",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "first\n</think>\n\n", "HuggingFaceTB-SmolLM3-3B": "<think>\nfirst\n</think>\n\n",
    "chatml": "<think>\nfirst\n</think>\n\n", "meta-llama-Llama-3.1-8B-Instruct": "<think>\nfirst\n</think>\n\n",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(THINKING))
def test_thinking_is_learned_and_earlier_thinking_is_not_shown(testdata: Path, tokenizer: Any, name: str) -> None:
    messages = [
        Message(role="user", content="Hi"), Message(role="assistant", content="<think>\nfirst\n</think>\n\nHello."),
        Message(role="user", content="Bye"), Message(role="assistant", content="<think>\nsecond\n</think>\n\nSo long."),
    ]  # fmt: skip
    encoder = encoder_of(tokenizer, real_source(name))
    (_, first), (before, second) = runs(encoder, encoded(encoder, messages))
    _, end = REAL_REPLIES[name]
    assert first == spaced(THINKING[name] + "Hello." + end)
    assert second == spaced(THINKING[name].replace("first", "second") + "So long." + end)
    assert "first" not in before and "Hello." in before


@pytest.fixture(scope="module", params=["llama2", "mistral-v3", "smollm2-135m-instruct", "gpt2"])
def vocabulary(request: pytest.FixtureRequest, testdata: Path) -> tuple[str, Any]:
    return request.param, load_tokenizer(testdata / "tokenizers" / request.param)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_real_vocabularies(vocabulary: tuple[str, Any], messages: list[Message]) -> None:
    """Tokens of other families: SentencePiece with byte tokens, byte-level, and marks that are plain text in the vocabulary."""
    folder, tokenizer = vocabulary
    eos = str(tokenizer.eos_token)
    name = {"llama2": "Llama 2", "mistral-v3": "Mistral"}.get(folder, "ChatML")
    source = for_model(TemplateLibrary(ROOT / "prompt_templates").read(name), bos_token=str(tokenizer.bos_token), eos_token=eos, adds_bos=folder != "gpt2")
    end = "<|im_end|>" if name == "ChatML" else SHIPPED_REPLIES[name][1].replace(EOS, eos)
    encoder = encoder_of(tokenizer, source)
    found = [learned for _, learned in runs(encoder, encoded(encoder, messages))]
    wanted = [message.content + end for message in messages if message.role == "assistant"]
    assert [text.lstrip(" ") for text in found] == wanted  # Mistral's puts a space of its own behind every mark
