"""How models were loaded, read back."""

from __future__ import annotations

from pathlib import Path

from modules.services.model_choices import LoadChoice, ModelChoices


def test_a_former_default_that_was_stored_with_every_model_is_nobody_s_choice(tmp_path: Path) -> None:
    choices = ModelChoices(tmp_path / "models.yaml")
    for stored, read in ({"mmap": True, "slots": 2}, {"slots": 2}), ({"mmap": False}, {"mmap": False}), ({"slots": 4}, {"slots": 4}), ({"mmap": "on", "dtype": None}, {"mmap": "on", "dtype": None}):
        choices.remember(LoadChoice("a.gguf", "llama.cpp", stored))
        assert choices.of("a.gguf").options == read
