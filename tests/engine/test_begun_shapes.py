"""A reply that goes on: what the prompt has of it already counts, so the whole of it has the shape."""

from __future__ import annotations

import json

import pytest

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.core.text_shape import CallText, FramedJson
from modules.engine.constraints import Constraints
from tests.engine.test_constraints import PROMPT, babble
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer, FakeRunner

OBJECT = {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"enum": ["sea", "hill"]}}, "required": ["a", "b"], "additionalProperties": False}


@pytest.fixture(scope="module")
def constraints():
    return Constraints(ByteTokenizer(), VOCAB_SIZE)


def fits(constraints, begun: str, text: str, calls: CallText | None = None, **shape) -> bool:
    """Whether a reply with this beginning may go on so and end."""
    constraint = constraints.constraint(GenerationParams(**shape), {EOS}, [], calls, begun)
    for token_id in text.encode():
        if not constraint.allows(token_id):
            return False
        constraint.advance(token_id)
    return constraint.allows(EOS)


@pytest.mark.parametrize("cut", range(25))
def test_an_object_is_one_object_wherever_it_was_cut(constraints, cut):
    whole = '{"a": 1, "b": "sea"}\n'[:-1]
    begun = whole[:cut]
    assert fits(constraints, begun, whole[cut:], json_schema=OBJECT)
    assert not begun or not fits(constraints, begun, whole, json_schema=OBJECT)


def test_what_cannot_begin_so_is_refused_with_a_sentence(constraints):
    for shape in ({"json_schema": OBJECT}, {"regex": "Yes, .*"}, {"choices": ("one", "two")}, {"grammar": 'root ::= "x"+'}):
        with pytest.raises(InvalidRequest, match="What the reply begins with does not fit the .*have it written anew"):
            fits(constraints, "Well", "", **shape)
    assert fits(constraints, "Yes", ", ü", regex="Yes, .*")
    assert fits(constraints, "t", "wo", choices=("one", "two"))


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_thinking_that_is_open_goes_on_and_what_is_thought_is_no_part_of_the_shape(constraints, tags):
    opening, closing = tags
    assert fits(constraints, f"{opening}\nLet me see, the", f" end.\n{closing}\n\n" + '{"a": 1, "b": "sea"}', json_schema=OBJECT)
    assert not fits(constraints, f"{opening}\nLet me see, the", " end.", json_schema=OBJECT)
    assert fits(constraints, f"{opening}Hm.{closing}\n\n" + '{"a": 1, ', '"b": "sea"}', json_schema=OBJECT)
    assert fits(constraints, "<", "b>", regex="<b>")


def test_a_call_that_has_to_come_goes_on_too(constraints):
    calls = CallText((), FramedJson((("look ", json.dumps(OBJECT), "."),)))
    assert fits(constraints, "look {", '"a": 2, "b": "hill"}.', calls)
    assert fits(constraints, "I shall look.", 'look {"a": 2, "b": "hill"}.', calls)
    assert not fits(constraints, "I shall look.", "Well", calls)


def test_a_reply_that_is_complete_ends_at_once(bench):
    engine, _, inbox = bench(FakeRunner(context=512, rule=babble))
    for begun in ('{"a": 1, "b": "sea"}', '{"a":1,"b":"hil'):
        generation = engine.submit(PROMPT, GenerationParams(json_schema=OBJECT, seed=1, max_tokens=50), begun=begun)
        inbox.wait(generation)
        assert inbox.last(generation).finish_reason == "stop"
        assert json.loads(begun + inbox.text(generation)) == {"a": 1, "b": "sea" if "sea" in begun else "hill"}
