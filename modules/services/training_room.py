"""Memory for training: models loaded for chat fall asleep when a run needs their room, and are woken when it has ended.

Knows the models and the jobs; knows nothing of how training works but what `forecast.py` says it needs.
"""

from __future__ import annotations

import asyncio
import logging

from modules.core.errors import AppError
from modules.core.job import TERMINAL, JobSnapshot
from modules.loaders.folder_header import read_folder_header
from modules.loaders.machine import available_bytes, graphics_bytes
from modules.loaders.shape import folder_shape
from modules.services.jobs import JobService
from modules.services.models import ModelService
from modules.training.forecast import needed_bytes
from modules.training.spec import TrainArgs

log = logging.getLogger(__name__)


class TrainingRoom:
    """Makes room before runs and gives it back after them."""

    def __init__(self, models: ModelService, jobs: JobService) -> None:
        self._models = models
        self._jobs = jobs
        self._asleep: tuple[str, ...] = ()  # to be woken when no run goes on
        self._tasks: set[asyncio.Task[None]] = set()
        self._attended: set[str] = set()

    async def make(self, args: TrainArgs) -> None:
        """Let the loaded models fall asleep if a run needs more memory than is free."""
        if not self._models.loaded_names():
            return
        if await asyncio.to_thread(_is_short, args):
            names = await self._models.make_room()
            self._asleep = tuple(dict.fromkeys((*self._asleep, *names)))
            log.info("%s made room for training.", ", ".join(names))

    def attend(self, owner: str, job_id: str) -> None:
        """Wake what made room as soon as this job has ended and no other is attended to."""
        if job_id in self._attended:
            return
        self._attended.add(job_id)
        task = asyncio.get_running_loop().create_task(self._attend(owner, job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, owner: str, job_id: str) -> None:
        try:
            async for job in self._jobs.watch(owner, job_id):
                if _has_ended(job):
                    break
        except AppError:  # removed meanwhile, or the server stops
            pass
        self._attended.discard(job_id)
        names = () if self._attended else self._asleep
        self._asleep = tuple(name for name in self._asleep if name not in names)
        for name in reversed(names):  # the one used last is woken last, and is then the current one again
            try:
                await self._models.get(name)
            except AppError as error:
                log.warning("%s could not be loaded again after training: %s", name, error.message)

    async def close(self) -> None:
        """Stop attending."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _has_ended(job: JobSnapshot) -> bool:
    return job.status in TERMINAL or job.status == "interrupted"


def _is_short(args: TrainArgs) -> bool:
    """Whether what is free would not do. With a graphics card what lies in its memory is not known here: room is made."""
    graphics = graphics_bytes("transformers")
    needed = needed_bytes(folder_shape(read_folder_header(args.base_path)), args.options, graphics=bool(graphics))
    return needed * args.options.processes > (graphics or available_bytes())
