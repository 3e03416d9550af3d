"""Code of a model folder runs only where the command line names the model and the very commit its files are of: from the download to a reply by the engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from modules.core.errors import AppError, InvalidRequest, LoadFailed, UnsupportedFormat
from modules.core.settings import Settings
from modules.core.trusted_code import FLAG
from modules.engine.client import COMMAND, EngineClient
from modules.loaders.model_info import ModelFolder
from modules.services.app import App
from modules.services.code_trust import CodeTrust
from modules.services.models import ModelService
from tests.hub.hub_server import HubServer
from tests.own_code_model import CODE, write_own_code_model
from tests.paddock_server import ROOT
from tests.services.conftest import engine_pids
from tests.services.model_steps import StartApp, crash, writes
from tests.tiny_models import TinyFiles

pytestmark = pytest.mark.processes

NAME = "meadow__pony"
OPTIONS = {"context_length": 128, "slots": 2, "threads": 1}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = write_own_code_model(tmp_path_factory.mktemp("pony"))
    running = HubServer().start()
    running.add("meadow/pony", {path.name: path.read_bytes() for path in folder.iterdir()})
    yield running
    running.stop()


def download(hub: HubServer, folder: Path, *files: str) -> None:
    wanted = [word for name in files for word in ("--file", name)]
    command = [
        sys.executable, str(ROOT / "server.py"), "download", "meadow/pony", *wanted, "--hub-endpoint", hub.endpoint, "--models-dir", str(folder / "models"),
        "--loras-dir", str(folder / "loras"), "--state-dir", str(folder / "fetched"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.fixture(scope="module")
def downloaded(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloaded")
    download(hub, folder, *CODE)
    return folder / "models"


@pytest.fixture
def models_dir(downloaded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(downloaded, tmp_path / "models"))


def commit_of(models_dir: Path) -> str:
    commit: str = json.loads((models_dir / NAME / "paddock.json").read_text())["downloads"][0]["commit"]
    return commit


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


async def refusal(models: ModelService, name: str = NAME) -> AppError:
    with pytest.raises(LoadFailed) as caught:
        await models.load(name, "", OPTIONS)
    assert not list(engine_pids())
    return caught.value


def started(start_app: StartApp, models_dir: Path, *trust: str) -> App:
    return start_app(models_dir=models_dir, trust_code=trust)


async def test_it_loads_and_writes_with_the_commit_it_was_downloaded_at(start_app: StartApp, models_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    commit = commit_of(models_dir)
    app = started(start_app, models_dir, f"{NAME}@{commit}")
    assert f"The Python files of {NAME} at {commit} are run" in caplog.text
    assert [(info.name, info.trusted_code) for info in await app.models.list()] == [(NAME, commit)]
    client = await app.models.load(NAME, "", OPTIONS)
    assert isinstance(client, EngineClient)
    assert await writes(client)
    assert any(commit in note and "modeling_pony.py" in note for note in client.card.notes)
    assert any("writes one reply at a time" in note for note in client.card.notes)
    copy = tmp_path / "state_dir" / "code" / str(client.pid)
    assert {path.name for path in (copy / "files").iterdir()} == set(CODE)
    assert [path for path in copy.rglob("modeling_pony.py") if "imported" in path.parts]
    if os.name == "posix":
        assert (copy.stat().st_mode & 0o777) == 0o700
        environ = psutil.Process(client.pid).environ()
        assert not [name for name in environ if "TRUST" in name.upper() or "REMOTE_CODE" in name.upper()]
    entries = [json.loads(line) for line in (tmp_path / "state_dir" / "audit.jsonl").read_text().splitlines()]
    assert [entry["why"] for entry in entries if entry["action"] == "model.load"] == [f"with its own code, {commit}"]
    await app.models.unload(NAME)
    assert not copy.exists()


async def test_after_a_crash_its_files_are_looked_at_again_and_the_copy_of_before_goes(start_app: StartApp, models_dir: Path, tmp_path: Path) -> None:
    models = started(start_app, models_dir, f"{NAME}@{commit_of(models_dir)}").models
    client = await models.load(NAME, "", OPTIONS)
    assert isinstance(client, EngineClient)
    await crash(models, client)
    again = await models.get(NAME)
    assert isinstance(again, EngineClient)
    assert [path.name for path in (tmp_path / "state_dir" / "code").iterdir()] == [str(again.pid)]
    await crash(models, again)
    (models_dir / NAME / "modeling_pony.py").write_text(CODE["modeling_pony.py"] + "\n")
    with pytest.raises(LoadFailed, match="is not the file that was downloaded"):
        await models.get(NAME)


async def test_without_the_option_it_is_refused_with_the_command_that_would_allow_it(start_app: StartApp, models_dir: Path) -> None:
    error = await refusal(started(start_app, models_dir).models)
    assert "does not know the architecture “pony_of_the_meadow”" in error.message
    assert f"--trust-code {NAME}@{commit_of(models_dir)}:" in error.message
    assert "own_code" not in error.details


@pytest.mark.parametrize("name", ["trust_code", "trust_remote_code"])
async def test_no_option_of_a_load_gives_the_permission(start_app: StartApp, models_dir: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        await started(start_app, models_dir).models.load(NAME, "", {**OPTIONS, name: True})


async def test_a_download_without_its_code_is_refused_with_how_to_fetch_it(start_app: StartApp, hub: HubServer, tmp_path: Path) -> None:
    download(hub, tmp_path)
    models_dir = tmp_path / "models"
    error = await refusal(started(start_app, models_dir).models)
    command = "server.py download meadow/pony --file configuration_pony.py --file modeling_pony.py --file tokenization_pony.py"
    assert command in error.message
    error = await refusal(started(start_app, models_dir, f"{NAME}@{commit_of(models_dir)}").models)
    assert "has no Python files" in error.message


async def test_a_tokenizer_that_needs_code_alone_names_the_command_too(start_app: StartApp, models_dir: Path, tiny: TinyFiles) -> None:
    for path in tiny.folder.iterdir():
        if path.name in ("config.json", "model.safetensors"):
            shutil.copy(path, models_dir / NAME / path.name)
    change(models_dir / NAME / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_pony.PonyTokenizer", None]})
    (models_dir / NAME / "tokenization_pony.py").write_text("raise SystemExit\n")
    error = await refusal(started(start_app, models_dir).models)
    assert "The tokenizer of" in error.message
    assert "tokenization_pony.py of meadow__pony is not the file that was downloaded" in error.message


async def test_another_commit_is_refused_with_the_one_that_is_there(start_app: StartApp, models_dir: Path) -> None:
    other = "0123456789" * 4
    error = await refusal(started(start_app, models_dir, f"{NAME}@{other}").models)
    assert f"are those of {commit_of(models_dir)}, and --trust-code names {other}" in error.message
    assert f"pass --trust-code {NAME}@{commit_of(models_dir)} instead" in error.message


async def test_a_file_that_was_changed_or_added_is_refused_and_not_run(start_app: StartApp, models_dir: Path, tmp_path: Path) -> None:
    models, folder, marker = started(start_app, models_dir, f"{NAME}@{commit_of(models_dir)}").models, models_dir / NAME, tmp_path / "ran"
    evil = f"open({str(marker)!r}, 'w').close()\n"
    (folder / "modeling_pony.py").write_text(CODE["modeling_pony.py"] + evil)
    error = await refusal(models)
    assert "modeling_pony.py of meadow__pony is not the file that was downloaded" in error.message
    assert "server.py download meadow/pony --file modeling_pony.py" in error.message
    (folder / "modeling_pony.py").write_text(CODE["modeling_pony.py"])
    (folder / "inner").mkdir()
    (folder / "inner" / "torch.py").write_text(evil)
    error = await refusal(models)
    assert "inner/torch.py of meadow__pony is not in the record" in error.message
    assert not marker.exists()


@pytest.mark.parametrize(("file", "named"), [("config.json", {"AutoModelForCausalLM": "other/repo--modeling_pony.PonyForCausalLM"}), ("tokenizer_config.json", {"AutoTokenizer": ["other/repo--tokenization_pony.PonyTokenizer", "tokenization_pony.PonyTokenizer"]})])
async def test_code_of_another_repository_is_refused(start_app: StartApp, models_dir: Path, file: str, named: dict[str, Any]) -> None:
    path = models_dir / NAME / file
    change(path, auto_map=json.loads(path.read_text())["auto_map"] | named)
    error = await refusal(started(start_app, models_dir, f"{NAME}@{commit_of(models_dir)}").models)
    assert isinstance(error, UnsupportedFormat)
    assert "code of another repository (other/repo--" in error.message


@pytest.mark.parametrize("reference", ["os.system", "..modeling_pony.PonyForCausalLM", "inner/x.Y", "missing.Y"])
async def test_only_files_of_the_folder_can_be_named(start_app: StartApp, models_dir: Path, reference: str) -> None:
    change(models_dir / NAME / "config.json", auto_map={"AutoConfig": reference})
    error = await refusal(started(start_app, models_dir, f"{NAME}@{commit_of(models_dir)}").models)
    assert "names code that is not in its folder" in error.message


def write_horse(folder: Path, tiny: TinyFiles) -> Path:
    """A llama that says to be something else, with code that says what."""
    shutil.copytree(tiny.folder, folder)
    (folder / "horse.py").write_text("from transformers import LlamaConfig, LlamaForCausalLM\n\n\nclass HorseConfig(LlamaConfig):\n    model_type = 'horse_of_the_meadow'\n\n\nclass Horse(LlamaForCausalLM):\n    pass\n")
    change(folder / "config.json", model_type="horse_of_the_meadow", auto_map={"AutoConfig": "horse.HorseConfig", "AutoModelForCausalLM": "horse.Horse"})
    return folder


async def pin_told(start_app: StartApp, models_dir: Path, name: str) -> str:
    """What the refusal of a folder without a record says is to be passed."""
    message = (await refusal(started(start_app, models_dir, f"{name}@{'0' * 40}").models, name)).message
    return message.rpartition("--trust-code ")[2].rstrip(".")


async def test_no_other_model_gets_the_permission(start_app: StartApp, models_dir: Path, tiny: TinyFiles) -> None:
    """Neither a copy of its folder, nor what drafts for it, nor a model for which it would draft."""
    write_horse(models_dir / "horse", tiny)
    shutil.copytree(models_dir / "horse", models_dir / "copy")
    shutil.copytree(tiny.folder, models_dir / "llama")
    models = started(start_app, models_dir, await pin_told(start_app, models_dir, "horse")).models
    assert "code inside model folders is not run" in (await refusal(models, "copy")).message
    for name, draft in (("horse", "copy"), ("llama", "horse")):
        with pytest.raises(LoadFailed, match="The draft model: .*code inside model folders is not run") as caught:
            await models.load(name, "", {**OPTIONS, "draft_model": draft})
        assert "--trust-code" not in caught.value.message
    client = await models.load("horse", "", {**OPTIONS, "draft_model": "llama"})  # an architecture that runs in slots
    assert isinstance(client, EngineClient)
    assert await writes(client)
    assert not any("one reply at a time" in note for note in client.card.notes)


async def test_the_first_look_does_not_count_if_a_file_changes_before_the_child_reads_it(start_app: StartApp, models_dir: Path, tiny: TinyFiles, tmp_path: Path) -> None:
    folder = write_horse(models_dir / "horse", tiny)
    pin = await pin_told(start_app, models_dir, "horse")
    trusted = CodeTrust(Settings(models_dir=models_dir, state_dir=tmp_path / "state_dir", trust_code=(pin,))).permission(ModelFolder(models_dir, models_dir).find("horse"))
    assert trusted is not None
    (folder / "horse.py").write_text("raise SystemExit\n")
    with pytest.raises(LoadFailed, match=r"horse\.py of horse was changed while it was loaded"):
        await EngineClient.start(str(folder), "transformers", OPTIONS, command=(*COMMAND, FLAG, trusted.model_dump_json()))


async def test_files_without_a_record_are_named_by_their_sum(start_app: StartApp, models_dir: Path) -> None:
    (models_dir / NAME / "paddock.json").unlink()
    pin = await pin_told(start_app, models_dir, NAME)
    assert pin.startswith(f"{NAME}@sha256:")
    assert f"--trust-code {pin}." in (await refusal(started(start_app, models_dir).models)).message
    models = started(start_app, models_dir, pin).models
    client = await models.load(NAME, "", OPTIONS)
    assert isinstance(client, EngineClient)
    assert await writes(client)
    await models.unload(NAME)
    with (models_dir / NAME / "modeling_pony.py").open("a") as file:
        file.write("# changed\n")
    assert "are those of sha256:" in (await refusal(models)).message


async def test_code_that_fails_is_a_sentence(start_app: StartApp, models_dir: Path) -> None:
    (models_dir / NAME / "paddock.json").unlink()
    cases = (
        ("configuration_pony.py", "import package_that_nobody_has\n" + CODE["configuration_pony.py"], "needs a package that is not installed"),
        ("configuration_pony.py", "1 / 0\n" + CODE["configuration_pony.py"], "fails (ZeroDivisionError"),
        ("modeling_pony.py", CODE["modeling_pony.py"].replace("self.post_init()", "raise SystemExit(3)"), "ends its program (SystemExit: 3)"),
        ("modeling_pony.py", CODE["modeling_pony.py"].replace("seen = ", "seen = 1 / 0 + "), "cannot be run by the transformers loader (division by zero)"),
    )
    for name, text, words in cases:
        for file, right in CODE.items():
            (models_dir / NAME / file).write_text(text if file == name else right)
        pin = await pin_told(start_app, models_dir, NAME)
        assert words in (await refusal(started(start_app, models_dir, pin).models)).message
