"""`server.py convert`: pickled weights become safetensors that load and compute the same, and nothing in them is run."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modules.core.errors import InvalidRequest, UnsupportedFormat
from modules.core.model import Adapter, Row
from modules.hub.inventory import Provenance, Record, StoredFile, read_record
from modules.loaders.model_info import list_adapters, list_models
from modules.loaders.transformers import TRANSFORMERS
from modules.services import convert_command as command
from modules.weights.convert import ConvertRequest, convert, find_pickles
from tests.paddock_server import ROOT
from tests.tiny_models import TinyFiles, write_folder


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self._marker), "w")


def pickled(source: Path, folder: Path, **options: Any) -> Path:
    """A copy of a model folder with its weights as one pickle."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    torch.save(load_file(source / "model.safetensors"), folder / "pytorch_model.bin", **options)
    return folder


def run(models: Path, *arguments: str) -> int:
    """The command in this process, its child in another."""
    (models.parent / "loras").mkdir(exist_ok=True)
    words = [*arguments, "--models-dir", str(models), "--loras-dir", str(models.parent / "loras"), "--state-dir", str(models.parent / "state")]
    return command.convert_command(words)


def logits(folder: Path, adapter: Path | None = None) -> Any:
    model = TRANSFORMERS.load(folder, TRANSFORMERS.options(threads=1, slots=1), lambda *_: None)
    if adapter is not None:
        model.set_adapters([Adapter(path=str(adapter))])
    found = model.runner.forward([Row(0, 0, [5, 6, 7, 8])])[0].copy()
    model.runner.close()
    return found


@pytest.mark.parametrize("zipped", [True, False])
def test_a_model_is_converted_and_answers_as_before(tiny: TinyFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str], zipped: bool) -> None:
    folder = pickled(tiny.folder, tmp_path / "models" / "old", _use_new_zipfile_serialization=zipped)
    problem = list_models(tmp_path / "models")[0].problem
    assert "“python server.py convert old”" in problem
    assert run(folder.parent, "old") == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "MB written" in said and "are kept" in said
    assert (folder / "pytorch_model.bin").is_file()
    before, after = load_file(tiny.folder / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert abs(logits(folder) - logits(tiny.folder)).max() < 1e-6
    assert run(folder.parent, "old") == 1
    assert "needs no conversion" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == [folder]  # nothing is left beside it


def test_parts_of_a_tied_model_and_the_record_of_deleted_pickles(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "qwen2", tie_word_embeddings=True)
    folder = pickled(source, tmp_path / "models" / "owner__parts")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    names = list(weights)
    (folder / "pytorch_model.bin").unlink()
    outer = ["lm_head.weight", "model.embed_tokens.weight"]
    parts = {"pytorch_model-00001-of-00002.bin": [*outer, *names[:4]], "pytorch_model-00002-of-00002.bin": [name for name in names[4:] if name not in outer]}
    parts["pytorch_model-00001-of-00002.bin"] = list(dict.fromkeys(parts["pytorch_model-00001-of-00002.bin"]))
    for file, held in parts.items():
        torch.save({name: weights[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    stored = tuple(StoredFile(path=name, placed=name, size=1) for name in (*parts, "config.json", "pytorch_model.bin.index.json"))
    record = Record(downloads=(Provenance(repo="owner/parts", revision="main", commit="a" * 40, endpoint="x", kind="folder", files=stored),))
    (folder / "paddock.json").write_text(record.model_dump_json())
    assert run(folder.parent, "owner__parts", "--delete-originals") == 0
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")  # the library ties it, as config.json says
    assert abs(logits(folder) - logits(source)).max() < 1e-6
    assert not list(folder.glob("pytorch_model*"))
    assert [file.placed for file in read_record(folder).downloads[0].files] == ["config.json"]


def test_shared_and_sliced_tensors_and_several_files(tmp_path: Path) -> None:
    whole = torch.arange(40, dtype=torch.float32).reshape(4, 10)
    weights = {"a": whole, "same": whole, "column": whole[:, 3], "flags": torch.tensor([True, False, True]), "half": torch.ones(5, dtype=torch.bfloat16), "one": torch.tensor(3)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    target = tmp_path / "target"
    target.mkdir()
    request = ConvertRequest(files=(tmp_path / "pytorch_model.bin",), target=target, is_adapter=False, tied=False, shard_bytes=200)
    told: list[tuple[int, int]] = []
    assert convert(request, lambda done, total: told.append((done, total))) == len(weights)
    index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    files = sorted(path.name for path in target.glob("*.safetensors"))
    assert sorted(set(index.values())) == files == [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)] and len(files) > 1
    found = {name: value for file in files for name, value in load_file(target / file).items()}
    assert all(torch.equal(found[name], value) and index[name] in files for name, value in weights.items())
    assert told[-1][0] == told[-1][1]


def test_an_adapter_is_converted_and_acts_as_before(tiny: TinyFiles, tmp_path: Path) -> None:
    adapter = tmp_path / "loras" / "old"
    shutil.copytree(tiny.adapter, adapter, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(tiny.adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (tmp_path / "models").mkdir()
    assert "“python server.py convert old”" in list_adapters(adapter.parent)[0].problem
    assert run(tmp_path / "models", "loras/old") == 0
    assert list_adapters(adapter.parent)[0].problem == ""
    assert abs(logits(tiny.folder, adapter) - logits(tiny.folder, tiny.adapter)).max() < 1e-6


def test_code_in_a_pickle_is_refused_and_not_run(tiny: TinyFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pickled(tiny.folder, tmp_path / "models" / "evil")
    marker = tmp_path / "marker"
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for write in (
        lambda path: torch.save({**weights, "x": Evil(marker)}, path),
        lambda path: torch.save({**weights, "x": Evil(marker)}, path, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Evil(marker), protocol=2)),
    ):
        write(folder / "pytorch_model.bin")
        assert run(folder.parent, "evil", "--delete-originals") == 1
        said = capsys.readouterr().err
        assert "open to be run, which no file of weights needs" in said and "nothing of it was run" in said
        assert not marker.exists()
        assert not list(folder.glob("*.safetensors")) and (folder / "pytorch_model.bin").is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no pickle at all", "Nothing of it was run|damaged"), ({"epoch": 3, "a": torch.ones(2)}, "something else than weights"), ([torch.ones(2)], "something else than weights"),
        ({"a": torch.ones(1).expand(1 << 40)}, "do not trust it"), ({"a": torch.ones(2, dtype=torch.complex64)}, "cannot hold"), ({"a": torch.eye(3).to_sparse()}, "cannot hold"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_a_sentence(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UnsupportedFormat, match=words):
        convert(ConvertRequest(files=(path,), target=tmp_path, is_adapter=False, tied=False), lambda *_: None)
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_converted_is_a_sentence(tiny: TinyFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pickled(tiny.folder, tmp_path / "models" / "a" / "same")
    shutil.copytree(folder, tmp_path / "models" / "b" / "same")
    for name, words in (("nothing", "no model or adapter “nothing”"), ("same", "may mean models/a/same or models/b/same"), ("../same", "no model or adapter")):
        assert run(tmp_path / "models", name) == 1
        assert words in capsys.readouterr().err
    monkeypatch.setattr("modules.weights.publishing.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert run(tmp_path / "models", "a/same") == 1
    assert "free some space" in capsys.readouterr().err
    (folder / "pytorch_model.bin").rename(folder / "weights.pt")
    with pytest.raises(InvalidRequest, match="holds no pickled weights"):
        find_pickles(folder)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../evil.bin"}}))
    with pytest.raises(UnsupportedFormat, match="do not trust"):
        find_pickles(folder)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "gone.bin"}}))
    with pytest.raises(UnsupportedFormat, match=r"lacks 1 of its 1 weight files \(gone\.bin"):
        find_pickles(folder)


def test_the_command_line_knows_it(tmp_path: Path) -> None:
    for name in ("models", "loras"):
        (tmp_path / name).mkdir()
    words = [sys.executable, str(ROOT / "server.py"), "convert", "gone", "--models-dir", str(tmp_path / "models"), "--loras-dir", str(tmp_path / "loras"), "--state-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, "no model or adapter “gone”" in done.stderr) == (1, True)
