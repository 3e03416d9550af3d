"""Models in the folders of other programs: names that stay, broken ones with the reason, links that lead out refused, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.errors import NotFound
from modules.core.model import ModelInfo
from modules.loaders.model_info import ModelFolder
from modules.loaders.other_folders import OtherFolder, recognised, usual_folders
from modules.loaders.registry import find_loader
from tests.foreign_folders import COMMIT, hub_cache, lm_studio, ollama

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def listed(kind: str, path: Path, tag: str = "") -> dict[str, ModelInfo]:
    own = path.parent / "own-models"
    own.mkdir(exist_ok=True)
    folder = ModelFolder(own, own, lambda: (OtherFolder(tag or kind, kind, path),))
    infos = folder.models()
    assert [folder.find(info.name) for info in infos] == list(infos)
    return {info.name: info for info in infos}


def everything(root: Path) -> dict[str, tuple[int, int, str]]:
    """All below a folder as it is: a file that was written, touched or made shows up."""
    rows = ((path, path.lstat()) for path in (root, *root.rglob("*")))
    return {str(path): (state.st_mtime_ns, state.st_size, str(path.readlink()) if path.is_symlink() else "") for path, state in rows}


def test_the_cache_of_the_hubs_client(tmp_path: Path, starter_gguf: Path, starter_dir: Path) -> None:
    cache = tmp_path / "hub"
    folder = {path.name: path for path in starter_dir.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")}
    hub_cache(cache, "meadow/pony-GGUF", {"pony-Q8_0.gguf": starter_gguf, "small/pony.gguf": starter_gguf, "README.md": b"# Pony"})
    hub_cache(cache, "meadow/pony", folder)
    hub_cache(cache, "gpt", folder, "main")
    hub_cache(cache, "meadow/only-a-tokenizer", {name: path for name, path in folder.items() if path.suffix == ".json"})
    (cache / "datasets--meadow--text").mkdir()
    before = everything(cache)
    infos = listed("hf", cache)
    short = COMMIT[:12]
    assert set(infos) == {f"hf:meadow/pony-GGUF@{short}/pony-Q8_0.gguf", f"hf:meadow/pony-GGUF@{short}/small/pony.gguf", f"hf:meadow/pony@{short}", "hf:gpt@main"}
    assert {info.source for info in infos.values()} == {"Hugging Face cache"}
    assert {info.problem for info in infos.values()} == {""}
    assert infos[f"hf:meadow/pony@{short}"].format == "safetensors"
    assert infos[f"hf:meadow/pony-GGUF@{short}/pony-Q8_0.gguf"].quantization == "Q8_0"
    assert {find_loader(Path(info.path)).name for info in infos.values()} == {"llama.cpp", "transformers"}
    assert everything(cache) == before


def test_what_is_missing_or_broken_in_the_cache_says_so(tmp_path: Path, starter_gguf: Path) -> None:
    cache = tmp_path / "hub"
    snapshot = hub_cache(cache, "meadow/pony", {"cut.gguf": starter_gguf.read_bytes()[:5000], "gone.gguf": b"gone", "model.safetensors": b"no"})
    (snapshot / "gone.gguf").resolve().unlink()
    infos = listed("hf", cache)
    name = f"hf:meadow/pony@{COMMIT[:12]}"
    assert set(infos) == {name, f"{name}/cut.gguf", f"{name}/gone.gguf"}
    assert "cut short" in infos[f"{name}/cut.gguf"].problem
    assert "no longer in the cache; fetch it again" in infos[f"{name}/gone.gguf"].problem
    assert infos[name].problem
    assert COMMIT not in infos[name].problem


def test_links_that_lead_out_of_a_folder_are_not_followed(tmp_path: Path, starter_gguf: Path, starter_dir: Path) -> None:
    cache, outside = tmp_path / "hub", tmp_path / "outside"
    outside.mkdir()
    shutil.copyfile(starter_gguf, outside / "secret.gguf")
    snapshot = hub_cache(cache, "meadow/pony", {"config.json": starter_dir / "config.json", "model.safetensors": starter_dir / "model.safetensors"})
    (snapshot / "linked.gguf").symlink_to(outside / "secret.gguf")
    (snapshot / "tokenizer.json").symlink_to(outside / "secret.gguf")
    (snapshot / "circle.gguf").symlink_to("circle.gguf")
    (snapshot / "folder").symlink_to(outside)
    (snapshot / "big-00001-of-00002.gguf").symlink_to((snapshot / "config.json").resolve())
    (snapshot / "big-00002-of-00002.gguf").symlink_to(outside / "secret.gguf")
    infos = listed("hf", cache)
    name = f"hf:meadow/pony@{COMMIT[:12]}"
    assert set(infos) == {name, f"{name}/linked.gguf", f"{name}/circle.gguf", f"{name}/big-00001-of-00002.gguf"}
    assert "big-00002-of-00002.gguf is a link that leads out of" in infos[f"{name}/big-00001-of-00002.gguf"].problem
    assert "linked.gguf is a link that leads out of" in infos[f"{name}/linked.gguf"].problem
    assert "tokenizer.json is a link that leads out of" in infos[name].problem
    assert all(info.problem and not info.architecture for info in infos.values())


def test_ollama(tmp_path: Path, starter_gguf: Path) -> None:
    root = tmp_path / "models"
    ollama(root, "llama3.2:1b", starter_gguf)
    ollama(root, "llama3.2:latest", starter_gguf)
    ollama(root, "pony:q8", starter_gguf, "registry.ollama.ai/meadow")
    ollama(root, "pony-GGUF:Q8_0", starter_gguf, "hf.co/meadow")
    infos = listed("ollama", root)
    assert set(infos) == {"ollama:llama3.2:1b", "ollama:llama3.2:latest", "ollama:meadow/pony:q8", "ollama:hf.co/meadow/pony-GGUF:Q8_0"}
    assert {(info.source, info.format, info.problem, info.quantization) for info in infos.values()} == {("Ollama", "gguf", "", "Q8_0")}
    assert find_loader(Path(infos["ollama:llama3.2:1b"].path)).name == "llama.cpp"


@pytest.mark.parametrize(
    ("manifest", "part"),
    [
        ("{", "cannot be read. Fetch it again: ollama pull odd:1."),
        ("[]", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        (json.dumps({"layers": []}), "names none"),
        (json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "a" * 64}]}), "The file of odd:1 is not there"),
        (json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../../../etc/passwd"}]}), "no file that can be one of its own"),
    ],
)
def test_broken_manifests_of_ollama_are_listed_with_the_reason(tmp_path: Path, starter_gguf: Path, manifest: str, part: str) -> None:
    root = tmp_path / "models"
    ollama(root, "good:1", starter_gguf)
    ollama(root, "odd:1", starter_gguf).write_text(manifest)
    infos = listed("ollama", root)
    assert part in infos["ollama:odd:1"].problem
    assert infos["ollama:good:1"].problem == ""


def test_half_a_blob_and_no_gguf_at_all(tmp_path: Path, starter_gguf: Path) -> None:
    root = tmp_path / "models"
    ollama(root, "text:1", b"nothing of the kind" * 100)
    manifest = ollama(root, "half:1", starter_gguf)
    digest = json.loads(manifest.read_text())["layers"][1]["digest"].replace(":", "-")
    (root / "blobs" / digest).write_bytes(starter_gguf.read_bytes()[:10_000])
    infos = listed("ollama", root)
    assert "has 10000 bytes, its manifest says" in infos["ollama:half:1"].problem
    assert infos["ollama:text:1"].problem.startswith("ollama:text:1 ")


def test_lm_studio_and_any_other_folder(tmp_path: Path, starter_gguf: Path, starter_dir: Path) -> None:
    root = tmp_path / ".lmstudio" / "models"
    lm_studio(root, "meadow/pony-GGUF/pony-Q8_0.gguf", starter_gguf)
    assert set(listed("lmstudio", root)) == {"lmstudio:meadow/pony-GGUF/pony-Q8_0.gguf"}
    shutil.copytree(starter_dir, tmp_path / "big disk" / "starter")
    assert set(listed("folder", tmp_path / "big disk", "big-disk")) == {"big-disk:starter", "big-disk:starter/starter-Q8_0.gguf"}
    assert set(listed("folder", tmp_path / "big disk" / "starter", "starter")) == {"starter:starter", "starter:starter-Q8_0.gguf"}


@pytest.mark.parametrize("name", ["hf:../../etc/passwd", "hf:", ":", "hf", "nobody:x", "ollama:llama3.2:1b/../../x", "/etc/passwd", "hf:meadow/pony@x/../../../x"])
def test_no_name_becomes_a_path(tmp_path: Path, starter_gguf: Path, name: str) -> None:
    cache = tmp_path / "hub"
    hub_cache(cache, "meadow/pony", {"pony.gguf": starter_gguf})
    with pytest.raises(NotFound):
        ModelFolder(tmp_path / "none", tmp_path / "none", lambda: (OtherFolder("hf", "hf", cache),)).find(name)


def test_programs_are_recognised_and_found(tmp_path: Path, starter_gguf: Path) -> None:
    home = tmp_path / "home"
    assert usual_folders({}, home) == ()
    hub_cache(home / ".cache" / "huggingface" / "hub", "meadow/pony", {"pony.gguf": starter_gguf})
    ollama(home / ".ollama" / "models", "pony:1", starter_gguf)
    lm_studio(home / ".lmstudio" / "models", "meadow/pony/pony.gguf", starter_gguf)
    hub_cache(tmp_path / "elsewhere" / "hub", "meadow/pony", {"pony.gguf": starter_gguf})
    found = usual_folders({"HF_HOME": str(tmp_path / "elsewhere")}, home)
    assert [(kind.name, path) for kind, path in found] == [
        ("hf", tmp_path / "elsewhere" / "hub"),
        ("hf", home / ".cache" / "huggingface" / "hub"),
        ("ollama", home / ".ollama" / "models"),
        ("lmstudio", home / ".lmstudio" / "models"),
    ]
    assert usual_folders({"HF_HOME": "/" + "x" * 300, "OLLAMA_MODELS": "~nobody-at-all/x"}, home) == found[1:]
    for typed in (home / ".ollama", home / ".ollama" / "models"):
        assert (recognised(typed)[0].name, recognised(typed)[1]) == ("ollama", home / ".ollama" / "models")
    assert recognised(tmp_path / "elsewhere")[1] == tmp_path / "elsewhere" / "hub"
    assert recognised(home)[0].name == "folder"


@pytest.mark.parametrize("hidden", ["hub", "snapshots", COMMIT])
def test_what_may_not_be_looked_into_hides_nothing_else(tmp_path: Path, starter_gguf: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    hub_cache(tmp_path / "hub", "meadow/pony", {"pony.gguf": starter_gguf})
    ollama(tmp_path / "ollama", "pony:1", starter_gguf)
    listing = Path.iterdir

    def refuse(self: Path) -> Iterator[Path]:
        if self.name == hidden:
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    folders = (OtherFolder("hf", "hf", tmp_path / "hub"), OtherFolder("ollama", "ollama", tmp_path / "ollama"))
    (tmp_path / "models").mkdir()
    assert [info.name for info in ModelFolder(tmp_path / "models", tmp_path / "models", lambda: folders).models()] == ["ollama:pony:1"]
