"""The shipped list of first models: names that can be pasted, smallest first, dated."""

from __future__ import annotations

from datetime import date

from modules.hub.first_models import read_first_models
from modules.hub.names import parse_reference


def test_the_list_is_dated_sorted_and_made_of_names_that_can_be_pasted() -> None:
    listed = read_first_models()
    assert listed.dated <= date(2100, 1, 1)
    needs = [model.needs_gb for model in listed.models]
    assert needs == sorted(needs)
    assert needs[0] < 2
    assert needs[-1] > 16
    for model in listed.models:
        ref = parse_reference(model.name)
        assert ref.quantization
        assert f"{ref.repo}:{ref.quantization}" == model.name
        assert model.about
