"""Adapters that a sleeping model had in use, when it wakes: in the version of their files, as far as these are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.model import Adapter
from modules.loaders.adapter_facts import files_version
from modules.services import engine_starter


def test_adapters_have_the_version_of_their_files_also_when_these_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own"
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    adapters = [Adapter(path=str(path), scale=1.0, version="old"), Adapter(path=str(tmp_path / "gone"), scale=0.5, version="old")]
    assert [adapter.version for adapter in engine_starter._as_now(adapters)] == [files_version(path), ""]
    assert [adapter.scale for adapter in engine_starter._as_now(adapters)] == [1.0, 0.5]

    def deleted_meanwhile(_: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(engine_starter, "files_version", deleted_meanwhile)
    assert [adapter.version for adapter in engine_starter._as_now(adapters)] == ["", ""]
