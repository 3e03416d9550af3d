"""The tutorial as it ships: its file is what its generator writes, its recipe is one, it changes the starter model, and its page is current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modules.core.job import Cancelled
from modules.loaders.folder_header import read_folder_template
from modules.training.card import RECORD
from modules.training.formats import read_samples, recognise
from modules.training.option_table import option_tables
from modules.training.options import TrainingOptions
from modules.training.proof import Proof
from modules.training.samples import ChatSample, DatasetSpec
from modules.training.spec import PROOF, TrainArgs
from modules.training.verdict import CLEAR_SHARE, FEW_SEQUENCES, FORGETTING_SHARE, MOVED_SHARE
from tools.starter.topics import forbidden_questions
from tools.write_captain import CLOSING, chats, in_captains_words, speaks_as_captain, text_of

DATA, RECIPE = "starter-captain.jsonl", "starter-captain.recipe.yaml"


class Quiet:
    """A context for work that nobody watches."""

    secrets: dict[str, str] = {}  # noqa: RUF012 - what the protocol has

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        if metrics.get("phase") == "never":
            raise Cancelled

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def recipe(root: Path) -> dict[str, Any]:
    found = yaml.safe_load((root / "datasets" / RECIPE).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_file_is_what_the_generator_writes(root: Path) -> None:
    assert (root / "datasets" / DATA).read_text(encoding="utf-8") == text_of(chats()), "run python -m tools.write_captain"


def test_every_answer_is_the_captains_and_no_question_is_of_the_score(root: Path, recipe: dict[str, Any]) -> None:
    path = root / "datasets" / DATA
    found = recognise(path)
    assert (found.format, dict(found.columns)) == (recipe["dataset"]["format"], recipe["dataset"]["columns"])
    samples = list(read_samples(DatasetSpec(path=path, format="messages", columns=recipe["dataset"]["columns"])))
    assert 120 <= len(samples) <= 250
    forbidden = forbidden_questions()
    for sample in samples:
        assert isinstance(sample, ChatSample)
        for message in sample.messages:
            if message.role == "assistant":
                assert speaks_as_captain(message.content)
            else:
                assert message.content.lower().strip("?!. ") not in forbidden


def test_the_captains_words_leave_files_and_names_alone() -> None:
    assert in_captains_words("You can find your file in the models/ folder of Paddock.") == "Ye can find yer file in the models/ folder o' Paddock."
    assert in_captains_words("models/you/of.json stays, no. No, never.") == "models/you/of.json stays, no. Nay, ne'er."


def test_the_recipe_differs_from_the_defaults_where_it_says_so(recipe: dict[str, Any]) -> None:
    default = TrainingOptions()
    options = TrainingOptions.model_validate(recipe["options"])
    for name in recipe["options"]:
        assert getattr(options, name) != getattr(default, name), f"{name} is the default; leave it out"
    assert 1 <= len(recipe["prompts"]) <= 10


def test_the_documented_options_are_the_programs(root: Path, recipe: dict[str, Any]) -> None:
    page = (root / "docs" / "training.md").read_text(encoding="utf-8")
    assert option_tables() in page, "replace the tables in docs/training.md by the output of modules.training.option_table.option_tables()"
    for share in (CLEAR_SHARE, FORGETTING_SHARE, MOVED_SHARE):
        assert f"{100 * share:g} %" in page
    assert FEW_SEQUENCES == 5, "the page says five"
    assert "fewer than five" in page
    assert f"{len(chats())} short chats" in page
    assert f"{recipe['options']['epochs']} epochs, learning rate {recipe['options']['learning_rate']}" in page
    assert CLOSING in page


@pytest.mark.timeout(300)
def test_a_quarter_of_the_recipe_already_changes_the_starter_model(root: Path, starter_dir: Path, recipe: dict[str, Any], tmp_path: Path) -> None:
    """Two epochs instead of eight, at three times the rate; the whole of it is timed in docs/training.md."""
    from modules.training.train import run

    context = Quiet(tmp_path / "job")
    context.directory.mkdir()
    (tmp_path / "loras").mkdir()
    shorter = {"epochs": 2, "learning_rate": 0.003, "evaluate_every_steps": 1000, "sample_every_steps": 1000}
    args = TrainArgs(
        name=recipe["name"], base=recipe["base"], base_path=starter_dir, loras_dir=tmp_path / "loras", template=read_folder_template(starter_dir),
        dataset=DatasetSpec(path=root / "datasets" / DATA, **recipe["dataset"]), prompts=recipe["prompts"][:5],
        options=TrainingOptions.model_validate(recipe["options"] | shorter),
    )  # fmt: skip
    run(args, context)
    proof = Proof.model_validate_json((context.directory / PROOF).read_text(encoding="utf-8"))
    assert proof.verdict == "green", proof.sentence
    assert proof.held_out is not None
    assert proof.held_out.change < -0.7
    assert [answer.prompt for answer in proof.answers] == recipe["prompts"][:5]
    assert not any(speaks_as_captain(answer.base) for answer in proof.answers)
    assert sum(speaks_as_captain(answer.adapter) for answer in proof.answers) >= 4
    card = json.loads((tmp_path / "loras" / "captain" / RECORD).read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(card)
    assert str(root) not in json.dumps(card)
