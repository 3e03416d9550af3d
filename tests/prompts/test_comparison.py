"""Comparison: a template beside another one, and what training writes beside what chats ask with."""

from __future__ import annotations

from modules.core.model import TemplateSource
from modules.prompts.comparison import beside_own, trained_as_asked
from modules.prompts.template import Template

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template(text: str) -> Template:
    return Template(TemplateSource(text=text, origin="test"))


def test_the_same_form_in_other_words_is_the_same() -> None:
    other = CHATML.replace("m.role", "m['role']")
    (found,) = beside_own(template(CHATML).render, template(other).render)
    assert (found.level, found.sentence) == ("ok", "All 6 sample conversations are written as by the model's own template.")


def test_the_first_difference_is_shown() -> None:
    other = CHATML.replace("<|im_end|>\n", "<|im_end|>")
    (found,) = beside_own(template(CHATML).render, template(other).render)
    assert found.level == "note"
    assert "6 of 6 sample conversations" in found.sentence
    assert "in “One question”: here “↵<|im_start|>assistant↵”, there “<|im_start|>assistant↵”." in found.sentence


def test_one_that_ends_sooner_and_one_that_refuses() -> None:
    (shorter,) = beside_own(template(CHATML.partition("{% if add")[0]).render, template(CHATML).render)
    assert "here nothing more, there “<|im_start|>assistant↵”" in shorter.sentence
    refusing = "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no replies') }}{% endif %}{% endfor %}" + CHATML
    (found,) = beside_own(template(refusing).render, template(CHATML).render)
    assert found.sentence.startswith("3 of 6")
    assert "here “(refused)”" in found.sentence


def test_training_sees_replies_behind_what_chats_ask_with() -> None:
    (found,) = trained_as_asked(template(CHATML).render)
    assert found.level == "ok"


def test_a_template_that_asks_in_another_form_than_it_trains() -> None:
    other = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>bot\n' }}")
    (found,) = trained_as_asked(template(other).render)
    assert found.level == "note"
    assert "2 of 2 replies stand behind another text" in found.sentence


def test_a_template_without_a_system_role_is_trained_without_one() -> None:
    refusing = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}" + CHATML
    (found,) = trained_as_asked(template(refusing).render)
    assert found.level == "ok"


def test_a_template_that_takes_no_replies_trains_nothing() -> None:
    refusing = "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no replies') }}{% endif %}{% endfor %}" + CHATML
    (found,) = trained_as_asked(template(refusing).render)
    assert found.level == "note"
    assert "nothing can be trained" in found.sentence
