"""The evaluation harness lm-eval: what it measures through Paddock is what it measures itself with transformers, answer by answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import HERE, Run

pytestmark = pytest.mark.timeout(300)
CLOSE = 1e-3  # of a log-probability: other kernels, other order of additions


def tasks(folder: Path) -> Path:
    """The tasks, with the place of their data written in: the harness looks for files relative to where it was started."""
    here = HERE / "lm_eval_tasks"
    for task in here.glob("*.yaml"):
        (folder / task.name).write_text(task.read_text("utf-8").replace("DATA", here.as_posix()), "utf-8")
    return folder


def test_scores_are_those_of_the_harness_with_transformers(run: Run, starter_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    cache = str(tmp_path / "cache")
    found = run(
        "with_lm_eval.py", "starter", PADDOCK_FOLDER=str(starter_dir), PADDOCK_TASKS=str(tasks(tmp_path / "tasks")),
        HF_HOME=cache, HF_DATASETS_CACHE=cache, HF_HUB_OFFLINE="1",
    )  # fmt: skip
    right = found["hf choices"]
    assert 0.3 < right["score"]["acc,none"] < 1
    for way in ("served choices", "text choices"):
        assert found[way]["score"] == right["score"]
        for answers, others in zip(found[way]["answers"], right["answers"], strict=True):
            for (logprob, greedy), (other, other_greedy) in zip(answers, others, strict=True):
                assert float(logprob) == pytest.approx(float(other), abs=CLOSE) and greedy == other_greedy
    assert found["served replies"] == found["hf replies"]
    assert 0.3 < found["hf replies"]["score"]["exact_match,button"] < 1
