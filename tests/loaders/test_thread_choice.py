"""How many threads a GGUF model gets when it is loaded: measured once for a way to load it, and remembered; a busy machine is no measure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import AppError
from modules.core.model import LoadedModel, Row
from modules.loaders import neighbours
from modules.loaders.llama_cpp import LLAMA_CPP, thread_choice
from modules.loaders.llama_cpp.runner import LlamaCppRunner
from modules.loaders.llama_cpp.threads import Threads

MEASURING = "Measuring threads"


class Loads:
    """Loads models, and notes what was told and computed meanwhile."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.rows: list[Row] = []
        self._models: list[LoadedModel] = []

    def __call__(self, path: Path, known: dict[str, Any] | None, **options: Any) -> LoadedModel:
        self.stages.clear()
        self.rows.clear()
        given = LLAMA_CPP.options.model_validate({"slots": 1, "context_length": 256, **options})

        def progress(stage: str, _done: float | None) -> None:
            self.stages.append(stage)

        load = LLAMA_CPP.load_measured
        assert load is not None
        self._models.append(LLAMA_CPP.load(path, given, progress) if known is None else load(path, given, progress, known))
        return self._models[-1]

    @property
    def measured(self) -> bool:
        """Whether the last one measured; whoever measures computes."""
        assert (MEASURING in self.stages) == bool(self.rows)
        return bool(self.rows)

    def close(self) -> None:
        for model in self._models:
            model.runner.close()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    """On two cores, also where there is one."""
    found, forward = Loads(), LlamaCppRunner.forward

    def noted(self: LlamaCppRunner, rows: list[Row]) -> list[Any]:
        found.rows += rows
        return forward(self, rows)

    monkeypatch.setattr(LlamaCppRunner, "forward", noted)
    monkeypatch.setattr(thread_choice, "usable_cores", lambda: 2)
    yield found
    found.close()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs beside the tests."""
    monkeypatch.setattr(neighbours, "MOST_CORES", 1e9)


def threads_of(model: LoadedModel) -> Threads:
    live = model.runner._live
    assert live is not None
    return live.present


@pytest.mark.usefixtures("quiet")
def test_what_was_measured_is_used_and_not_measured_again(loads: Loads, starter_gguf: Path) -> None:
    first = loads(starter_gguf, {})
    assert loads.measured
    ((key, value),) = first.measured.items()
    assert threads_of(first) == Threads(value["decode"], value["batch"])
    assert set(value["step_s"]) == {"1", "2"}
    for known in ({"decode": 2, "batch": 1}, {"decode": 1, "batch": 2}):
        again = loads(starter_gguf, {key: {**value, **known}})
        assert not loads.measured
        assert threads_of(again) == Threads(known["decode"], known["batch"])
        assert again.measured == {}
    assert again.runner._live._calm_step_s == value["step_s"]["1"], "the yardstick of a disturbance is remembered too"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round for each number of threads."""
    monkeypatch.setattr(thread_choice, "LIMIT_S", 0.0)


@pytest.mark.usefixtures("quiet", "brief")
def test_another_way_to_load_or_another_file_is_measured_anew(loads: Loads, starter_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy2(starter_gguf, tmp_path / "model.gguf"))
    known = dict(loads(path, {}).measured)
    loads(path, known)
    assert not loads.measured
    for options in ({"batch_tokens": 256}, {"ubatch_tokens": 64}, {"kv_type": "q8_0"}, {"flash_attention": "off"}, {"mmap": "on"}, {"mmap": "off"}):
        is_new = bool(loads(path, known, **options).measured)
        assert is_new == loads.measured
        assert is_new or "mmap" in options, options  # one of both is what is done unasked
    ways = ({"mmap": "on"}, {"mmap": "off"}, {"mmap": "off", "slots": 4}, {"mmap": "off", "slots": 2, "cache_tokens": 256})
    assert len({key for way in ways for key in loads(path, {}, **way).measured}) == 3, "mapped; read in, with one cache for all; read in, with one for each"
    loads(path, known, spill_memory_gb=0)
    assert not loads.measured, "what changes no step changes nothing"
    moved = path.rename(tmp_path / "renamed.gguf")
    loads(moved, known)
    assert not loads.measured
    os.utime(moved, ns=(1, 1))
    loads(moved, known)
    assert loads.measured
    monkeypatch.setattr(thread_choice, "usable_cores", lambda: 4)
    loads(starter_gguf, known)
    assert loads.measured


@pytest.mark.usefixtures("quiet", "brief")
@pytest.mark.parametrize("value", [None, 7, {}, {"decode": 0, "batch": 1}, {"decode": 3, "batch": 1}, {"decode": "many", "batch": 1}, {"decode": 1, "batch": 1, "step_s": {"1": -1}}])
def test_nonsense_is_measured_again(loads: Loads, starter_gguf: Path, value: object) -> None:
    key = next(iter(loads(starter_gguf, {}).measured))
    again = loads(starter_gguf, {key: value, "other": 1})
    assert loads.measured
    assert list(again.measured) == [key]


@pytest.mark.usefixtures("quiet")
def test_numbers_that_were_set_are_not_measured(loads: Loads, starter_gguf: Path) -> None:
    model = loads(starter_gguf, {}, threads=2, threads_batch=1)
    assert not loads.measured
    assert threads_of(model) == Threads(2, 1)
    assert threads_of(loads(starter_gguf, {}, threads=2)).decode == 2
    assert loads.measured


@pytest.fixture
def busy() -> Iterator[None]:
    """Every core of this machine wanted by something else."""
    others = [subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) for _ in range(2 * (os.cpu_count() or 1))]
    for other in others:
        assert other.stdout is not None
        other.stdout.readline()
    yield
    for other in others:
        other.kill()
        other.communicate()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("large", [False, True])
def test_what_is_measured_on_a_busy_machine_is_not_remembered(loads: Loads, starter_gguf: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr(thread_choice, "LARGE_BYTES", 1)
        monkeypatch.setattr(thread_choice, "_measured_large", slowly(thread_choice._measured_large))
    model = loads(starter_gguf, {})
    assert loads.measured
    assert model.measured == {}
    if large:
        assert threads_of(model) == Threads(2, 2)


def slowly(measure: Callable[..., Any]) -> Callable[..., Any]:
    """For nearly as long as a large model would take, which gives the system's counters time."""

    def measured(*args: Any) -> Any:
        end_s = time.perf_counter() + 0.3
        while time.perf_counter() < end_s:
            found = measure(*args)
        return found

    return measured


# ---- large models --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model taken for one of more than a gigabyte."""
    monkeypatch.setattr(thread_choice, "LARGE_BYTES", 1)


@pytest.mark.usefixtures("quiet", "large")
def test_a_large_model_takes_some_steps_of_one_token(loads: Loads, starter_gguf: Path) -> None:
    model = loads(starter_gguf, {})
    assert loads.measured
    assert {len(row.token_ids) for row in loads.rows} == {1}
    assert 3 <= len(loads.rows) <= 1 + 2 * thread_choice.LARGE_ROUNDS
    ((key, value),) = model.measured.items()
    assert value["batch"] == 2, "prompts are read with all cores"
    assert set(value["step_s"]) == {"1", "2"}
    assert threads_of(model) == Threads(value["decode"], 2)
    for decode in (1, 2):
        again = loads(starter_gguf, {key: {**value, "decode": decode}})
        assert not loads.measured
        assert threads_of(again) == Threads(decode, 2)
    loads(starter_gguf, {}, threads=1)
    assert not loads.measured, "reading is not measured, so nothing is left to be"


@pytest.mark.usefixtures("quiet", "large")
def test_where_nothing_is_remembered_a_large_model_is_not_measured(loads: Loads, starter_gguf: Path) -> None:
    model = loads(starter_gguf, None)
    assert not loads.measured
    assert threads_of(model) == Threads(2, 2)


@pytest.mark.usefixtures("quiet", "large", "brief")
def test_a_step_that_takes_too_long_is_broken_off(loads: Loads, starter_gguf: Path) -> None:
    model = loads(starter_gguf, {})
    assert len(loads.rows) == 1
    assert model.measured == {}
    assert threads_of(model) == Threads(2, 2)
    runner, ids = model.runner, [1, *range(10, 40)]
    found = np.array(runner.forward([Row(0, 0, ids)])[0])
    with runner.time_limit(0.0), pytest.raises(AppError, match="code 2"):
        runner.forward([Row(0, len(ids), [7])])
    runner.truncate(0, 0)
    other = loads(starter_gguf, {}, threads=2, threads_batch=2).runner
    np.testing.assert_allclose(found, other.forward([Row(0, 0, ids)])[0], atol=2e-2)
    np.testing.assert_allclose(found, runner.forward([Row(0, 0, ids)])[0], atol=2e-2)


@pytest.mark.usefixtures("quiet", "brief")
def test_a_slow_machine_ends_the_rounds_of_a_small_model(loads: Loads, starter_gguf: Path) -> None:
    loads(starter_gguf, {})
    assert [len(row.token_ids) for row in loads.rows] == [64, 1, 64, 1]


@pytest.mark.usefixtures("quiet", "brief")
def test_a_draft_model_is_remembered_too(loads: Loads, starter_gguf: Path, tmp_path: Path) -> None:
    draft = Path(shutil.copy(starter_gguf, tmp_path / "draft.gguf"))
    os.utime(draft, ns=(1, 1))
    known = loads(starter_gguf, {}, draft_model=str(draft)).measured
    assert len(known) == 2
    loads(starter_gguf, dict(known), draft_model=str(draft))
    assert not loads.measured


@pytest.mark.usefixtures("brief")
def test_a_context_of_a_few_tokens_can_be_measured(loads: Loads, starter_gguf: Path) -> None:
    loads(starter_gguf, {}, context_length=4)
    assert loads.measured
