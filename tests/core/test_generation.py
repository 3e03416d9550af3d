"""What an engine tells of itself is declared in one place, with words for people and the kind that metrics need."""

from __future__ import annotations

from dataclasses import asdict

from modules.core.generation import EngineCounters, figures


def test_every_field_of_the_counters_says_what_it_is() -> None:
    told = figures()
    assert [figure.name for figure in told] == list(asdict(EngineCounters()))
    for figure in told:
        assert figure.kind in ("counter", "gauge")
        assert figure.meaning[0].isupper()
        assert figure.meaning.endswith(".")
    assert EngineCounters() == EngineCounters(*[0] * len(told))
