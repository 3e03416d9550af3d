"""Template: rendering, the roles it rescues, continuing a reply, spans of assistant text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.template import MAX_TEMPLATE_CHARS, Template, open_thinking_tag

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
# Like Qwen 3: thinking of the last reply is rendered apart, earlier thinking is dropped
THINKING = (
    "{% for m in messages %}{% set content = m.content %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}"
    "{% set thought = '' %}{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set content = content.split('</think>')[-1].lstrip() %}{% endif %}"
    "{% if loop.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}{% endif %}{{ content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% if thinking_off %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
# Like DeepSeek R1: the prompt opens the thinking, history has none
OPENS_THINKING = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content.split('</think>')[-1] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant><think>\\n' }}{% endif %}"
)


def template(text: str, **values: str) -> Template:
    return Template(TemplateSource(text=text, origin="test", **values))


def said(*pairs: tuple[str, str]) -> list[Message]:
    return [Message.model_validate({"role": role, "content": content}) for role, content in pairs]


ASKED = said(("user", "Hi"))


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_any_text_stands_in_chatml_as_it_is(contents: list[str]) -> None:
    messages = said(*(("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)))
    expected = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    assert template(CHATML).render(messages).text == expected + "<|im_start|>assistant\n"
    open_end = template(CHATML).render(messages, continue_final_message=True).text
    assert open_end == expected.removesuffix("<|im_end|>\n")


def test_a_template_that_knows_lists_of_parts_only_gets_them() -> None:
    """LLaVA's and Idefics' own ones; those that know both get the text as it is."""
    llava = (
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}"
        "{% endfor %}{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    idefics = (
        "{% for m in messages %}{{ m.role }}{% if m.content[0]['type'] == 'image' %}:{% else %}: {% endif %}{% for line in m.content %}"
        "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}<image>{% endif %}{% endfor %}|{% endfor %}"
    )
    both = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part['type'] }}{% endfor %}{% endif %}{% endfor %}"
    talk = said(("user", "Hi"), ("assistant", "Hello."), ("user", ""))
    assert template(llava).render(talk).text == "USER: Hi ASSISTANT: Hello. USER:  ASSISTANT:"
    assert template(idefics).render(talk).text == "user: Hi|assistant: Hello.|user: |"
    assert template(idefics).render(talk[:2], continue_final_message=True).text == "user: Hi|assistant: Hello."
    assert template(both).render(talk).text == "HiHello."


def test_json_is_not_escaped_for_html_and_options_reach_the_template() -> None:
    text = "{{ {'a': '<ü&>'} | tojson }} {{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }} {{ tools is none }} {{ level }}"
    rendered = template(text).render(ASKED, variables={"level": "low"})
    assert rendered.text == '{"a": "<ü&>"} ' + json.dumps({"a": 2, "b": 1}, indent=1) + " True low"


def test_variables_cannot_replace_the_messages() -> None:
    assert template("{{ messages[0].content }}").render(ASKED, variables={"messages": [], "tools": 1}).text == "Hi"


def test_special_tokens_are_empty_text_when_unknown() -> None:
    assert template("{{ bos_token + 'x' + eos_token }}").render(ASKED).text == "x"
    assert template("{{ bos_token + 'x' + eos_token }}", bos_token="<s>", eos_token="</s>").render(ASKED).text == "<s>x</s>"


def test_a_refused_system_role_leads_the_first_user_message_and_is_told() -> None:
    rendered = template(NO_SYSTEM).render(said(("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")))
    assert rendered.text == "[user]Be brief.\n\nHi[assistant]Yo[user]Bye"
    assert len(rendered.notes) == 1
    assert "in front of the user message" in rendered.notes[0]
    assert template(NO_SYSTEM).render(said(("system", "Alone"))).text == "[user]Alone"


@pytest.mark.parametrize("when_unknown", ["{{ raise_exception('Unexpected role') }}", ""])
def test_a_developer_message_is_system_where_the_role_is_refused_or_skipped(when_unknown: str) -> None:
    text = f"{{% for m in messages %}}{{% if m.role in ['system', 'user'] %}}[{{{{ m.role }}}}]{{{{ m.content }}}}{{% else %}}{when_unknown}{{% endif %}}{{% endfor %}}"
    rendered = template(text).render(said(("developer", "Rule"), ("user", "Hi")))
    assert rendered.text == "[system]Rule[user]Hi"
    assert "developer" in rendered.notes[0]
    any_role = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    unknown, known = (template(one).render(said(("developer", "Rule"))) for one in (any_role, any_role + "{# developer #}"))
    assert (unknown.text, known.text) == ("[system]Rule", "[developer]Rule"), "no model has seen a role that its template never speaks of"
    assert "developer" in unknown.notes[0] and not known.notes


def test_arguments_of_tool_calls_come_as_the_template_takes_them() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"place": "Köln"}'}}
    messages = [*ASKED, Message(role="assistant", tool_calls=(call,))]
    as_object = template("{{ messages[1].tool_calls[0].function.arguments.place }}").render(messages)
    assert (as_object.text, as_object.notes) == ("Köln", ())
    as_text = template("{{ 'args: ' + messages[1].tool_calls[0].function.arguments }}").render(messages)
    assert as_text.text == 'args: {"place": "Köln"}'
    assert "JSON text" in as_text.notes[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{ raise_exception('Only cats') }}", "refuses this conversation: Only cats."),
        ("{% for m in %}", "not valid in line 1"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace(_x=1) %}", "underscore"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ dict.__init__.__globals__ }}", "unsafe"),
    ],
)
def test_an_error_names_the_template_and_what_it_said(text: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template(text).render(ASKED)
    assert "(test)" in caught.value.message
    assert part in caught.value.message


def test_limits_name_limit_and_value() -> None:
    with pytest.raises(InvalidRequest, match=r"1,000,001 characters; the limit is 1,000,000"):
        template("x" * (MAX_TEMPLATE_CHARS + 1))
    with pytest.raises(ContextOverflow, match=r"more than 50 characters"):
        Template(TemplateSource(text=CHATML, origin="test"), max_chars=50).render(said(("user", "x" * 60)))
    with pytest.raises(InvalidRequest, match="no message"):
        template(CHATML).render([])


def test_lone_surrogates_of_a_template_do_not_reach_the_tokenizer() -> None:
    assert template("a{{ '\\ud83d' }}b").render(ASKED).text == "a\ufffdb"


class TestContinuing:
    def test_a_template_that_trims(self) -> None:
        text = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
        messages = said(("user", "Hi"), ("assistant", "One moment, "))
        assert template(text).render(messages, continue_final_message=True).text == "<user>Hi<end><assistant>One moment,"

    def test_a_template_that_rewrites_the_reply(self) -> None:
        text = "{% for m in messages %}{{ m.role + ': ' + m.content.replace('\\n\\n', '\\n') + '|' }}{% endfor %}"
        messages = said(("user", "Hi"), ("assistant", "a\n\nb"))
        assert template(text).render(messages, continue_final_message=True).text == "user: Hi|assistant: a\n\nb"

    def test_a_template_that_leaves_the_reply_out(self) -> None:
        with pytest.raises(InvalidRequest, match="cannot be continued"):
            template("{{ messages[0].content }}").render(said(("user", "Hi"), ("assistant", "Yo")), continue_final_message=True)

    def test_a_user_message_can_be_continued(self) -> None:
        rendered = template(CHATML).render(said(("user", "Once upon")), continue_final_message=True)
        assert rendered.text == "<|im_start|>user\nOnce upon"

    @pytest.mark.parametrize("options", [{}, {"thinking_off": True}])
    @pytest.mark.parametrize("reply", ["<think>\nHm, so", "<think>\nHm\n</think>\n\nSo, "])
    def test_thinking_is_continued_where_it_stands(self, reply: str, options: dict[str, bool]) -> None:
        messages = said(("user", "Hi"), ("assistant", reply))
        rendered = template(THINKING).render(messages, continue_final_message=True, variables=options)
        assert rendered.text == "<user>Hi<end><assistant>" + reply

    def test_an_opened_thinking_tag_is_not_repeated(self) -> None:
        messages = said(("user", "Hi"), ("assistant", "<think>\nHm\n</think>\n\nSo"))
        rendered = template(OPENS_THINKING).render(messages, continue_final_message=True)
        assert rendered.text == "<user>Hi<end><assistant><think>\nHm\n</think>\n\nSo"

    def test_a_template_that_refuses_thinking_in_a_reply(self) -> None:
        text = "{% for message in messages %}{% if '<think>' in message.content %}{{ raise_exception('no') }}{% endif %}"
        text += CHATML.partition("%}")[2]
        messages = said(("user", "Hi"), ("assistant", "<think>Hm"))
        assert template(text).render(messages, continue_final_message=True).text.endswith("<|im_start|>assistant\n<think>Hm")


class TestSpans:
    MESSAGES = said(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "So long"))

    def texts(self, text: str, messages: list[Message] | None = None) -> list[str]:
        rendered = template(text).render(messages or self.MESSAGES, add_generation_prompt=False)
        return [rendered.text[start:end] for start, end in rendered.spans]

    def test_by_rendering_prefixes(self) -> None:
        assert self.texts(CHATML) == ["Hello<|im_end|>\n", "So long<|im_end|>\n"]

    def test_by_generation_blocks(self) -> None:
        text = (
            "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
            "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        )
        assert self.texts(text) == ["Hello", "So long"]

    def test_turns_whose_history_is_rewritten_have_none(self) -> None:
        thought = said(("user", "Hi"), ("assistant", "<think>a</think>Hello"), ("user", "Bye"), ("assistant", "<think>b</think>So long"))
        assert self.texts(THINKING, thought) == ["<think>\nb\n</think>\n\nSo long<end>"]

    def test_a_prompt_that_opens_thinking(self) -> None:
        assert self.texts(OPENS_THINKING) == ["Hello<end>", "So long<end>"]

    def test_none_while_a_reply_is_asked_for(self) -> None:
        assert template(CHATML).render(self.MESSAGES).spans == ()


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("{{ thinking is defined and thinking }}", "True", "False"),
        ("{{ thinking_budget | default(-1) }}", "-1", "0"),
        ("{{ enable_thinking }}{{ thinking is defined }}", "TrueFalse", "FalseFalse"),
    ],
)
def test_thinking_is_switched_by_the_name_that_the_template_has_for_it(text: str, on: str, off: str) -> None:
    assert [template(text).render(said(("user", "Hello")), variables={"enable_thinking": value}).text for value in (True, False)] == [on, off]


def test_who_gives_the_name_that_the_template_has_is_obeyed() -> None:
    rendered = template("{{ thinking }}{{ thinking_budget }}").render(said(("user", "Hello")), variables={"enable_thinking": False, "thinking": True, "thinking_budget": 9})
    assert rendered.text == "True9"


def test_open_thinking_tag() -> None:
    assert open_thinking_tag("<|im_start|>assistant\n<think>\n") == "<think>"
    assert open_thinking_tag("<|im_start|>assistant\n<think>\n\n</think>\n\n") == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("first\n{% for m in %}\nx{% endfor %}", 2),
        ("a\nb\n{% if messages %}", 3),
        ("a\n\n{{ messages[0].content | nonsense }}", 3),
        ("a\n{{ messages[7].content.x }}", 2),
        ("{% for m in messages %}\n\n{{ raise_exception('No') }}\n{% endfor %}", 3),
        ("{% macro one() %}\n{{ 1 / 0 }}\n{% endmacro %}\n\n{{ one() }}", 2),
    ],
)
def test_an_error_names_its_line(text: str, line: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template(text).render(said(("user", "Hi")))
    assert caught.value.details["line"] == line
