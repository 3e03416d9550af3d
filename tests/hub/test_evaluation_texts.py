"""The shipped list of well-known texts: names and paths that can be fetched, each once, with their licence."""

from __future__ import annotations

from pathlib import Path

from modules.hub.evaluation_texts import read_evaluation_texts
from modules.hub.names import checked_path, checked_repo, checked_revision


def test_each_can_be_fetched_and_is_told_apart() -> None:
    texts = read_evaluation_texts().texts
    assert len({text.id for text in texts}) == len({(text.repo, text.path) for text in texts}) == len(texts)
    assert {"wikitext-2-test", "ptb-validation", "ptb-test"} <= {text.id for text in texts}
    for text in texts:
        assert checked_repo(text.repo, "dataset") and checked_revision(text.revision) and checked_path(text.path)
        assert text.licence and text.about and text.title
        assert bool(text.column) == bool(text.joined_by) == (Path(text.path).suffix == ".parquet")
