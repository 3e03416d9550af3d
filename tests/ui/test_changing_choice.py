"""A list whose entries come and go."""

from __future__ import annotations

from modules.ui.changing_choice import ChangingChoice


def test_the_page_may_name_an_entry_that_was_just_taken_out() -> None:
    chosen = ChangingChoice(choices=[("None", ""), "here"])
    assert [chosen.preprocess(name) for name in ("here", "gone", "")] == ["here", "gone", ""]
    assert [chosen.preprocess(nonsense) for nonsense in (None, ["here"], 7)] == [None] * 3
    assert chosen.get_block_name() == "dropdown"
