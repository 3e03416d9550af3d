"""How tools reach a model through templates that know them, in part or not at all, and what is forced where a call has to come."""

from __future__ import annotations

import json

import pytest

from modules.core.errors import InvalidRequest
from modules.core.generation import ChatPrompt
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.core.tools import checked_tools, schemas_of
from modules.prompts.calls.formats import FORMATS, named
from modules.prompts.calls.stream import CallStream
from modules.prompts.template import Template
from modules.prompts.tool_use import MOST_FORCED, ToolUse, reading, tool_use
from tests.prompts.real_templates import NAMES, template_text

TOOLS = checked_tools([{"function": {"name": "look", "description": "Looks.", "parameters": {"properties": {"at": {"type": "string"}}}, "strict": True}}, {"function": {"name": "now"}}])
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
KNOWING = PLAIN + "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments }}{% endfor %}{% endfor %}"


def call(name: str, arguments: str, call_id: str = "") -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CHAT = (
    Message(role="user", content="Look."),
    Message(role="assistant", tool_calls=(call("look", '{"at": "sea"}', "a"), call("now", "{}", "b"))),
    Message(role="tool", content="Blue", tool_call_id="b"),
    Message(role="tool", content="Noon"),
)


def use_of(text: str) -> tuple[ToolUse, Template]:
    template = Template(TemplateSource(text=text, origin="test"))
    return tool_use(text, template.render), template


def test_a_template_that_knows_no_tools_is_told_in_words() -> None:
    use, template = use_of(PLAIN)
    assert (use.form.name, use.takes_tools, use.writes_calls) == ("generic", False, False)
    told = use.told(CHAT, ChatPrompt(messages=CHAT, tools=TOOLS))
    assert [message.role for message in told] == ["system", "user", "assistant", "user"]
    assert all(tool["function"]["name"] in told[0].content for tool in TOOLS)
    assert '<tool_call>\n{"name": "NAME"' in told[0].content
    assert "strict" not in json.dumps(use.tools(ChatPrompt(messages=CHAT, tools=TOOLS)))
    read = CallStream(use.form, schemas_of(TOOLS)).feed(told[2].content, last=True)
    assert [(piece.name, json.loads(piece.arguments)) for piece in read.calls] == [("look", {"at": "sea"}), ("now", {})]
    assert told[3].content == "<tool_response>\nBlue\n</tool_response>\n<tool_response>\nNoon\n</tool_response>"
    assert "NAME" in template.render(told).text
    system = (Message(role="system", content="Be kind."), *CHAT)
    assert use.told(system, ChatPrompt(messages=system, tools=TOOLS))[0].content.startswith("Be kind.\n\nYou may call")


def test_a_template_that_knows_tools_gets_them_with_names_and_ids_filled_in() -> None:
    use, _ = use_of(KNOWING)
    assert (use.takes_tools, use.writes_calls) == (True, True)
    told = use.told(CHAT, ChatPrompt(messages=CHAT, tools=TOOLS))
    assert [(message.role, message.tool_call_id, message.name) for message in told[2:]] == [("tool", "b", "now"), ("tool", "a", "look")]
    by_name = (*CHAT[:2], Message(role="tool", content="Noon", name="now"), Message(role="tool", content="?", name="other"))
    assert [message.tool_call_id for message in use.told(by_name, ChatPrompt(messages=by_name))[2:]] == ["b", None]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_is_forced_is_read_as_a_call(form) -> None:
    use = ToolUse(form, takes_tools=True, writes_calls=True)
    prompt = ChatPrompt(messages=CHAT, tools=TOOLS, must_call=("look",))
    text = use.text(prompt)
    assert text is not None
    frame = text.frame
    assert frame is not None
    assert frame.most == (MOST_FORCED if form.frame.several else 1)
    assert bool(frame.tagged) == bool(form.tags)
    if frame.tagged:
        (item,) = frame.tagged
        (one,) = item.fields
        reply = f"{item.before}{one.before}sea{one.behind}{item.behind}"
    else:
        ((before, schema, behind),) = frame.items
        assert json.loads(schema)["additionalProperties"] is False
        reply = frame.begin + before + '{"at": "sea"}' + behind + frame.end
    read = CallStream(named(form.name), schemas_of(TOOLS)).feed(reply, last=True)
    assert (read.text, [(piece.name, json.loads(piece.arguments)) for piece in read.calls]) == ("", [("look", {"at": "sea"})])
    assert use.text(ChatPrompt(messages=CHAT)) is None
    kept = use.text(prompt.model_copy(update={"must_call": ()}))
    assert kept is not None
    assert (kept.frame.after if kept.frame else "") == form.mark  # one of the tools is strict
    loose = tuple({**tool, "function": {**tool["function"], "strict": False}} for tool in TOOLS)
    prompt = prompt.model_copy(update={"tools": loose})
    free, either = use.text(prompt.model_copy(update={"must_call": ()})), use.text(prompt.model_copy(update={"must_call": ()}), '{"type":"object"}')
    assert free is not None
    assert free.frame is None
    assert either is not None
    assert either.frame is not None
    assert len(either.frame.items) + len(either.frame.tagged) == len(TOOLS)


@pytest.mark.parametrize(("more", "closed"), [
    ({}, True), ({"uniqueItems": True}, True), ({"if": {"required": ["at"]}, "then": {"required": ["from"]}}, False), ({"dependentSchemas": {"at": {"required": ["from"]}}}, False),
    ({"dependencies": {"at": {"required": ["from"]}}}, False),
])  # fmt: skip
def test_arguments_that_other_parts_of_the_schema_may_describe_are_left_open(more: dict[str, object], closed: bool) -> None:
    use, _ = use_of(PLAIN)
    tools = checked_tools([{"function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}, **more}}}])
    text = use.text(ChatPrompt(messages=CHAT, tools=tools, must_call=("look",)))
    assert text is not None
    assert text.frame is not None
    ((_, schema, _),) = text.frame.items
    assert ("additionalProperties" in json.loads(schema)) == closed


TAGGED = (  # schemas of one argument, and whether tags can keep to it
    ({"type": "string", "description": "Where."}, True), ({"type": "string", "enum": ["a", "b"]}, True), ({"type": "integer", "minimum": 1}, True),
    ({"type": "array", "items": {"$ref": "#/$defs/a"}}, True), ({"type": "string", "maxLength": 5}, False), ({"type": ["string", "null"]}, False),
    ({"$ref": "#/$defs/a"}, False), (True, False),
)  # fmt: skip


@pytest.mark.parametrize(("schema", "fits"), TAGGED)
def test_arguments_are_forced_in_tags_where_these_can_keep_to_the_schema(schema: object, fits: bool) -> None:
    tags = named("functions").tags
    assert tags is not None
    item = tags.item("look", {"type": "object", "properties": {"at": schema}, "$defs": {"a": {"type": "null"}}})
    assert (item is not None) == fits
    assert item is None or not item.fields[0].schema or "$defs" in json.loads(item.fields[0].schema)


@pytest.mark.parametrize("word", ["propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "if", "not", "minProperties", "anyOf"])
def test_arguments_that_depend_on_each_other_are_not_forced_in_tags(word: str) -> None:
    tags = named("functions").tags
    assert tags is not None
    schema = {"type": "object", "properties": {"at": {"type": "integer"}}}
    assert tags.item("look", schema) is not None
    assert tags.item("look", {**schema, word: {}}) is None


def test_where_calls_are_held_to_schemas_no_other_way_to_write_them_counts() -> None:
    loose = [{**tool, "function": {**tool["function"], "strict": False}} for tool in TOOLS]
    for reply in ('<tool_call>{"name": "look", "arguments": {"at": 3}}</tool_call>', '{"name": "look", "arguments": {"at": 3}}'):
        form = named("generic" if reply.startswith("{") else "mistral")
        assert CallStream(reading(form, TOOLS), schemas_of(TOOLS)).feed(reply, last=True) == (reply, ())
        assert CallStream(reading(form, loose), schemas_of(TOOLS)).feed(reply, last=True).calls


def test_thinking_may_come_before_a_forced_call_unless_it_is_turned_off() -> None:
    use, _ = use_of(PLAIN + "{% if enable_thinking is false %}<think></think>{% endif %}")
    prompt = ChatPrompt(messages=CHAT, tools=TOOLS, must_call=("look",))
    texts = [use.text(prompt), use.text(prompt.model_copy(update={"template_variables": {"enable_thinking": False}}))]
    assert [text.frame.thinking if text and text.frame else "" for text in texts] == [("<think>", "</think>"), None]


def test_thinking_is_told_where_calls_may_come_too() -> None:
    use, _ = use_of(PLAIN + "{% if enable_thinking is false %}<think></think>{% endif %}")
    told = use.text(ChatPrompt(messages=CHAT, tools=TOOLS))
    assert told is not None
    assert told.frame is not None
    assert (told.frame.after, told.frame.thinking) == ("<tool_call>", ("<think>", "</think>"))


@pytest.mark.parametrize("shape", ["grammar", "regex", "choices"])
def test_a_shape_that_no_call_can_have_counts_before_strict_tools(shape: str) -> None:
    use, _ = use_of(PLAIN)
    prompt = ChatPrompt(messages=CHAT, tools=TOOLS)
    told = use.text(prompt, "", shape)
    assert told is not None
    assert told.frame is None
    with pytest.raises(InvalidRequest, match=f"A tool has to be called, and {shape} asks for another text"):
        use.text(prompt.model_copy(update={"must_call": ("look",)}), "", shape)


@pytest.mark.skipif(not NAMES, reason="the templates of real models are not here")
@pytest.mark.parametrize("name", ["mistralai-Mistral-Nemo-Instruct-2407", "meta-llama-Llama-3.1-8B-Instruct", "openai-gpt-oss-120b", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
                                  "Kimi-K2-Instruct", "ibm-granite-granite-3.3-2B-Instruct"])  # fmt: skip
def test_calls_reach_templates_with_wishes_of_their_own(name: str) -> None:
    """Short ids, one call a message, arguments as text, no content, or none of it."""
    use, template = use_of(template_text(name))
    long_ids = tuple(
        message.model_copy(
            update={
                "tool_calls": tuple({**one, "id": f"call_{one['id']}_of_another_server"} for one in message.tool_calls) if message.tool_calls else None,
                "tool_call_id": f"call_{message.tool_call_id}_of_another_server" if message.tool_call_id else None,
            }
        )
        for message in CHAT
    )
    text = template.render(use.told(long_ids, ChatPrompt(messages=long_ids, tools=TOOLS)), tools=TOOLS).text
    assert all(word in text for word in ("sea", "look", "now", "Blue", "Noon"))
