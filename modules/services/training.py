"""Training for the front ends: what can be trained, a look before a run, runs and how they stand, compared, with notes.

The work itself is done by jobs of the kinds “examine” and “train”; this service makes their arguments, makes room for them, and reads what they
leave in their directories. Knows no page.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import InvalidRequest, JobConflict, NotFound
from modules.core.files import checked_name, write_atomic
from modules.core.job import TERMINAL, JobSnapshot
from modules.core.model import ModelInfo, TemplateSource
from modules.core.settings import Settings, validation_sentence
from modules.loaders.folder_header import read_folder_template
from modules.prompts.bos import for_model
from modules.services.datasets import DatasetService
from modules.services.jobs import JobService
from modules.services.models import ModelService
from modules.services.templates import TemplateService
from modules.services.training_recipes import Kind, RecipeRow, TrainingRecipes
from modules.services.training_records import NOTES, RunRecord, differences, read_record
from modules.services.training_room import TrainingRoom
from modules.training.distributed import SAVED
from modules.training.early import refuse_early
from modules.training.material import INITIAL
from modules.training.options import PROMPT_CHARACTERS, TrainingOptions
from modules.training.samples import DatasetSpec
from modules.training.spec import CHECKPOINTS, EXAMINATION, FINISH, ExamineArgs, TrainArgs

TRAIN, EXAMINE = "train", "examine"
COMPARED_LIMIT = 8
NOTES_CHARACTERS = 4000


class DatasetChoice(BaseModel, extra="forbid"):
    """A data set by its name, and how it is read."""

    name: str = Field(max_length=300)
    format: str = Field(max_length=40)
    columns: dict[str, str] = Field(default_factory=dict, max_length=32)


class RunRequest(BaseModel, extra="forbid"):
    """A run as the page and the API ask for it."""

    name: str = Field(max_length=100)
    base: str = Field(max_length=400)
    dataset: DatasetChoice
    held_out: DatasetChoice | None = None
    template: str = Field("", max_length=200)
    continue_from: str = Field("", max_length=400)
    options: dict[str, Any] = Field(default_factory=dict)
    prompts: tuple[Annotated[str, Field(max_length=PROMPT_CHARACTERS)], ...] = Field((), max_length=10)
    notes: str = Field("", max_length=NOTES_CHARACTERS)


@dataclass(frozen=True)
class BaseRow:
    """A model of the list, and whether it can be trained."""

    name: str
    parameters: int
    layers: int
    context_length: int
    template: str
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side: what differs, and their curves by run."""

    records: tuple[RunRecord, ...]
    differences: tuple[tuple[str, tuple[Any, ...]], ...]


class TrainingService:
    """All verbs on runs. One event loop calls it."""

    options = TrainingOptions  # for the form

    def __init__(self, settings: Settings, models: ModelService, templates: TemplateService, datasets: DatasetService, jobs: JobService) -> None:
        self._settings = settings
        self._models = models
        self._templates = templates
        self._datasets = datasets
        self._jobs = jobs
        self._room = TrainingRoom(models, jobs)
        self._recipes = TrainingRecipes(settings.datasets_dir, settings.loras_dir)

    # ---- what there is ---------------------------------------------------------------------------------------------

    async def bases(self) -> tuple[BaseRow, ...]:
        """All models of this machine; of those that cannot be trained why."""
        rows = []
        for info in await self._models.list():
            problem = info.problem or _untrainable(info)
            rows.append(BaseRow(info.name, info.parameters, info.layers, info.context_length, info.template, problem))
        return tuple(sorted(rows, key=lambda row: (bool(row.problem), row.name.lower())))

    async def parents(self) -> tuple[tuple[str, str], ...]:
        """Adapters from which learning can go on, with the base each names."""
        return tuple((row.name, row.base_model) for row in await self._models.adapters() if row.format == "peft" and not row.problem)

    async def recipes(self) -> tuple[RecipeRow, ...]:
        """Settings that a run can begin from."""
        return await asyncio.to_thread(self._recipes.list)

    async def recipe(self, kind: Kind, name: str) -> dict[str, Any]:
        """A run as such settings ask for it.

        Raises:
            NotFound: there are none.
            InvalidRequest: they cannot be read.
        """
        return await asyncio.to_thread(self._recipes.read, kind, name)

    # ---- begin -----------------------------------------------------------------------------------------------------

    async def check(self, owner: str, run: Mapping[str, Any]) -> JobSnapshot:
        """Look at the data as the model would see it, and try two steps; the job's id finds the result.

        Raises:
            AppError: what is asked for cannot be, with the cure.
        """
        args = await self.prepared(run)
        await self._room.make(args)
        job = await self._jobs.submit(owner, EXAMINE, ExamineArgs(run=args).model_dump(mode="json"))
        self._room.attend(owner, job.id)
        return job

    async def start(self, owner: str, run: Mapping[str, Any]) -> JobSnapshot:
        """Begin a run.

        Raises:
            AppError: what is asked for cannot be, with the cure.
        """
        args = await self.prepared(run)
        running = [job for job in await self._jobs.list(owner) if job.kind == TRAIN and job.status not in TERMINAL and job.args.get("name") == args.name]
        if running:
            raise JobConflict(f"A run that makes the adapter “{args.name}” is there already; choose another name, or end that one.", field="name")
        await self._room.make(args)
        job = await self._jobs.submit(owner, TRAIN, args.model_dump(mode="json"))
        self._room.attend(owner, job.id)
        return job

    async def prepared(self, run: Mapping[str, Any]) -> TrainArgs:
        """A run with everything looked up: paths, the template's text, checked options.

        Raises:
            AppError: what is asked for cannot be, with the cure.
        """
        try:
            asked = RunRequest.model_validate(dict(run))
            options = TrainingOptions.model_validate(asked.options)
        except ValidationError as error:
            raise InvalidRequest(validation_sentence(error), field=_field(error)) from error
        name = checked_name(asked.name, "name of the adapter", field="name")
        if await asyncio.to_thread((self._settings.loras_dir / name).exists):
            raise InvalidRequest(f"There is an adapter “{name}” already; choose another name, or delete or rename that one.", field="name")
        base = await self._models.find(asked.base)
        problem = base.problem or _untrainable(base)
        if problem:
            raise InvalidRequest(f"{base.name} cannot be trained: {problem}", field="base")
        template, template_name = await self._template(asked.template, Path(base.path))
        args = TrainArgs(
            name=name,
            base=base.name,
            base_path=Path(base.path),
            dataset=await self._dataset(asked.dataset),
            held_out=await self._dataset(asked.held_out) if asked.held_out else None,
            template=template,
            template_name=template_name,
            continue_from=await self._parent(asked.continue_from),
            loras_dir=self._settings.loras_dir,
            options=options,
            prompts=tuple(filter(None, (prompt.strip() for prompt in asked.prompts))),
            notes=asked.notes,
        )
        await asyncio.to_thread(refuse_early, args)
        return args

    async def _dataset(self, choice: DatasetChoice) -> DatasetSpec:
        return await asyncio.to_thread(self._datasets.spec, choice.name, choice.format, choice.columns)

    async def _template(self, name: str, base: Path) -> tuple[TemplateSource | None, str]:
        own = await asyncio.to_thread(read_folder_template, base)
        if not name:
            return own, ""
        source = await self._templates.source(name)
        if own is None:
            return source, name
        return for_model(source, bos_token=own.bos_token, eos_token=own.eos_token, adds_bos="bos_token" in own.text), name

    async def _parent(self, name: str) -> Path | None:
        if not name:
            return None
        found = next((row for row in await self._models.adapters() if row.name == name), None)
        if found is None:
            raise NotFound(f"There is no adapter “{name}” to go on from; choose one from the list.", field="continue_from")
        if found.format != "peft" or found.problem:
            raise InvalidRequest(f"“{name}” cannot be trained further: {found.problem or 'it is a GGUF file, not a folder of PEFT'}.", field="continue_from")
        return Path(found.path)

    # ---- look ------------------------------------------------------------------------------------------------------

    async def examination(self, owner: str, job_id: str) -> tuple[JobSnapshot, Mapping[str, Any] | None]:
        """How a look stands, and what it found."""
        job = await self._known(owner, job_id, EXAMINE)
        directory = await self._jobs.directory(owner, job_id)
        return job, await asyncio.to_thread(_json_of, directory / EXAMINATION)

    async def runs(self, owner: str) -> tuple[RunRecord, ...]:
        """All runs, the newest first, without curves."""
        jobs = [job for job in await self._jobs.list(owner) if job.kind == TRAIN]
        directories = [await self._jobs.directory(owner, job.id) for job in jobs]
        done = [directory for job, directory in zip(jobs, directories, strict=True) if job.status == "done"]
        await asyncio.to_thread(_tidy, done)
        return await asyncio.to_thread(lambda: tuple(read_record(job, directory, after=None) for job, directory in zip(jobs, directories, strict=True)))

    async def run(self, owner: str, job_id: str, after: int = 0) -> RunRecord:
        """One run, with the rows of its curve after so many.

        Raises:
            NotFound: there is none.
        """
        job = await self._known(owner, job_id, TRAIN)
        directory = await self._jobs.directory(owner, job_id)
        return await asyncio.to_thread(read_record, job, directory, after=after)

    async def compare(self, owner: str, job_ids: Sequence[str]) -> Comparison:
        """What differs between runs.

        Raises:
            InvalidRequest: not between two and eight.
        """
        ids = tuple(dict.fromkeys(job_ids))
        if not 2 <= len(ids) <= COMPARED_LIMIT:
            raise InvalidRequest(f"Choose between 2 and {COMPARED_LIMIT} runs to compare; {len(ids)} are chosen.")
        records = tuple([await self.run(owner, job_id) for job_id in ids])
        return Comparison(records, differences(records))

    async def _known(self, owner: str, job_id: str, kind: str) -> JobSnapshot:
        job = await self._jobs.read(owner, job_id)
        if job.kind != kind:
            raise NotFound("There is no such run; it may have been removed. Refresh the list.")
        return job

    # ---- act -------------------------------------------------------------------------------------------------------

    async def finish(self, owner: str, job_id: str) -> JobSnapshot:
        """End a run after the step it is at, and keep what it has learned.

        Raises:
            JobConflict: it does not run.
        """
        job = await self._known(owner, job_id, TRAIN)
        if job.status != "running":
            raise JobConflict("Only a run that is going on can be ended and kept; resume this one first.")
        directory = await self._jobs.directory(owner, job_id)
        await asyncio.to_thread(write_atomic, directory / FINISH, "")
        return await self._jobs.read(owner, job_id)

    async def pause(self, owner: str, job_id: str) -> JobSnapshot:
        """Stop a run at a checkpoint, to go on later."""
        await self._known(owner, job_id, TRAIN)
        return await self._jobs.pause(owner, job_id)

    async def cancel(self, owner: str, job_id: str) -> JobSnapshot:
        """End a run for good; what it learned is lost."""
        job = await self._known(owner, job_id, TRAIN)
        directory = await self._jobs.directory(owner, job_id)
        ended = await self._jobs.cancel(owner, job_id)
        if ended.status == "cancelled":  # no process runs that would delete what it has
            await asyncio.to_thread(_give_up, TrainArgs.model_validate(job.args), directory)
        return ended

    async def resume(self, owner: str, job_id: str) -> JobSnapshot:
        """Go on from the last checkpoint."""
        job = await self._known(owner, job_id, TRAIN)
        directory = await self._jobs.directory(owner, job_id)
        await asyncio.to_thread((directory / FINISH).unlink, missing_ok=True)
        await self._room.make(TrainArgs.model_validate(job.args))
        resumed = await self._jobs.resume(owner, job_id)
        self._room.attend(owner, job_id)
        return resumed

    async def remove(self, owner: str, job_id: str) -> None:
        """Forget a run with its curve and checkpoints; the adapter stays."""
        await self._known(owner, job_id, TRAIN)
        await self._jobs.remove(owner, job_id)

    async def note(self, owner: str, job_id: str, text: str) -> None:
        """Keep a person's words about a run."""
        await self._known(owner, job_id, TRAIN)
        if len(text) > NOTES_CHARACTERS:
            raise InvalidRequest(f"The notes have {len(text)} characters; the limit is {NOTES_CHARACTERS}. Shorten them.", field="text")
        directory = await self._jobs.directory(owner, job_id)
        await asyncio.to_thread(write_atomic, directory / NOTES, text)

    async def close(self) -> None:
        """Stop attending to runs."""
        await self._room.close()


def _field(error: ValidationError) -> str | None:
    """The field that an error is about; a sentence about several options begins with the one that is to be changed."""
    first = error.errors()[0]
    word = first["msg"].removeprefix("Value error, ").split(" ", 1)[0]
    return ".".join(str(part) for part in first["loc"]) or (word if word in TrainingOptions.model_fields else None)


def _untrainable(info: ModelInfo) -> str:
    """Why a model of this kind cannot be a base; empty if it can."""
    if not info.can_write:
        return "it is an embedding model. Training needs one that writes."
    if info.format == "gguf":
        return "it is a GGUF file. Training needs the same model as a folder with safetensors: download that."
    return "" if info.format == "safetensors" else "it is on another server. Training needs a model of this machine."


def _tidy(directories: Sequence[Path]) -> None:
    """Delete what runs that are done went on from: nothing can use it any more, and with a large model it is large."""
    for directory in directories:
        for name in (CHECKPOINTS, INITIAL, SAVED):
            shutil.rmtree(directory / name, ignore_errors=True)


def _give_up(args: TrainArgs, directory: Path) -> None:
    """Delete what a run has, as its own process does when it is cancelled."""
    from modules.training.train import give_up

    give_up(args, directory)


def _json_of(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


