"""Shapes over both real back ends with the starter model: what it writes fits, however sure of something else it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from modules.core.errors import InvalidRequest
from modules.core.model import DraftSource, LoadedModel
from modules.core.params import GenerationParams
from modules.engine.constraints import Constraints
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from tests.contracts.test_engines import Watched
from tests.fakes import Inbox

QUESTION = "<|im_start|>user\nHow do I load a model?<|im_end|>\n<|im_start|>assistant\n"
ANIMAL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,11}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "kind": {"enum": ["cat", "dog", "Wellensittich"]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "maxItems": 2},
    },
    "required": ["name", "age", "kind", "friends"],
    "additionalProperties": False,
    "$defs": {"friend": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 12}]}},
}
MOVES = """root ::= "1. " move " " move "\\n" ([1-9] ". " move " " move "\\n"){2}
move ::= ([NBKQR] [a-h]? "x"? [a-h] [1-8] | ([a-h] "x")? [a-h] [1-8] ("=" [NBQR])? | "O-O" "-O"?) [+#]?"""


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def model(request: pytest.FixtureRequest, starter_dir: Path, starter_gguf: Path) -> Iterator[LoadedModel]:
    path = starter_gguf if request.param == "llama.cpp" else starter_dir
    spec = find_loader(path, request.param)
    loaded = spec.load(path, spec.options(context_length=512, slots=4, draft_lookup=True, draft_tokens=4), lambda stage, done: None)
    yield loaded
    loaded.runner.close()


def write(model: LoadedModel, *fields: dict[str, Any], lookup: bool = False) -> list[tuple[str, str | None]]:
    """The replies to the same question, all at once, with their ends."""
    inbox = Inbox()
    engine = Engine(Watched(model.runner), model.tokenizer, inbox, draft=DraftSource(None, 4) if lookup else None)
    ids = model.tokenizer.encode(QUESTION, add_special=True, parse_special=True)
    generations = [engine.submit(ids, GenerationParams(**{"seed": 1, "max_tokens": 300} | more)) for more in fields]
    inbox.wait(*generations)
    assert engine.close()
    assert not inbox.errors
    return [(inbox.text(one), inbox.last(one).finish_reason) for one in generations]


def test_objects_of_a_schema(model: LoadedModel) -> None:
    replies = write(model, *({"json_schema": ANIMAL, "seed": seed, "ban_eos": bool(seed % 2)} for seed in range(3)))
    validator = jsonschema_rs.validator_for(ANIMAL)
    for text, reason in replies:
        assert validator.is_valid(json.loads(text)), text
        assert reason == "stop"
    assert len({text for text, _ in replies}) == 3


def test_an_object_of_many_columns_none_of_which_has_to_come(model: LoadedModel) -> None:
    columns = {f"k{number}": {"type": "string"} for number in range(1500)}
    one = Constraints(model.tokenizer, model.runner.vocab_size).constraint(GenerationParams(json_schema={"properties": columns}), model.tokenizer.end_ids)
    assert one is not None
    for token_id in model.tokenizer.encode('{"k7": "sea", "k1499": "hill"}', add_special=False, parse_special=False):
        assert one.allows(token_id)
        assert token_id in one.allowed()
        one.advance(token_id)
    assert one.finished
    too_many = {f"k{number}": {"type": "string"} for number in range(2200)}
    with pytest.raises(InvalidRequest, match="The JSON schema cannot be used: .* items; max is 8000"):
        Constraints(model.tokenizer, model.runner.vocab_size).constraint(GenerationParams(json_schema={"properties": too_many}), model.tokenizer.end_ids)


def test_other_shapes_and_none_side_by_side(model: LoadedModel) -> None:
    date, answer, moves, free = write(
        model, {"regex": r"\d{4}-\d{2}-\d{2}"}, {"choices": ("ja, gerne", "nein", "是")}, {"grammar": MOVES}, {"temperature": 0, "max_tokens": 20}
    )
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date[0])
    assert answer[0] in ("ja, gerne", "nein", "是")
    assert moves[0].count("\n") == 3
    assert moves[0].startswith("1. ")
    assert {date[1], answer[1], moves[1]} == {"stop"}
    assert free == write(model, {"temperature": 0, "max_tokens": 20})[0]


def test_what_the_model_wants_and_the_shape_allows_is_the_same_text(model: LoadedModel) -> None:
    free, shaped = write(model, {"temperature": 0}, {"temperature": 0, "regex": r"[\s\S]*"})
    assert free == shaped
    drawn, shaped = write(model, {"seed": 5}, {"seed": 5, "regex": r"[\s\S]*"})
    assert drawn == shaped


def test_drafts_change_nothing(model: LoadedModel) -> None:
    fields = [{"json_schema": ANIMAL, "seed": 4}, {"regex": r"(the model page, ){5}\w{3}", "temperature": 0}]
    assert write(model, *fields, lookup=True) == write(model, *fields)


def test_the_vocabulary_is_read_as_it_is(model: LoadedModel) -> None:
    """Each token may come exactly where its bytes may."""
    constraints = Constraints(model.tokenizer, model.runner.vocab_size)
    one = constraints.constraint(GenerationParams(regex=r"[ a-z]{1,40}"), model.tokenizer.end_ids)
    expected = [
        token_id for token_id in range(model.tokenizer.vocab_size)
        if re.fullmatch(rb"[ a-z]{1,40}", model.tokenizer.piece(token_id)) and not model.tokenizer.is_special(token_id)
    ]  # fmt: skip
    assert len(expected) > 300
    assert np.array_equal(one.allowed(), expected)
