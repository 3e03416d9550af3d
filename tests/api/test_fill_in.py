"""Filling a gap: the tokens that a model has for it decide how it is written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modules.api.fill_in import GAPS, with_gap
from modules.core.errors import InvalidRequest


def knowing(*special: str) -> SimpleNamespace:
    """What tokenizes like a model with these special tokens: all other characters are tokens of their own."""

    async def tokenize(text: str, model: str) -> list[int]:
        for token in special:
            text = text.replace(token, "\0")
        return list(range(len(text)))

    return SimpleNamespace(tokenize=tokenize)


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.marks[0])
async def test_each_family_is_written_its_own_way(gap: object) -> None:
    assert isinstance(gap, type(GAPS[0]))
    written = await with_gap(knowing(*gap.marks), "be{after}fore", "af{before}ter", "")  # type: ignore[arg-type]
    assert all(written.count(mark) == 1 for mark in gap.marks)
    for mark in gap.marks:
        written = written.replace(mark, "|")
    assert sorted(written.strip("|").split("|")) == ["af{before}ter", "be{after}fore"], "what the texts say is not written over"


async def test_a_model_that_was_not_trained_for_it_is_told() -> None:
    with pytest.raises(InvalidRequest, match="no tokens for filling a gap") as caught:
        await with_gap(knowing("<|fim_prefix|>"), "a", "b", "")  # type: ignore[arg-type]
    assert caught.value.details["field"] == "suffix"
