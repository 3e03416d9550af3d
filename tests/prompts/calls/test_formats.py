"""Every format of calls: what a model writes is read as the calls it stands for, whole and in any pieces, and nothing else is taken for one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.generation import CallPiece
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.core.tools import checked_tools, schemas_of
from modules.prompts.calls.formats import FORMATS, GENERIC, WrittenCall, format_of, named
from modules.prompts.calls.stream import CallStream
from modules.prompts.template import Template
from tests.prompts.real_templates import NAMES, template_text

TOOLS = checked_tools(
    [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather of a place.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "description": "Where."}, "days": {"type": "integer", "description": "How many."},
                                   "sure": {"type": "boolean", "description": "Really?"}},
                    "required": ["city"],
                },
            },
        },
        {"type": "function", "function": {"name": "note-it", "parameters": {"type": "object", "properties": {"text": {"type": "string", "description": "What."}, "tags": {"type": "array", "description": "Which."}}}}},
        {"type": "function", "function": {"name": "now"}},
    ]
)  # fmt: skip
SCHEMAS = schemas_of(TOOLS)
Called = list[tuple[str, Any]]


def read(form: str, pieces: Sequence[str], *, several: bool = True) -> tuple[str, Called]:
    """The text and the calls of a reply that comes in these pieces."""
    stream = CallStream(named(form), SCHEMAS, several=several)
    text, found = "", []
    for place, piece in enumerate(pieces):
        got = stream.feed(piece, last=place == len(pieces) - 1)
        text += got.text
        found += got.calls
    return text, together(found)


def together(pieces: Sequence[CallPiece]) -> Called:
    """Pieces as OpenAI's clients put them together."""
    calls: list[list[str]] = []
    for piece in pieces:
        if piece.id:
            assert piece.name
            assert piece.index == len(calls)
            calls.append([piece.name, ""])
        else:
            assert not piece.name
        calls[piece.index][1] += piece.arguments
    return [(name, json.loads(arguments)) for name, arguments in calls]


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[begin:end] for begin, end in pairwise(ends)] or [text]


# What a model of each family writes, as its documentation or template shows it
WEATHER = ("get_weather", {"city": "Köln", "days": 2})
SAMPLES: tuple[tuple[str, str, str, Called], ...] = (
    ("hermes", 'I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>\n', "I look.", [WEATHER]),
    ("hermes", '<tool_call>{"arguments": {"city": "Köln", "days": 2}, "name": "get_weather"}</tool_call>\n<tool_call>{"name": "now"}</tool_call>', "", [WEATHER, ("now", {})]),
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": "{\\"city\\": \\"Köln\\", \\"days\\": 2}"}\n</tool_call>', "", [WEATHER]),
    ("hermes", '<tool_call>\n{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}', "", [WEATHER]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}</tool_call>', "", [WEATHER]),
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}\n{"name": "now"}\n</tool_call> So.', "So.", [WEATHER, ("now", {})]),
    ("functions", "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>", "", [WEATHER]),
    ("functions", "<function=note-it>\n<parameter=text>\n1\n</parameter>\n<parameter=tags>\n[\"a\", 2]\n</parameter>\n</function>", "", [("note-it", {"text": "1", "tags": ["a", 2]})]),
    ("functions", "<function=now>\n</function>", "", [("now", {})]),
    ("functions", '<function=get_weather>{"city": "Köln", "days": 2}</function>', "", [WEATHER]),
    ("keys", "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>", "", [WEATHER]),
    ("keys", "<tool_call>now\n</tool_call>", "", [("now", {})]),
    ("llama", '{"name": "get_weather", "parameters": {"city": "Köln", "days": 2}}', "", [WEATHER]),
    ("llama", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Köln", "days": 2}}; {"name": "now", "parameters": {}}', "", [WEATHER, ("now", {})]),
    ("llama", '[get_weather(city="Köln", days=2), now()]', "", [WEATHER, ("now", {})]),
    ("llama", "<|python_tag|>get_weather.call(city='Kö\\'(ln', sure=true)", "", [("get_weather", {"city": "Kö'(ln", "sure": True})]),
    ("lfm", '<|tool_call_start|>[get_weather(city="Köln", days=2)]<|tool_call_end|>Checking.', "Checking.", [WEATHER]),
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}, "id": "VvvODy9mT"}]', "", [WEATHER]),
    ("mistral-args", '[TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{"city": "Köln", "days": 2}[TOOL_CALLS]now[ARGS]{}', "", [WEATHER, ("now", {})]),
    ("mistral-args", '[TOOL_CALLS]get_weather{"city": "Köln", "days": 2}', "", [WEATHER]),
    ("deepseek-r1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Köln\", \"days\": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", [WEATHER, ("now", {})]),
    ("deepseek", "So be it.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Köln\", \"days\": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "So be it.", [WEATHER]),
    ("kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Köln", "days": 2}<|tool_call_end|><|tool_calls_section_end|>', "", [WEATHER]),
    ("harmony", '<|channel|>commentary to=functions.get_weather<|message|>{"city": "Köln", "days": 2}', "", [WEATHER]),
    ("gemma", '<|tool_call>call:get_weather{city:<|"|>Köln<|"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>', "", [WEATHER, ("now", {})]),
    ("gemma", "<start_function_call>call:note-it{text:<escape>{a,b}<escape>,tags:[<escape>x<escape>,{k:1.5}]}<end_function_call>", "", [("note-it", {"text": "{a,b}", "tags": ["x", {"k": 1.5}]})]),
    ("list", '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}]', "", [WEATHER]),
    ("list", '<|tool_call|>[{"name": "get_weather", "parameters": {"city": "Köln", "days": 2}}]<|/tool_call|>', "", [WEATHER]),
    ("command", 'I plan.<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Köln", "days": 2}}\n]<|END_ACTION|>', "I plan.", [WEATHER]),
    ("nemotron", '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}]</TOOLCALL>', "", [WEATHER]),
    ("minimax", '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Köln</parameter>\n<parameter name="days">2</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>', "", [WEATHER, ("now", {})]),
    ("phi", 'functools[{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}]', "", [WEATHER]),
    ("phi", "The module functools [1] has partial().", "The module functools [1] has partial().", []),
    ("jamba", '<tool_calls>[{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}, {"name": "now", "arguments": {}}]</tool_calls>', "", [WEATHER, ("now", {})]),
    ("dsml", '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Köln</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>', "", [WEATHER, ("now", {})]),
    ("internlm", '<|action_start|><|plugin|>{"name": "get_weather", "parameters": {"city": "Köln", "days": 2}}<|action_end|>', "", [WEATHER]),
    ("generic", '{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}', "", [WEATHER]),
    # text, whole as it was
    ("hermes", "Write <tool_call> in front of it, and <tool", "Write <tool_call> in front of it, and <tool", []),
    ("hermes", '<tool_call>{"nam', '<tool_call>{"nam', []),
    ("generic", '{"answer": 42, "name": "get_weather"}\n', '{"answer": 42, "name": "get_weather"}\n', []),
    ("generic", '{"name": "Ada", "arguments": {}}', '{"name": "Ada", "arguments": {}}', []),
    ("generic", "[1, 2, 3] are numbers; f(x) is none.", "[1, 2, 3] are numbers; f(x) is none.", []),
    ("llama", "[print(1)]", "[print(1)]", []),
    ("mistral", "[TOOL_CALLS] are marks of mine that stand before calls.", "[TOOL_CALLS] are marks of mine that stand before calls.", []),
)  # fmt: skip


@pytest.mark.parametrize(("form", "reply", "text", "calls"), SAMPLES)
def test_what_models_write(form: str, reply: str, text: str, calls: Called) -> None:
    assert read(form, [reply]) == (text, calls)
    assert read(form, list(reply)) == (text, calls)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2), max_leaves=4
)  # fmt: skip
CALLS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"city": st.text(max_size=12)}, optional={"days": st.integers(), "sure": st.booleans()}).map(lambda values: WrittenCall("get_weather", values)),
        st.fixed_dictionaries({"text": st.text(max_size=12), "tags": st.lists(JSON, max_size=3)}).map(lambda values: WrittenCall("note-it", values)),
        st.just(WrittenCall("now", {})),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@given(st.sampled_from([form.name for form in FORMATS]), CALLS, st.sampled_from(["", "Let me look.\n\n", "a < b [c] {d}\n"]), st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=20, deadline=None)
def test_written_calls_are_read_however_they_are_cut(form: str, calls: list[WrittenCall], before: str, places: list[int]) -> None:
    frame = named(form).frame
    calls = calls if frame.several else calls[:1]
    before = "" if form == "llama" else before
    reply = before + frame.write(calls)
    wanted = (before.strip(), [(call.name, dict(call.arguments)) for call in calls])
    assert read(form, [reply]) == wanted
    assert read(form, cut(reply, places)) == wanted


def bare(value: Any) -> str:
    """A value as templates write it into tags: texts as they are."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def braced(value: Any) -> str:
    """A value in Gemma's notation."""
    if isinstance(value, dict):
        return "{" + ",".join(f'<|"|>{key}<|"|>:{braced(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(braced, value)) + "]"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else json.dumps(value)


def in_tags(head: tuple[str, str], key: str, value: str, after: str, foot: str) -> Callable[[WrittenCall], str]:
    """What writes a call with its arguments in tags."""

    def write(call: WrittenCall) -> str:
        return head[0] + call.name + head[1] + "".join(f"{key}{name}{value}{bare(inner)}{after}" for name, inner in call.arguments.items()) + foot

    return write


def in_python(call: WrittenCall) -> str:
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


# Formats whose arguments are no JSON: how templates write one call, and what stands before, between and behind them
OTHERS: dict[str, tuple[Callable[[WrittenCall], str], str, str, str]] = {
    "functions": (in_tags(("<tool_call>\n<function=", ">\n"), "<parameter=", ">\n", "\n</parameter>\n", "</function>\n</tool_call>"), "", "\n", ""),
    "keys": (in_tags(("<tool_call>", "\n"), "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", "</tool_call>"), "", "\n", ""),
    "minimax": (
        in_tags(('<invoke name="', '">\n'), '<parameter name="', '">\n', "\n</parameter>\n", "</invoke>"), "<minimax:tool_call>\n", "\n", "\n</minimax:tool_call>"
    ),
    "dsml": (
        lambda call: f'<｜DSML｜invoke name="{call.name}">\n' + "".join(
            f'<｜DSML｜parameter name="{key}" string="{str(isinstance(value, str)).lower()}">{bare(value)}</｜DSML｜parameter>\n' for key, value in call.arguments.items()
        ) + "</｜DSML｜invoke>",
        "<｜DSML｜function_calls>\n", "\n", "\n</｜DSML｜function_calls>",
    ),
    "gemma": (lambda call: f"<|tool_call>call:{call.name}{braced(dict(call.arguments))}<tool_call|>", "", "", ""),
    "lfm": (in_python, "<|tool_call_start|>[", ", ", "]<|tool_call_end|>"),
    "llama": (in_python, "[", ", ", "]"),
}  # fmt: skip


@given(st.sampled_from(sorted(OTHERS)), CALLS, st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=25, deadline=None)
def test_calls_that_are_no_json_are_read_however_they_are_cut(form: str, calls: list[WrittenCall], places: list[int]) -> None:
    write, begin, between, end = OTHERS[form]
    reply = begin + between.join(map(write, calls)) + end
    wanted = ("", [(call.name, dict(call.arguments)) for call in calls])
    assert read(form, [reply]) == wanted
    assert read(form, cut(reply, places)) == wanted


@given(st.sampled_from(SAMPLES), st.lists(st.integers(0, 300), max_size=8), st.integers(0, 300))
@settings(max_examples=25, deadline=None)
def test_cuts_and_ends_change_nothing(sample: tuple[str, str, str, Called], places: list[int], end: int) -> None:
    """A reply that breaks off anywhere reads the same in pieces, and loses no text before its calls."""
    form, reply, _, _ = sample
    stream_whole, stream_cut = CallStream(named(form), SCHEMAS), CallStream(named(form), SCHEMAS)
    whole = stream_whole.feed(reply[:end], last=True)
    parts = [stream_cut.feed(piece, last=place == len(cut(reply[:end], places)) - 1) for place, piece in enumerate(cut(reply[:end], places))]
    assert "".join(part.text for part in parts) == whole.text
    pieces = [piece for part in parts for piece in part.calls]
    assert [piece.name for piece in pieces if piece.id] == [piece.name for piece in whole.calls if piece.id]
    assert "".join(piece.arguments for piece in pieces) == "".join(piece.arguments for piece in whole.calls)


def unfinished(form: str, pieces: Sequence[str]) -> tuple[str, list[str]]:
    """The text of a reply that breaks off, and the names of its calls."""
    stream = CallStream(named(form), SCHEMAS)
    got = [stream.feed(piece, last=place == len(pieces) - 1) for place, piece in enumerate(pieces)]
    return "".join(part.text for part in got), [piece.name for part in got for piece in part.calls if piece.id]


TWO_CALLS = [WrittenCall("get_weather", {"city": "Köln", "days": 3}), WrittenCall("note-it", {"text": "a b", "tags": ["x"]})]
WRITTEN = [
    *((form.name, form.frame.write(TWO_CALLS if form.frame.several else TWO_CALLS[:1])) for form in FORMATS),
    *((name, begin + between.join(map(write, TWO_CALLS)) + end) for name, (write, begin, between, end) in OTHERS.items()),
]


@pytest.mark.parametrize(("form", "reply"), WRITTEN, ids=[f"{number}-{name}" for number, (name, _) in enumerate(WRITTEN)])
def test_a_call_that_breaks_off_leaves_no_part_of_itself_as_text(form: str, reply: str) -> None:
    """As at `max_tokens`: once a call has begun, what is left of it or of the next one is no text."""
    for end in range(1, len(reply) + 1):
        text, names = unfinished(form, [reply[:end]])
        assert not (names and text), reply[:end]
        assert unfinished(form, list(reply[:end])) == (text, names), reply[:end]
    assert names == [call.name for call in TWO_CALLS[: len(names)]]


def test_text_behind_a_call_may_end_as_a_call_begins() -> None:
    reply = GENERIC.write([WrittenCall("now", {})]) + "\nIt is <"
    assert unfinished("generic", [reply]) == ("It is <", ["now"])


PARTS = sorted({part for _, reply, _, _ in SAMPLES for part in re.findall(r"<[^<>]*>|\[[A-Z_]+\]|\w+|.", reply, re.DOTALL)})


@given(st.sampled_from([form.name for form in FORMATS]), st.lists(st.sampled_from(PARTS), max_size=30), st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=25, deadline=None)
def test_nothing_a_model_writes_breaks_a_reader(form: str, parts: list[str], places: list[int]) -> None:
    reply = "".join(parts)
    streams = [CallStream(named(form), SCHEMAS), CallStream(named(form), SCHEMAS)]
    whole = streams[0].feed(reply, last=True)
    pieces = cut(reply, places)
    found = [streams[1].feed(piece, last=place == len(pieces) - 1) for place, piece in enumerate(pieces)]
    assert "".join(part.text for part in found) == whole.text
    assert [piece.name for part in found for piece in part.calls if piece.id] == [piece.name for piece in whole.calls if piece.id]
    assert whole.calls or whole.text == reply, "text without a call is the whole reply"


@pytest.mark.parametrize("value", ["1+" * 20_000 + "1", "-" * 40_000 + "1", "a." * 20_000 + "a", "lambda:" * 14_000 + "1", "[" * 40_000, "1e999", "{**{}}", "b'x'"])
def test_hostile_values_are_text(value: str) -> None:
    reply = f"[get_weather(city={value})]"
    assert read("llama", [reply]) == (reply, [])
    deep = f"<function=note-it><parameter=tags>{'[' * 40_000}</parameter></function>"
    assert read("functions", [deep])[1] == [("note-it", {"tags": "[" * 40_000})]
    nested = "<|tool_call>call:now" + "{a:" * 40_000 + "<tool_call|>"
    assert read("gemma", [nested]) == (nested, [])


def test_arguments_come_while_they_are_written() -> None:
    stream = CallStream(named("hermes"), SCHEMAS)
    told = [stream.feed(piece) for piece in ('Hm. <tool_call>{"name": "get_weather", "argu', 'ments": {"city": "K', "öl", 'n"}}', "</tool_call>")]
    assert [(part.text, [(piece.name, piece.arguments) for piece in part.calls]) for part in told] == [
        ("Hm.", []), ("", [("get_weather", '{"city": "K')]), ("", [("", "öl")]), ("", [("", 'n"}')]), ("", []),
    ]  # fmt: skip


def test_a_text_in_tags_comes_while_it_is_written() -> None:
    stream = CallStream(named("functions"), SCHEMAS)
    told = [stream.feed(piece) for piece in ("<tool_call>\n<function=note-it>\n<parameter=text>", '\nSay "', "no</par", 'k>"', "\n\n", "</parameter>\n</function>")]
    assert ["".join(piece.arguments for piece in part.calls) for part in told] == ['{"text": "', 'Say \\"', "no", '</park>\\"', "\\n", '"}']


def test_only_the_first_call_where_one_is_wanted() -> None:
    reply = named("hermes").frame.write([WrittenCall(*WEATHER), WrittenCall("now", {})])
    assert read("hermes", [reply], several=False)[1] == [WEATHER]


def test_space_without_end_is_kept_in_pieces() -> None:
    """A model that writes nothing but empty lines any more: to copy all of them with each would hold up everybody."""
    stream = CallStream(named("generic"), {})
    assert stream.feed("a").text == "a" and all(not stream.feed("\n\n").text for _ in range(50)) and len(stream._space) > 50
    assert stream.feed("b", last=True).text == "\n" * 100 + "b"


# Templates that write calls, with the format that is recognised by their text
SPOKEN = {
    "GLM-4.6": "keys", "Mistral-Small-3.2-24B-Instruct-2506": "mistral-args", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes", "Qwen-Qwen3-0.6B": "hermes", "Qwen3.5-4B": "functions", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek", "google-gemma-4-31B-it": "gemma", "meta-llama-Llama-3.1-8B-Instruct": "llama",
    "meta-llama-Llama-3.2-3B-Instruct": "llama", "mistralai-Mistral-Nemo-Instruct-2407": "mistral", "openai-gpt-oss-120b": "harmony",
    "Kimi-K2-Instruct": "kimi", "ibm-granite-granite-3.3-2B-Instruct": "list", "HuggingFaceTB-SmolLM3-3B": "generic", "zephyr": "generic",
}  # fmt: skip
HARMONY_HEADERS = ((" to=functions.get_weather<|channel|>commentary json<|message|>", "<|channel|>commentary to=functions.get_weather<|message|>"),)


@pytest.mark.skipif(not NAMES, reason="the templates of real models are not here")
@pytest.mark.parametrize(("name", "form"), SPOKEN.items())
def test_what_a_template_writes_is_read(name: str, form: str) -> None:
    text = template_text(name)
    assert format_of(text).name == form
    if form in ("kimi", "list", "generic"):
        return  # these templates write no calls in our sandbox: they are told in words (test_tool_use.py)
    template = Template(TemplateSource(text=text, origin=name, bos_token="<s>", eos_token="</s>"))
    call = {"id": "VvvODy9mT", "type": "function", "function": {"name": "get_weather", "arguments": json.dumps(dict(WEATHER[1]))}}
    asked = [Message(role="user", content="Weather?"), Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="Rain.", tool_call_id="VvvODy9mT")]
    before = template.render(asked[:1], tools=TOOLS, add_generation_prompt=False).text
    written = template.render(asked, tools=TOOLS, add_generation_prompt=False).text
    header = template.render(asked[:1], tools=TOOLS).text
    reply = written.removeprefix(header if written.startswith(header) else before)
    for spelling, ours in HARMONY_HEADERS:  # put right by the detokenizer: test_detokenizer.py
        reply = reply.replace(spelling, ours)
    assert read(form, [reply])[1] == [WEATHER]
