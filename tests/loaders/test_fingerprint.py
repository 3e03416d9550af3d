"""A fingerprint is the same for the same model and tells in what another one differs; weights are read once while their files stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from modules.loaders.fingerprint import fingerprint
from tests.tiny_models import TinyFiles


def test_it_tells_in_what_a_model_differs(tiny: TinyFiles, tmp_path: Path) -> None:
    ours = fingerprint(tiny.folder)
    copy = shutil.copytree(tiny.folder, tmp_path / "copy")
    written = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    (copy / "tokenizer.json").write_text(json.dumps(written, indent=3, sort_keys=True), encoding="utf-8")  # other spaces, the same tokens
    assert fingerprint(copy) == ours
    written["added_tokens"][0]["content"] = "<other>"
    (copy / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    assert ours.difference(fingerprint(copy)) == "its tokenizer"
    shutil.copy(tiny.folder / "tokenizer.json", copy)
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    assert ours.difference(fingerprint(copy)) == "its weights"
    assert ours.difference(ours) == ""


def test_weights_are_read_once(tiny: TinyFiles, tmp_path: Path) -> None:
    counts: list[int] = []
    first = fingerprint(tiny.folder, tmp_path / "run", counts.append)
    assert sum(counts) == (tiny.folder / "model.safetensors").stat().st_size
    assert fingerprint(tiny.folder, tmp_path / "run", counts.append) == first
    assert sum(counts) == (tiny.folder / "model.safetensors").stat().st_size
    (tmp_path / "run" / "fingerprint.json").write_text("{", encoding="utf-8")
    assert fingerprint(tiny.folder, tmp_path / "run", counts.append) == first
