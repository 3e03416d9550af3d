"""The numbers of threads that loads measured, in the state folder: a model that is loaded again is not measured again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from modules.services import engine_starter
from modules.services.engine_starter import Loading
from modules.services.models import ModelService
from modules.services.thread_records import ROWS_LIMIT, ThreadRecords
from tests.services.conftest import ONE
from tests.services.model_steps import StartApp

VALUE = {"decode": 2, "batch": 1, "step_s": {"1": 0.5, "2": 0.25}}
# As an engine starts, but on a machine of two cores that is taken for a quiet one
CODE = (
    "import modules.loaders.neighbours as n, modules.loaders.llama_cpp.thread_choice as c; "
    "from modules.services.worker import main; "
    "n.MOST_CORES = 1e9; c.usable_cores = lambda: 2; main()"
)


def key(number: int) -> str:
    return f"{number:032x}"


def test_rows_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "threads.json"
    records = ThreadRecords(path)
    assert records.known() == {}
    for nothing in ({}, [key(1)], "nonsense", {7: VALUE, key(1): None}):  # as a child that is damaged might tell
        records.remember(nothing)  # type: ignore[arg-type]
    assert not path.exists()
    for number in range(ROWS_LIMIT + 3):
        records.remember({key(number): VALUE})
    assert list(records.known()) == [key(number) for number in range(3, ROWS_LIMIT + 3)]
    assert records.known()[key(5)] == VALUE
    assert path.stat().st_mode & 0o777 == 0o600
    records.remember({key(3): {**VALUE, "decode": 1}})  # measured anew, so the newest
    assert list(records.known().items())[-1] == (key(3), {**VALUE, "decode": 1})
    assert len(records.known()) == ROWS_LIMIT


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "[" * 100_000, '{"a": 1}', json.dumps({key(1): 7, "A" * 32: VALUE, key(2): {**VALUE, "decode": -1}})])
def test_a_damaged_file_is_none_and_is_written_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "threads.json"
    path.write_text(text)
    records = ThreadRecords(path)
    assert records.known() == {}
    records.remember({key(9): VALUE})
    assert json.loads(path.read_text()) == {key(9): VALUE}


def test_of_a_file_that_is_half_right_the_right_half_counts(tmp_path: Path) -> None:
    path = tmp_path / "threads.json"
    path.write_text(json.dumps({key(1): VALUE, key(2): None}))
    assert ThreadRecords(path).known() == {key(1): VALUE}


def test_nonsense_of_a_child_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "threads.json"
    ThreadRecords(path).remember({"../x": VALUE, key(1): {**VALUE, "decode": 1e9}, key(2): {**VALUE, "more": 1}})
    assert not path.exists()


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    ThreadRecords(tmp_path / "file" / "threads.json").remember({key(1): VALUE})
    assert "could not be stored" in caplog.text


async def stages_of_a_load(models: ModelService, **options: int) -> list[str]:
    """What is told while the first model is loaded, which is unloaded again."""
    seen: list[Loading | None] = []
    forget = models.watch(lambda: seen.append(models.status().loading))
    await models.load(ONE, "", {"context_length": 256, "slots": 1, **options})
    forget()
    await models.unload(ONE)
    return [loading.stage for loading in seen if loading is not None]


@pytest.mark.processes
async def test_a_model_that_is_loaded_again_is_not_measured_again(start_app: StartApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_starter, "COMMAND", (sys.executable, "-c", CODE, "modules.services.worker"))
    app = start_app()
    path = app.settings.state_dir / "threads.json"
    assert "Measuring threads" in await stages_of_a_load(app.models)
    assert len(json.loads(path.read_text())) == 1
    assert "Measuring threads" not in await stages_of_a_load(app.models)
    assert "Measuring threads" in await stages_of_a_load(app.models, batch_tokens=64)
    assert len(json.loads(path.read_text())) == 2
    path.write_text("{")
    assert "Measuring threads" in await stages_of_a_load(app.models)
    assert len(json.loads(path.read_text())) == 1
