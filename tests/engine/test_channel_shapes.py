"""Replies in channels have their shape in the final one, and may think before it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.core.text_shape import CallText
from modules.engine.constraints import Constraints
from modules.engine.engine import Engine
from tests.engine.test_constraints import babble
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer, FakeRunner, Inbox

NAMES = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
IDS = {name: VOCAB_SIZE + place for place, name in enumerate(NAMES)}
SIZE = VOCAB_SIZE + len(NAMES)
OBJECT = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
SHAPES = ({"json_schema": OBJECT}, {"regex": '\\{"a": [12]\\}'}, {"choices": ('{"a": 1}', '{"a": 2}')}, {"grammar": 'root ::= "{" root2 "}"\nroot2 ::= "\\"a\\": " [12]'})
THOUGHT = ("<|channel|>", "analysis", "<|message|>", "Which {a}? 1.", "<|end|>", "<|start|>", "assistant")
ANSWER = ("<|channel|>", "final", "<|message|>", '{"a": 1}')


class Harmony(ByteTokenizer):
    """The same with the marks of channels."""

    vocab_size = SIZE

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return [IDS[text]] if parse_special and text in IDS else super().encode(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token_id: int) -> bytes:
        return NAMES[token_id - VOCAB_SIZE].encode() if token_id >= VOCAB_SIZE else super().piece(token_id)


def ids_of(*parts: str) -> list[int]:
    return [token_id for part in parts for token_id in ([IDS[part]] if part in IDS else part.encode())]


PROMPT = ids_of("<|start|>", "user", "<|message|>", "Say it.", "<|end|>", "<|start|>", "assistant")


@pytest.fixture(scope="module")
def constraints() -> Constraints:
    return Constraints(Harmony(), SIZE)


def fits(constraints: Constraints, prompt: list[int], *parts: str, **shape: object) -> bool:
    constraint = constraints.constraint(GenerationParams(**shape), {EOS}, prompt)
    for token_id in ids_of(*parts):
        if not constraint.allows(token_id) or token_id not in constraint.allowed():
            return False
        constraint.advance(token_id)
    return constraint.allows(EOS)


@pytest.mark.parametrize("shape", SHAPES, ids=[next(iter(shape)) for shape in SHAPES])
def test_the_answer_has_the_shape_behind_its_header_and_thinking_is_free(constraints, shape) -> None:
    assert fits(constraints, PROMPT, *ANSWER, **shape)
    assert fits(constraints, PROMPT, *THOUGHT, *ANSWER, **shape)
    assert fits(constraints, [*PROMPT, *ids_of("<|channel|>", "analysis", "<|message|>")], *THOUGHT[3:], *ANSWER, **shape)
    assert not fits(constraints, PROMPT, '{"a": 1}', **shape)
    assert not fits(constraints, PROMPT, *THOUGHT, **shape)
    assert not fits(constraints, PROMPT, *THOUGHT, *THOUGHT, *ANSWER, **shape)
    assert not fits(constraints, PROMPT, *THOUGHT, *ANSWER[:3], '{"a": 3}', **shape)
    assert not fits(constraints, PROMPT, "<|channel|>", "commentary", "<|message|>", "x", **shape)
    assert fits(constraints, [*PROMPT, *ids_of(*ANSWER[:3])], ANSWER[3], **shape)  # the prompt has the header already


def test_a_model_without_the_marks_has_the_shape_at_once() -> None:
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)
    constraint = constraints.constraint(GenerationParams(json_schema=OBJECT), {EOS}, list(b"<|start|>assistant"))
    assert constraint.allows(ord("{"))


def test_marks_that_are_text_are_none(constraints) -> None:
    assert fits(constraints, PROMPT, *ANSWER[:3], "<|end|>".replace("|", ":"), regex="<:end:>")
    assert not fits(constraints, PROMPT, *ANSWER[:3], *THOUGHT[:3], regex=".*")


def test_what_nothing_fits_is_refused_there_too(constraints) -> None:
    with pytest.raises(InvalidRequest, match="json_schema|JSON schema"):
        constraints.constraint(GenerationParams(json_schema={"type": "string", "minLength": 5, "maxLength": 2}), {EOS}, PROMPT)


THINKING = CallText(thinking=("<think>", "</think>"))


def test_a_model_that_opens_thinking_by_itself_may_do_so_before_an_object(constraints) -> None:
    def goes(prompt: str, text: str, calls: CallText | None = THINKING, **shape: object) -> bool:
        constraint = constraints.constraint(GenerationParams(**(shape or {"json_schema": OBJECT})), {EOS}, list(prompt.encode()), calls)
        for token_id in text.encode():
            if not constraint.allows(token_id) or token_id not in constraint.allowed():
                return False
            constraint.advance(token_id)
        return constraint.allows(EOS)

    thought = "<think>\nWhich {a}? 1.\n</think>\n\n"
    assert goes("assistant\n", '{"a": 1}')
    assert goes("assistant\n", thought + '{"a": 1}')
    assert not goes("assistant\n", thought + thought + '{"a": 1}')
    assert not goes("assistant\n", thought)
    assert not goes("assistant\n", "<think>{")
    assert not goes("assistant\n", thought + '{"a": 1}', calls=None)
    assert not goes("<think>\n\n</think>\n\n", thought + '{"a": 1}')  # it is not to think
    assert goes("<think>\n\n</think>\n\n", '{"a": 1}')
    assert goes("assistant\n<think>\n", "So.\n</think>\n\n" + '{"a": 1}')  # the prompt has opened it
    assert not goes("assistant\n", thought + "x", regex="x")  # other shapes are the whole text
    assert goes("assistant\n", "x", regex="x")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_written_is_thinking_and_an_object(engines, seed: int) -> None:
    engine, inbox = engines
    generation = engine.submit(PROMPT, GenerationParams(json_schema=OBJECT, seed=seed, max_tokens=400))
    inbox.wait(generation)
    text = inbox.text(generation)
    _, closed, answer = text.rpartition("</think>")
    assert json.loads(answer)["a"] in (1, 2)
    assert bool(closed) == text.startswith("<think>")


@pytest.fixture
def engines():
    inbox = Inbox()
    runner = FakeRunner(context=1024, rule=wide)
    runner.vocab_size = SIZE
    engine = Engine(runner, Harmony(), inbox)
    yield engine, inbox
    engine.close()


def wide(ids):
    row = np.zeros(SIZE, np.float32)
    row[:VOCAB_SIZE] = babble(ids)
    row[list(IDS.values())] = 4.0
    return row
