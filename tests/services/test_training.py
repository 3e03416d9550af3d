"""Runs as people ask for them and as they stand: what is refused and why, what is told of a run's files, what differs, who makes room in memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import AppError, InvalidRequest, JobConflict, NotFound
from modules.core.model import ModelInfo
from modules.core.settings import Settings
from modules.jobs.queue import QueueLimits
from modules.jobs.record import JobRecord
from modules.loaders.fingerprint import fingerprint
from modules.prompts.library import TemplateLibrary
from modules.services.app import App, build_app
from modules.services.datasets import DatasetService
from modules.services.jobs import JobService
from modules.services.template_bin import TemplateBin
from modules.services.templates import TemplateService
from modules.services.training import TrainingService, _untrainable
from modules.services.training_records import ROWS_LIMIT
from modules.training import early
from modules.training.forecast import needed_bytes
from tests.e2e.adapter_files import write_adapter
from tests.services.conftest import until

OWNER = "local"
ROW = {"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Aye!"}]}
DATASET = {"name": "talk.jsonl", "format": "messages", "columns": {"messages": "messages"}}


class Bench:
    """A training service whose jobs wait for ever, so that their directories can be written by hand."""

    def __init__(self, folder: Path, starter: Path, templates: Path) -> None:
        self.settings = Settings(
            models_dir=folder / "models", loras_dir=folder / "loras", datasets_dir=folder / "datasets", state_dir=folder / "state",
            presets_dir=folder / "presets", templates_dir=templates, model="none",
        )  # fmt: skip
        shutil.copytree(starter, folder / "models" / "starter")
        (folder / "datasets").mkdir()
        (folder / "datasets" / "talk.jsonl").write_text(json.dumps(ROW) + "\n")
        self.app: App = build_app(self.settings)
        self.jobs = JobService(folder / "waiting", limits=QueueLimits({"network": 0, "compute": 0}))
        self.training = TrainingService(
            self.settings, self.app.models, TemplateService(TemplateLibrary(templates), TemplateBin(folder / "bin")), DatasetService(self.settings.datasets_dir),
            self.jobs,
        )

    async def start(self, name: str = "captain", **values: Any) -> str:
        return (await self.training.start(OWNER, {"name": name, "base": "starter", "dataset": DATASET, **values})).id

    async def write(self, job_id: str, file: str, *rows: Any) -> None:
        directory = await self.jobs.directory(OWNER, job_id)
        (directory / file).write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
async def bench(tmp_path: Path, starter_dir: Path, root: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, starter_dir, root / "prompt_templates")
    await bench.jobs.start()
    yield bench
    await bench.training.close()
    await bench.jobs.close()
    await bench.app.close()


# ---- asked for


async def test_a_run_is_looked_up_whole(bench: Bench):
    args = await bench.training.prepared({"name": " captain ", "base": "starter", "dataset": DATASET, "options": {"rank": 4}, "prompts": ["  ", "Ahoy?"]})
    assert args.name == "captain" and args.base_path == bench.settings.models_dir / "starter" and args.options.rank == 4
    assert args.dataset.path == bench.settings.datasets_dir / "talk.jsonl" and args.prompts == ("Ahoy?",)
    assert args.template is not None and "<|im_start|>" in args.template.text and args.template_name == ""


async def test_a_prompt_template_gets_the_special_tokens_of_the_model(bench: Bench):
    args = await bench.training.prepared({"name": "a", "base": "starter", "dataset": DATASET, "template": "Alpaca"})
    assert args.template_name == "Alpaca" and args.template is not None and args.template.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"base": "starter/starter-Q8_0.gguf"}, InvalidRequest, "GGUF"),
        ({"base": "nobody"}, NotFound, "nobody"),
        ({"name": "../out"}, InvalidRequest, "name of the adapter"),
        ({"name": "there"}, InvalidRequest, "already"),
        ({"options": {"rank": 0}}, InvalidRequest, "rank"),
        ({"options": {"nodes": 2}}, InvalidRequest, "rendezvous"),
        ({"options": {"unheard_of": 1}}, InvalidRequest, "unheard_of"),
        ({"template": "Nothing like it"}, NotFound, "Nothing like it"),
        ({"continue_from": "lost"}, NotFound, "lost"),
        ({"dataset": {**DATASET, "name": "gone.jsonl"}}, NotFound, "gone.jsonl"),
        ({"dataset": {**DATASET, "format": "poem"}}, InvalidRequest, "poem"),
        ({"options": {"sample_prompts": ["x" * 20_001]}}, InvalidRequest, "20000"),
        ({"prompts": ["x" * 20_001]}, InvalidRequest, "20000"),
        ({"surprise": 1}, InvalidRequest, "surprise"),
    ],
)
async def test_what_cannot_be_is_refused_in_a_sentence(bench: Bench, values: dict[str, Any], error: type[Exception], words: str):
    (bench.settings.loras_dir / "there").mkdir(parents=True)
    with pytest.raises(error, match=words):
        await bench.training.prepared({"name": "captain", "base": "starter", "dataset": DATASET, **values})


@pytest.mark.parametrize(("values", "field", "begins"), [
    ({"name": "a/b"}, "name", "“a/b” cannot be"), ({"options": {"nodes": 2}}, "rendezvous", "rendezvous is needed"),
    ({"options": {"patience": 2, "held_out_percent": 0}}, "patience", "patience needs"), ({"options": {"rank": 0}}, "rank", "rank: "),
])  # fmt: skip
async def test_a_refusal_names_the_field_of_the_form(bench: Bench, values: dict[str, Any], field: str, begins: str):
    with pytest.raises(InvalidRequest, match=f"^{begins}") as caught:
        await bench.training.prepared({"name": "captain", "base": "starter", "dataset": DATASET, **values})
    assert caught.value.details["field"] == field and "{" not in caught.value.message


# ---- refused before a job begins: what the job would say


@pytest.mark.parametrize(("options", "field", "sentence"), [
    ({"nodes": 2, "rendezvous": "somewhere"}, "rendezvous", "“somewhere” is no address:port"),
    ({"nodes": 2, "rendezvous": "first:0"}, "rendezvous", "“first:0” is no address:port"),
    ({"pissa": True, "precision": "4bit"}, "pissa", "pissa takes its beginning out of the base weights"),
    ({"new_tokens": ["<|ahoy|>", ""]}, "new_tokens", "must have 1 to 64 characters"),
    ({"new_tokens": ["y" * 65]}, "new_tokens", "must have 1 to 64 characters"),
    ({"target_all": False, "target_modules": ["q_proj", "c_attn"]}, "target_modules", "No layer of this model is called c_attn; it has down_proj, gate_proj"),
    ({"target_all": False, "target_modules": ["proj"]}, "target_modules", "No layer of this model is called proj;"),
])  # fmt: skip
async def test_options_that_the_job_would_refuse_are_refused_at_once(bench: Bench, options: dict[str, Any], field: str, sentence: str):
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        await bench.training.start(OWNER, {"name": "captain", "base": "starter", "dataset": DATASET, "options": options})
    assert caught.value.details["field"] == field
    assert await bench.jobs.list(OWNER) == ()


async def test_options_that_the_job_takes_are_not_refused(bench: Bench):
    for options in (
        {"target_all": False, "target_modules": ["q_proj", "layers.0.mlp.up_proj", "lm_head"]},
        {"new_tokens": ["<|ahoy|>", "<|im_end|>"]},  # of one that is known already the row is learned
        {"nodes": 2, "rendezvous": "[fe80::1]:29500"},
    ):
        await bench.training.prepared({"name": "captain", "base": "starter", "dataset": DATASET, "options": options})


async def test_an_adapter_that_learning_cannot_go_on_from_is_refused_at_once(bench: Bench):
    base, folder = bench.settings.models_dir / "starter", bench.settings.loras_dir / "first"
    write_adapter(folder, base)
    wanted = {"name": "second", "base": "starter", "dataset": DATASET, "continue_from": "first", "options": {"rank": 4, "alpha": 4}}
    assert (await bench.training.prepared(wanted)).continue_from == folder
    refused = (
        ({"rank": 8, "alpha": 4}, r"first has rank 4 \(not 8\); set the same"),
        ({"rank": 4, "alpha": 8}, r"has alpha 4 \(not 8.0\)"),
        ({"rank": 4, "alpha": 4, "pissa": True}, "pissa begins an adapter anew and cannot continue one"),
    )
    for options, sentence in refused:
        with pytest.raises(InvalidRequest, match=sentence):
            await bench.training.start(OWNER, {**wanted, "options": options})
    (folder / "training.json").write_text(json.dumps({"base_fingerprint": fingerprint(base).model_dump()}))
    await bench.training.prepared(wanted)
    twin = shutil.copytree(base, base.with_name("twin"))  # the same shapes and words, other weights
    weights = twin / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    for options in ({"rank": 4, "alpha": 4}, {"rank": 8}):
        with pytest.raises(InvalidRequest, match="first was trained on another base model: twin differs in its weights. Choose the model it was trained on"):
            await bench.training.start(OWNER, {**wanted, "base": "twin", "options": options})
    assert await bench.jobs.list(OWNER) == ()


async def test_an_adapter_whose_card_is_lost_is_asked_for_its_shapes(bench: Bench, tmp_path: Path):
    known = json.loads((bench.settings.models_dir / "starter" / "config.json").read_text())
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text(json.dumps(known | {"hidden_size": 512}))
    write_adapter(bench.settings.loras_dir / "first", tmp_path / "wide")
    with pytest.raises(AppError, match="first was made for another model: .* choose the adapter's base model"):
        await bench.training.prepared({"name": "b", "base": "starter", "dataset": DATASET, "continue_from": "first", "options": {"rank": 4, "alpha": 4}})


async def test_weights_that_take_long_to_read_are_left_to_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    base = bench.settings.models_dir / "starter"
    write_adapter(bench.settings.loras_dir / "first", base)
    other = {**fingerprint(base).model_dump(), "weights": "of another"}
    (bench.settings.loras_dir / "first" / "training.json").write_text(json.dumps({"base_fingerprint": other}))
    wanted = {"name": "second", "base": "starter", "dataset": DATASET, "continue_from": "first", "options": {"rank": 4, "alpha": 4}}
    with pytest.raises(InvalidRequest, match="differs in its weights"):
        await bench.training.prepared(wanted)
    monkeypatch.setattr(early, "READ_BYTES", 1000)
    await bench.training.prepared(wanted)


@pytest.mark.processes
def test_nothing_heavy_is_imported_to_refuse():
    code = "import sys; import modules.training.early; sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_bases_tell_why_they_cannot_be_trained(bench: Bench):
    rows = {row.name: row.problem for row in await bench.training.bases()}
    assert rows["starter"] == "" and "GGUF" in rows["starter/starter-Q8_0.gguf"]


def test_a_model_that_writes_nothing_is_no_base():
    row = ModelInfo(name="bert", path="bert", format="safetensors", can_write=False)
    assert "embedding model" in _untrainable(row) and _untrainable(row.model_copy(update={"can_write": True})) == ""


async def test_a_name_is_taken_as_long_as_its_run_goes_on(bench: Bench):
    await bench.start("one")
    with pytest.raises(JobConflict, match="one"):
        await bench.start("one")
    await bench.start("two")


# ---- told


async def test_a_run_tells_its_curve_from_a_row_on(bench: Bench):
    job = await bench.start()
    await bench.write(job, "curve.jsonl", *({"step": step, "loss": 1 / (step + 1)} for step in range(5)))
    await bench.write(job, "samples.jsonl", {"step": 1, "prompt": "Ahoy?", "text": "Aye"})
    await bench.write(job, "proof.json", {"verdict": "green"})
    await bench.write(job, "commands.json", ["torchrun …"])
    record = await bench.training.run(OWNER, job, after=3)
    assert [row["step"] for row in record.curve] == [3, 4] and record.rows == 5
    assert record.samples[0]["text"] == "Aye" and record.proof == {"verdict": "green"} and record.commands == ("torchrun …",)


async def test_a_torn_line_and_odd_files_do_no_harm(bench: Bench):
    job = await bench.start()
    directory = await bench.jobs.directory(OWNER, job)
    (directory / "curve.jsonl").write_text('{"step": 1, "loss": 2}\n[1]\n{"step": 2, "lo')
    (directory / "proof.json").write_text("{")
    (directory / "commands.json").write_text('"text"')
    record = await bench.training.run(OWNER, job)
    assert [row["step"] for row in record.curve] == [1] and record.proof is None and record.commands == ()


async def test_a_very_long_curve_is_thinned_but_keeps_what_was_held_out(bench: Bench):
    job = await bench.start()
    rows = [{"step": step, "loss": 1.0, **({"held_out_loss": 2.0} if step % 997 == 0 else {})} for step in range(3 * ROWS_LIMIT)]
    await bench.write(job, "curve.jsonl", *rows)
    record = await bench.training.run(OWNER, job)
    assert len(record.curve) < ROWS_LIMIT + 50 and record.rows == len(rows) and record.curve[-1] == rows[-1]
    assert sum("held_out_loss" in row for row in record.curve) == sum("held_out_loss" in row for row in rows)


async def test_a_run_can_be_asked_for_again(bench: Bench):
    first = await bench.start("one", options={"rank": 8}, prompts=["Ahoy?"], template="ChatML", notes="of the sea")
    record = await bench.training.run(OWNER, first)
    assert record.notes == "of the sea" and str(bench.settings.state_dir.parent) not in json.dumps(record.request)
    again = await bench.training.prepared({**record.request, "name": "two"})
    assert again.options.rank == 8 and again.template_name == "ChatML" and again.prompts == ("Ahoy?",)


async def test_notes_are_kept_and_bounded(bench: Bench):
    job = await bench.start()
    await bench.training.note(OWNER, job, "better with rank 8")
    assert (await bench.training.runs(OWNER))[0].notes == "better with rank 8"
    with pytest.raises(InvalidRequest, match="4000"):
        await bench.training.note(OWNER, job, "x" * 4001)


async def test_differences_name_what_was_asked_differently(bench: Bench):
    ids = [await bench.start("one", options={"rank": 8}), await bench.start("two", options={"rank": 8, "epochs": 1}), await bench.start("three")]
    found = await bench.training.compare(OWNER, ids)
    assert dict(found.differences) == {"rank": (8, 8, 16), "epochs": (3.0, 1.0, 3.0)}
    for wrong in (ids[:1], [ids[0], ids[0]]):
        with pytest.raises(InvalidRequest, match="between 2 and 8"):
            await bench.training.compare(OWNER, wrong)


async def test_another_persons_run_and_other_jobs_do_not_exist(bench: Bench):
    job = await bench.start()
    look = await bench.training.check(OWNER, {"name": "x", "base": "starter", "dataset": DATASET})
    for call in (bench.training.run("somebody", job), bench.training.run(OWNER, look.id), bench.training.cancel(OWNER, look.id), bench.training.note("somebody", job, "x")):
        with pytest.raises(NotFound):
            await call
    assert [record.job.id for record in await bench.training.runs(OWNER)] == [job]


async def test_only_a_run_that_goes_on_can_be_ended_and_kept(bench: Bench):
    job = await bench.start()
    with pytest.raises(JobConflict, match="resume"):
        await bench.training.finish(OWNER, job)


async def test_a_paused_run_can_be_given_up(bench: Bench):
    job = await bench.start()
    await bench.training.pause(OWNER, job)
    directory = await bench.jobs.directory(OWNER, job)
    (directory / "checkpoints" / "step-5").mkdir(parents=True)
    left = bench.settings.loras_dir / f".captain.part-{directory.name}"
    left.mkdir(parents=True)
    for folder in ("adapter", "initial"):
        (directory / folder).mkdir()
    (directory / "learned.json").write_text('{"ended": ""}')
    assert (await bench.training.cancel(OWNER, job)).status == "cancelled"
    assert not [name for name in ("checkpoints", "adapter", "initial", "learned.json") if (directory / name).exists()] and not left.exists()
    await bench.start()  # the name is free again
    with pytest.raises(JobConflict, match="cancelled"):
        await bench.training.cancel(OWNER, job)


async def test_a_run_that_is_done_keeps_no_checkpoints(bench: Bench):
    waiting, done = await bench.start("one"), await bench.start("two")
    for job in (waiting, done):
        directory = await bench.jobs.directory(OWNER, job)
        for name in ("checkpoints/step-1", "initial", "adapter"):
            (directory / name).mkdir(parents=True)
        (directory / "curve.jsonl").write_text('{"step": 1, "loss": 2}')
        if job == done:
            JobRecord.open(directory).append("done", result={"verdict": "green"})
    records = {record.job.id: record for record in await bench.training.runs(OWNER)}
    assert records[done].job.status == "done", records[done].job
    left = {job: {path.name for path in (await bench.jobs.directory(OWNER, job)).iterdir()} for job in (waiting, done)}
    assert {"checkpoints", "initial", "adapter"} <= left[waiting]
    assert not {"checkpoints", "initial", "adapter"} & left[done] and "curve.jsonl" in left[done]


# ---- recipes


async def test_recipes_and_adapters_give_runs(bench: Bench):
    (bench.settings.datasets_dir / "sea.recipe.yaml").write_text("title: Talk like the sea\nname: sea\noptions:\n  rank: 4\n")
    first = await bench.training.prepared({"name": "one", "base": "starter", "dataset": DATASET, "options": {"rank": 2}})
    folder = bench.settings.loras_dir / "one"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"args": first.model_dump(mode="json")}))
    assert [(row.kind, row.name, row.title) for row in await bench.training.recipes()] == [("recipe", "sea", "Talk like the sea"), ("adapter", "one", "")]
    assert (await bench.training.recipe("recipe", "sea"))["options"]["rank"] == 4
    again = await bench.training.recipe("adapter", "one")
    assert again["options"]["rank"] == 2 and again["dataset"] == DATASET and (await bench.training.prepared({**again, "name": "two"})).options.rank == 2


@pytest.mark.parametrize("text", ["- 1", "options: 3", "options: {rank: -1}", "unheard: 1", "a: &a 1", "\x00"])
async def test_a_broken_recipe_is_told(bench: Bench, text: str):
    (bench.settings.datasets_dir / "bad.recipe.yaml").write_text(text)
    with pytest.raises(InvalidRequest):
        await bench.training.recipe("recipe", "bad")
    with pytest.raises((InvalidRequest, NotFound)):
        await bench.training.recipe("adapter", "../starter")


# ---- room


@pytest.mark.processes
async def test_models_make_room_for_a_run_that_needs_it_and_come_back(bench: Bench):
    await bench.app.models.load("starter/starter-Q8_0.gguf", "", {"context_length": 256, "slots": 1, "threads": 1, "threads_batch": 1})
    small = await bench.start("small")
    assert bench.app.models.loaded_names() == ("starter/starter-Q8_0.gguf",)
    large = await bench.start("large", options={"micro_batch_size": 1024, "batch_size": 1024, "cutoff_tokens": 2048})
    assert bench.app.models.loaded_names() == () and bench.app.models.status().asleep == ("starter/starter-Q8_0.gguf",)
    await bench.jobs.cancel(OWNER, large)
    await asyncio.sleep(0.3)
    assert bench.app.models.loaded_names() == ()  # another run goes on
    await bench.jobs.cancel(OWNER, small)
    await until(lambda: bench.app.models.loaded_names() == ("starter/starter-Q8_0.gguf",))


async def test_forecasts_follow_what_costs_memory(bench: Bench):
    from modules.loaders.folder_header import read_folder_header
    from modules.loaders.shape import folder_shape

    shape = folder_shape(read_folder_header(bench.settings.models_dir / "starter"))
    options = TrainingService.options
    base = needed_bytes(shape, options())
    assert needed_bytes(shape, options(micro_batch_size=8)) > base > needed_bytes(shape, options(gradient_checkpointing=True))
    assert needed_bytes(shape, options(precision="4bit")) < base < needed_bytes(shape, options(rank=256))
    assert needed_bytes(shape, options(cutoff_tokens=64)) < base
