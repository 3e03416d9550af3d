"""What is made of an adapter through the services: real jobs, a real archive, a chat on the right base, and a question where that is in doubt."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors.numpy import load_file

from modules.core.errors import InvalidRequest, NotFound, UnsupportedFormat
from modules.core.job import TERMINAL, JobSnapshot
from modules.core.settings import Settings
from modules.services.app import App, build_app
from tests.e2e.adapter_files import write_adapter as write_peft
from tests.services.conftest import FOLDERS, without_titles
from tests.services.model_steps import write_adapter as write_gguf
from tests.services.reply_steps import ANN, SHORT, ended

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

GGUF = "starter/starter-Q8_0.gguf"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, starter_gguf: Path) -> AsyncIterator[App]:
    """The starter model in both formats and again under another name; nothing is loaded."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(starter_dir, models / "starter")
    other = shutil.copytree(starter_dir, models / "other", ignore=shutil.ignore_patterns("*.gguf"))
    (Path(other) / "README.md").unlink()
    folders = {name: tmp_path_factory.mktemp(name) for name in (*FOLDERS, "datasets_dir")}
    write_peft(folders["loras_dir"] / "odd-words", starter_dir)
    write_gguf(folders["loras_dir"] / "strong.gguf", starter_gguf)
    app = build_app(Settings(models_dir=models, template_check=False, model="none", options={"threads": 1}, **folders))
    without_titles(app)
    await app.start()
    yield app
    await app.close()


def adapter(app: App, name: str, **settings: Any) -> str:
    """A copy of the adapter with other settings."""
    folder = app.settings.loras_dir / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(app.settings.loras_dir / "odd-words", folder, ignore=shutil.ignore_patterns(".cache"))
    about = folder / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | settings))
    return name


async def finished(app: App, job: JobSnapshot) -> JobSnapshot:
    async with asyncio.timeout(30):
        while job.status not in TERMINAL:
            await asyncio.sleep(0.05)
            job = await app.jobs.read(ANN, job.id)
    assert job.status == "done", job.error
    return job


async def test_converted_it_is_among_the_adapters_and_fits_the_quantized_model(app: App) -> None:
    job = await finished(app, await app.adapter_files.convert(ANN, "odd-words"))
    assert (job.title, job.result["name"], job.unit, job.done) == ("Convert odd-words", "odd-words.gguf", "tensors", job.total)
    rows = {row.info.name: row for row in await app.adapters.list(GGUF)}
    made = rows["odd-words.gguf"]
    assert (made.problem, made.targets, made.info.rank, made.info.base_model) == ("", ("ffn_up",), 4, "starter")
    assert (await finished(app, await app.adapter_files.convert(ANN, "odd-words"))).result["name"] == "odd-words-gguf.gguf"


async def test_merged_it_is_among_the_models(app: App) -> None:
    job = await finished(app, await app.adapter_files.merge(ANN, "odd-words", scale=0.5))
    assert (job.title, job.result["name"], job.unit) == ("Merge starter-odd-words", "starter-odd-words", "bytes")
    info = await app.models.find("starter-odd-words")
    assert (info.problem, info.format, info.parameters) == ("", "safetensors", (await app.models.find("starter")).parameters)
    weights = [load_file(app.settings.models_dir / name / "model.safetensors")["model.layers.0.mlp.up_proj.weight"] for name in ("starter", "starter-odd-words")]
    assert abs(weights[0] - weights[1]).max() > 0.01
    with pytest.raises(InvalidRequest, match="There is “starter-odd-words” among the models already; choose another name"):
        await app.adapter_files.merge(ANN, "odd-words", target="starter-odd-words")
    with pytest.raises(InvalidRequest, match=r"“\.\./outside” cannot be a target"):
        await app.adapter_files.merge(ANN, "odd-words", target="../outside")


async def test_the_base_is_the_one_it_names_else_the_person_is_asked(app: App) -> None:
    """Both folders have the same shapes."""
    job = await app.adapter_files.convert(ANN, adapter(app, "named", base_model_name_or_path="somebody/other"))
    assert job.args["base"] == "other"
    stranger = adapter(app, "stranger", base_model_name_or_path="somebody/elsewhere")
    with pytest.raises(InvalidRequest, match="stranger: its base model “somebody/elsewhere” is not on this machine. It fits .*; choose the model") as refused:
        await app.adapter_files.merge(ANN, stranger)
    assert {"other", "starter"} <= set(refused.value.details["choices"])
    assert GGUF not in refused.value.details["choices"]
    with pytest.raises(InvalidRequest, match="it does not say which model it was made for"):
        await app.adapter_files.try_in_chat(ANN, adapter(app, "silent", base_model_name_or_path=None))
    job = await app.adapter_files.merge(ANN, stranger, model="other", target="chosen")
    assert (await finished(app, job)).result["name"] == "chosen"
    with pytest.raises(NotFound, match="There is no model “nothing”"):
        await app.adapter_files.merge(ANN, stranger, model="nothing")


async def test_what_cannot_be_is_said_before_a_job_begins(app: App) -> None:
    before = len(await app.jobs.list(ANN))
    with pytest.raises(UnsupportedFormat, match=r"DoRA magnitudes, which llama.cpp cannot apply; .* merge it into that"):
        await app.adapter_files.convert(ANN, adapter(app, "dora", use_dora=True))
    with pytest.raises(InvalidRequest, match="is a GGUF adapter, which cannot be merged"):
        await app.adapter_files.merge(ANN, "strong.gguf")
    with pytest.raises(InvalidRequest, match="is a GGUF adapter already"):
        await app.adapter_files.convert(ANN, "strong.gguf")
    with pytest.raises(NotFound, match="There is no adapter “../../etc”"):
        await app.adapter_files.download("../../etc")
    assert len(await app.jobs.list(ANN)) == before


async def test_an_archive_has_all_files_as_plain_peft_reads_them(app: App, tmp_path: Path) -> None:
    folder = app.settings.loras_dir / adapter(app, "complete")
    (folder / "README.md").write_text("card")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "kept.gguf").write_bytes(b"made")
    (folder / "link.json").symlink_to(app.settings.state_dir / "models.yaml")
    (app.settings.state_dir / "models.yaml").touch()
    archive = await app.adapter_files.download("complete")
    pieces = list(archive.pieces)
    assert archive.filename == "complete.zip"
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as content:
        assert content.testzip() is None
        assert set(content.namelist()) == {f"complete/{name}" for name in ("README.md", "adapter_config.json", "adapter_model.safetensors")}
        content.extractall(tmp_path)
    assert (tmp_path / "complete" / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    single = await app.adapter_files.download("strong.gguf")
    with zipfile.ZipFile(io.BytesIO(b"".join(single.pieces))) as content:
        assert (single.filename, content.namelist()) == ("strong.zip", ["strong.gguf"])


async def test_what_a_killed_job_left_is_gone_after_a_start(app: App) -> None:
    left = app.settings.models_dir / ".partial" / "made-killed"
    (left / "model").mkdir(parents=True)
    await app.adapter_files.start()
    assert not left.parent.exists()


async def test_tried_in_a_chat_of_its_own_on_the_base_that_is_loaded_for_it(app: App) -> None:
    trial = await app.adapter_files.try_in_chat(ANN, "odd-words", scale=2)
    assert (trial.model, app.models.loaded_names()) == ("starter", ("starter",))
    assert app.models.status().loaded[0].adapters == ()  # no other conversation has it
    shown = await app.conversations.read(ANN, trial.conversation)
    assert (shown.title, [choice.model_dump() for choice in shown.settings.adapters or ()]) == ("Trying odd-words", [{"name": "odd-words", "scale": 2}])
    await app.conversations.update_settings(ANN, trial.conversation, SHORT)
    await app.replies.send(ANN, trial.conversation, "How do I load a model?")
    reply = await ended(app, trial.conversation)
    assert reply.receipt["adapters"] == [{"name": "odd-words", "scale": 2}]
    pid = app.models.status().loaded[0].pid
    assert (await app.adapter_files.try_in_chat(ANN, "odd-words")).conversation != trial.conversation
    assert app.models.status().loaded[0].pid == pid, "it was loaded anew"
