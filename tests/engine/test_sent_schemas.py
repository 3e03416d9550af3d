"""Schemas as people send them: what fits may be written, and nothing else; how many can be kept to is what the documentation says."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.engine.constraints import Constraints
from tests.engine.sent_schemas import ALL, Sent
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer

CONSTRAINTS = functools.cache(lambda: Constraints(ByteTokenizer(), VOCAB_SIZE))
KEPT = [one for one in ALL if not one.refused]


def fits(schema: Any, document: Any) -> bool:
    """Whether a document may be written and end there."""
    one = CONSTRAINTS().constraint(GenerationParams(json_schema=schema), {EOS})
    assert one is not None
    for byte in json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode():
        if not one.allows(byte):
            return False
        one.advance(byte)
    return one.allows(EOS)


@pytest.mark.parametrize("sent", KEPT, ids=lambda sent: sent.name)
def test_what_fits_may_be_written_and_nothing_else(sent: Sent) -> None:
    given = copy.deepcopy(sent.schema)
    assert [document for document in sent.good if not fits(sent.schema, document)] == []
    assert [document for document in sent.bad if fits(sent.schema, document)] == []
    assert [document for document in sent.loose if not fits(sent.schema, document)] == []
    assert sent.schema == given


@pytest.mark.parametrize("sent", KEPT, ids=lambda sent: sent.name)
def test_somebody_else_judges_the_documents_in_the_same_way(sent: Sent) -> None:
    """So that the lists say what the schemas mean, and not what is done here."""
    judge = jsonschema_rs.validator_for(sent.schema, validate_formats=True)
    assert [document for document in sent.good if not judge.is_valid(document)] == []
    assert [document for document in (*sent.bad, *sent.loose) if judge.is_valid(document)] == []


@pytest.mark.parametrize("sent", [one for one in ALL if one.refused], ids=lambda sent: sent.name)
def test_what_cannot_be_kept_to_is_refused_with_its_word(sent: Sent) -> None:
    with pytest.raises(InvalidRequest, match=sent.refused) as refused:
        fits(sent.schema, 1)
    assert refused.value.message.endswith(".")
    assert refused.value.details["field"] == "json_schema"


def test_the_documentation_says_how_many() -> None:
    text = Path("docs/constraints.md").read_text(encoding="utf-8")
    assert f"{len(KEPT)} of {len(ALL)} schemas" in text
