"""A list whose entries come and go."""

from __future__ import annotations

import gradio as gr
import pytest

from modules.ui.changing_choice import ChangingChoice


def test_the_page_may_name_an_entry_that_was_just_taken_out() -> None:
    chosen = ChangingChoice(choices=[("None", ""), "here"])
    assert [chosen.preprocess(name) for name in ("here", "gone", "", None)] == ["here", "gone", "", None]
    for nonsense in (["gone"], 7):
        with pytest.raises(gr.Error):
            chosen.preprocess(nonsense)  # type: ignore[arg-type]
    assert chosen.get_block_name() == "dropdown"
