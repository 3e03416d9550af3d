"""Calls of tools that have to come, and those that are held to schemas where the model makes them: what is written is such a call."""

from __future__ import annotations

import re

import pytest

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.core.text_shape import CallText, FramedJson, TaggedField, TaggedItem
from modules.engine.constraints import Constraints
from tests.engine.test_constraints import PROMPT, babble
from tests.fakes import BOS, EOS, MARK, VOCAB_SIZE, ByteTokenizer, FakeRunner

PLACE = '{"type":"object","properties":{"at":{"enum":["sea","hill"]}},"required":["at"],"additionalProperties":false}'
ANYTHING = FramedJson((("<|mark|>look ", PLACE, "<|mark|>"), ("<|mark|>now ", '{"type":"object","additionalProperties":false}', "<|mark|>")), "(", ", ", ")", 3)


@pytest.fixture
def babbling(bench):
    engine, _, inbox = bench(FakeRunner(context=1024, rule=babble))
    return engine, inbox


def call(engine, inbox, calls, prompt=PROMPT, **fields):
    generation = engine.submit(prompt, GenerationParams(**{"seed": 1, "max_tokens": 400} | fields), calls=calls)
    inbox.wait(generation)
    assert generation not in inbox.errors, inbox.errors
    return inbox.text(generation), inbox.last(generation).finish_reason


@pytest.mark.parametrize("marks", [("<|mark|>",), ()])
def test_calls_are_forced_with_their_marks_as_special_tokens_or_letters(babbling, marks):
    one = r'<\|mark\|>(look \{\s*"at"\s*:\s*"(sea|hill)"\s*\}|now \{\s*\})<\|mark\|>'
    texts = set()
    for seed in range(6):
        text, finish = call(*babbling, CallText(marks, ANYTHING), seed=seed)
        assert finish == "stop"
        assert re.fullmatch(rf"\({one}(, {one}){{0,2}}\)", text), text
        texts.add(text)
    assert len(texts) > 1
    engine, inbox = babbling
    generation = engine.submit(PROMPT, GenerationParams(seed=1, max_tokens=400), calls=CallText(marks, ANYTHING))
    inbox.wait(generation)
    assert (MARK in inbox.ids(generation)) == bool(marks)


def test_a_call_or_json_where_either_may_come(babbling):
    either = FramedJson((("look ", PLACE, ""),), otherwise='{"type":"integer","minimum":0,"maximum":9}')
    assert call(*babbling, CallText((), either))[0].isdigit()
    assert call(*babbling, CallText((), either), logit_bias={ord("l"): 100})[0].startswith("look {")


@pytest.mark.parametrize("marks", [("<|mark|>",), ()])
def test_calls_are_held_to_schemas_where_the_model_makes_them(marks):
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)
    calls = CallText(marks, FramedJson((("<|mark|>look ", PLACE, "."),), between=" ", most=2, after="<|mark|>"))
    mark = [MARK] if marks else list(b"<|mark|>")

    def follows(*parts: bytes | list[int]) -> bool | None:
        """Whether the text may end so; None where it may not even come."""
        constraint = constraints.constraint(GenerationParams(), {EOS}, [], calls)
        for token_id in (token_id for part in parts for token_id in part):
            if not constraint.allows(token_id):
                return None
            constraint.advance(token_id)
        return constraint.allows(EOS)

    place = b'look {"at": "sea"}.'
    assert follows() is True
    assert follows(b"look, a < b <|mar, and {plain} words") is True
    assert follows(b"I look.", mark, place) is True
    assert follows(mark, place, b" ", mark, place) is True
    assert follows(mark, b"look {") is False
    assert follows(mark, b'look {"at": "sky') is None
    assert follows(b"I look.", mark, b"lake") is None
    assert follows(mark, place, b" ", mark, b"x") is None


def test_arguments_in_tags_are_forced_in_their_order():
    fields = (TaggedField("<at>", "</at>"), TaggedField("<days>", "</days>", '{"type":"integer"}', required=False), TaggedField("<how>", "</how>", choices=("by sea", "on foot")))
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)
    calls = CallText((), FramedJson((("call now ", '{"type":"object","additionalProperties":false}', ""),), tagged=(TaggedItem("call look", fields, "!"),)))

    def fits(text: str) -> bool:
        constraint = constraints.constraint(GenerationParams(), {EOS}, [], calls)
        for token_id in text.encode():
            if not constraint.allows(token_id):
                return False
            constraint.advance(token_id)
        return constraint.allows(EOS)

    assert fits("call look<at>over <b> there\n</at><days>3</days><how>on foot</how>!")
    assert fits("call look<at></at><how>by sea</how>!")
    assert fits("call now {}")
    assert not fits("call look<how>by sea</how>!")
    assert not fits("call look<at>x</at><days>many")
    assert not fits("call look<at>x</at><how>by car")
    assert not fits("call look<at>x</at>!")


@pytest.mark.parametrize("marks", [("<|mark|>",), ()])
def test_a_model_may_think_before_a_call_that_has_to_come(marks):
    frame = FramedJson((("look ", PLACE, ""),), thinking=("<think>", "<|mark|>"))
    closing = [MARK] if marks else list(b"<|mark|>")

    def fits(*parts: bytes | list[int]) -> bool:
        constraint = Constraints(ByteTokenizer(), VOCAB_SIZE).constraint(GenerationParams(), {EOS}, [], CallText(marks, frame))
        for token_id in (token_id for part in parts for token_id in part):
            if not constraint.allows(token_id):
                return False
            constraint.advance(token_id)
        return constraint.allows(EOS)

    assert fits(b'look {"at": "sea"}')
    assert fits(b"<think>\nlook {where?}\n", closing, b"\n\n", b'look {"at": "hill"}')
    assert fits(b"<think>", closing, b'look {"at": "hill"}')
    assert not fits(b"<think>Hm.")
    assert not fits(b"<think>Hm.", closing, b"So: ")
    assert not fits(b"Hm.")


def test_marks_are_shown_where_they_are_asked_for_and_a_schema_that_cannot_be_kept_is_refused(babbling):
    assert "<|mark|>" in call(*babbling, CallText(("<|mark|>",), None), max_tokens=5, logit_bias={MARK: 100})[0]
    with pytest.raises(InvalidRequest, match="parameters of a tool"):
        call(*babbling, CallText((), FramedJson((("look ", '{"not":{}}', ""),))))


@pytest.mark.parametrize(("opening", "closing", "marks", "end"), [
    ("<think>", "</think>", (), EOS), ("<think>", "</think>", ("<|mark|>",), EOS), ("<s>", "</s>", ("<s>", "</s>"), MARK), ("<think>", "</s>", ("</s>",), BOS),
])  # fmt: skip
def test_what_is_thought_is_free_and_a_mark_in_it_begins_no_call(opening, closing, marks, end):
    """Tags and mark as letters or special tokens."""
    mark = "<|mark|>"
    frame = FramedJson(((f"{mark}look ", PLACE, "."),), after=mark, thinking=(opening, closing))
    special = {"<|mark|>": MARK, "<s>": BOS, "</s>": EOS}
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)

    def ids(text: str) -> list[int]:
        parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
        return [token_id for part in parts for token_id in ([special[part]] if part in marks else list(part.encode()))]

    def follows(text: str) -> bool | None:
        constraint = constraints.constraint(GenerationParams(), {end}, [], CallText(marks, frame))
        for token_id in ids(text):
            if not constraint.allows(token_id):
                return None
            constraint.advance(token_id)
        return constraint.allows(end)

    place = 'look {"at": "sea"}.'
    assert follows("plain <words>") is True
    assert follows(f"Look: {mark}{place}") is True
    assert follows(f"{mark}lake") is None
    if mark not in marks:
        assert follows(f"{opening}I could use {mark} here.{closing}\n\nNo call.") is True
        assert follows(f"{opening}{mark}lake{closing}Well: {mark}{place}") is True
    assert follows(f"{opening}Hm.{closing}\n{mark}{place}") is True
    assert follows(f"{opening}Hm.{closing}\n{mark}lake") is None
    assert follows(f"{opening}Hm.") is False
    assert follows("<thin ice>") is True
