"""Perplexity for the front ends: models are measured on a text, one job each, and what came out stays in a table.

The same model on the same text in the same way is not measured again unless asked for. The work is in `modules/lab`; knows no page.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import InvalidRequest, JobConflict, NotFound, UnsupportedFormat
from modules.core.job import TERMINAL, JobSnapshot
from modules.core.model import Adapter, AdapterChoice, AdapterChoices, in_use
from modules.core.settings import Settings, validation_sentence
from modules.lab.perplexity import PerplexityArgs, model_version, own_options
from modules.loaders.adapter_facts import files_version
from modules.services.adapters import AdapterService
from modules.services.datasets import DatasetService
from modules.services.jobs import JobService
from modules.services.models import ModelService
from modules.services.perplexity_table import COMMENT_CHARACTERS, PerplexityRow, PerplexityTable, as_csv
from modules.services.perplexity_texts import PerplexityTexts, PreparedText, TextChoice

KIND = "perplexity"
MODELS_LIMIT = 32


class PerplexityRequest(BaseModel, extra="forbid"):
    """What the page asks for."""

    models: tuple[str, ...] = Field(min_length=1, max_length=MODELS_LIMIT)
    adapters: AdapterChoices = ()
    text: TextChoice = Field(default_factory=TextChoice)
    window: int = PerplexityArgs.model_fields["window"].default
    stride: int = PerplexityArgs.model_fields["stride"].default
    again: bool = False


@dataclass(frozen=True)
class Begun:
    """What came of a request: jobs that were queued, and measurements that are there already."""

    jobs: tuple[JobSnapshot, ...]
    known: tuple[PerplexityRow, ...]


@dataclass(frozen=True)
class Standing:
    """Jobs that are not in the table yet, the newest first, and the table."""

    jobs: tuple[JobSnapshot, ...]
    rows: tuple[PerplexityRow, ...]


class PerplexityService:
    """All verbs on measurements. One event loop calls it."""

    def __init__(self, settings: Settings, models: ModelService, adapters: AdapterService, datasets: DatasetService, jobs: JobService) -> None:
        self._models = models
        self._adapters = adapters
        self._jobs = jobs
        self._table = PerplexityTable(settings.state_dir / "perplexity.json")
        self._texts = PerplexityTexts(settings.state_dir / "perplexity-texts", datasets)
        self._table_lock = asyncio.Lock()
        self._begin_lock = asyncio.Lock()

    async def standing(self, owner: str) -> Standing:
        """How everything stands; jobs that are done become rows."""
        async with self._table_lock:
            jobs = [job for job in await self._jobs.list(owner) if job.kind == KIND]
            for job in jobs:
                if job.status == "done":
                    await asyncio.to_thread(self._table.add, _row(owner, job))
                    with contextlib.suppress(JobConflict, NotFound):  # its process is about to end, or another page was quicker
                        await self._jobs.remove(owner, job.id)
            rows = await asyncio.to_thread(self._table.rows, owner)
        return Standing(tuple(job for job in jobs if job.status != "done"), rows)

    async def begin(self, owner: str, request: Mapping[str, Any]) -> Begun:
        """Queue a job for every model that was not measured in this way yet; all are checked before the first is queued.

        Raises:
            AppError: what is asked for cannot be, with the cure.
        """
        try:
            asked = PerplexityRequest.model_validate(dict(request))
        except ValidationError as error:
            raise InvalidRequest(validation_sentence(error), field=str(error.errors()[0]["loc"][0])) from error
        async with self._begin_lock:  # texts of one request are not tidied away by another
            await self._tidy(owner)
            text = await self._texts.prepare(owner, asked.text)
            wanted = [await self._args(name, asked, text) for name in dict.fromkeys(asked.models)]
            standing = await self.standing(owner)
            known: list[PerplexityRow] = []
            begun: list[JobSnapshot] = []
            for args in wanted:
                row = None if asked.again else _found(owner, args, standing.rows)
                same = next((job for job in standing.jobs if job.status not in TERMINAL and job.args == args.model_dump(mode="json")), None)
                if row is not None:
                    known.append(row)
                elif same is not None:
                    begun.append(same if same.status != "interrupted" else await self._jobs.resume(owner, same.id))
                else:
                    begun.append(await self._jobs.submit(owner, KIND, args.model_dump(mode="json")))
        return Begun(tuple(begun), tuple(known))

    async def _tidy(self, owner: str) -> None:
        used = {Path(str(job.args.get("text_path"))) for job in await self._jobs.list(owner) if job.kind == KIND}
        await asyncio.to_thread(self._texts.tidy, owner, used)

    async def _args(self, name: str, asked: PerplexityRequest, text: PreparedText) -> PerplexityArgs:
        info = await self._models.find(name)
        if info.problem:
            raise UnsupportedFormat(info.problem, field="models")
        specs = self._models.loaders_for(info)
        if not specs:
            raise InvalidRequest(f"{name} is on another server, which does not tell how likely a given text is; choose a model of this machine.", field="models")
        last = self._models.remembered(name)
        spec = next((spec for spec in specs if spec.name == last.loader), specs[0])
        path = Path(info.path)
        try:
            return PerplexityArgs(
                model=name,
                path=path,
                version=await asyncio.to_thread(model_version, path),
                loader=spec.name,
                options=own_options(spec, last.options if last.loader in ("", spec.name) else {}),
                adapters=await self._resolved(name, asked.adapters),
                text_name=text.name,
                text_path=text.path,
                text_sha256=text.sha256,
                window=asked.window,
                stride=asked.stride,
            )
        except ValidationError as error:
            raise InvalidRequest(validation_sentence(error), field=str(error.errors()[0]["loc"][0])) from error
        except OSError:
            raise NotFound(f"{name} was removed just now; refresh the list of models.", field="models") from None

    async def _resolved(self, model: str, choices: Sequence[AdapterChoice]) -> tuple[Adapter, ...]:
        if not choices:
            return ()
        rows = {row.info.name: row for row in await self._adapters.list(model)}
        resolved = []
        for choice in choices:
            row = rows.get(choice.name)
            if row is None:
                raise NotFound(f"There is no adapter “{choice.name[:100]}” any more; choose others.", field="adapters")
            if row.problem:
                raise InvalidRequest(f"{model} with {choice.name}: {row.problem}", field="adapters")
            version = await asyncio.to_thread(files_version, Path(row.info.path))
            resolved.append(Adapter(path=row.info.path, scale=choice.scale, name=choice.name, version=version))
        return in_use(resolved)

    # ---- jobs and rows ---------------------------------------------------------------------------------------------

    async def cancel(self, owner: str, job_id: str) -> JobSnapshot:
        """End a measurement.

        Raises:
            NotFound: no such job.
            JobConflict: it does not run.
        """
        return await self._jobs.cancel(owner, (await self._known(owner, job_id)).id)

    async def resume(self, owner: str, job_id: str) -> JobSnapshot:
        """Go on with a measurement that was stopped or failed, behind the last window that was written down.

        Raises:
            NotFound: no such job.
            JobConflict: it waits, runs, or is done.
        """
        return await self._jobs.resume(owner, (await self._known(owner, job_id)).id)

    async def forget(self, owner: str, job_id: str) -> None:
        """Take a measurement that does not run out of the list.

        Raises:
            NotFound: no such job.
            JobConflict: it runs.
        """
        await self._jobs.remove(owner, (await self._known(owner, job_id)).id)

    async def _known(self, owner: str, job_id: str) -> JobSnapshot:
        job = await self._jobs.read(owner, job_id)
        if job.kind != KIND:
            raise NotFound("There is no such measurement; it may have been removed. Refresh the page.")
        return job

    async def comment(self, owner: str, row_id: str, text: str) -> None:
        """Keep words about a row.

        Raises:
            NotFound: no such row.
            InvalidRequest: too many words.
        """
        if len(text) > COMMENT_CHARACTERS:
            raise InvalidRequest(f"The comment has {len(text)} characters; the limit is {COMMENT_CHARACTERS}. Shorten it.", field="text")
        async with self._table_lock:
            await asyncio.to_thread(self._table.comment, owner, row_id, " ".join(text.split()))

    async def delete(self, owner: str, row_id: str) -> None:
        """Take a row out of the table.

        Raises:
            NotFound: no such row.
        """
        async with self._table_lock:
            await asyncio.to_thread(self._table.delete, owner, row_id)

    async def csv(self, owner: str) -> str:
        """The table for a spreadsheet."""
        return as_csv((await self.standing(owner)).rows)


def _row(owner: str, job: JobSnapshot) -> PerplexityRow:
    asked = {"asked_window": job.args["window"], "asked_stride": job.args["stride"]}
    return PerplexityRow.model_validate({**(job.result or {}), **asked, "id": job.id, "owner": owner, "created_s": job.ended_s or job.created_s})


def _found(owner: str, args: PerplexityArgs, rows: Sequence[PerplexityRow]) -> PerplexityRow | None:
    """The newest row of this measurement."""
    values = {**args.model_dump(mode="json"), "text": args.text_name, "id": "", "owner": owner, "created_s": 0, "perplexity": 0}
    subject = PerplexityRow.model_validate(values).subject
    return next((row for row in rows if row.subject == subject and row.was_asked(args.window, args.stride)), None)
