"""Gradio's queue of the page's events, with a loop that waits for them: Gradio's own looks again and again, whether or not somebody has the page open.

Each look takes a third of a millisecond from a model that computes on all cores, and between two looks an event waits. Source: `gradio/queueing.py`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from gradio.queueing import Queue
from gradio.utils import run_coro_in_background, set_task_name

LOOK_S = 1.0  # between looks whether the server ends
NEVER_S = 1e6  # nothing here reports progress through Gradio, so nobody has to look for it


class EventQueue(Queue):
    """A queue that begins an event when it comes, or when one before it has ended."""

    _news: asyncio.Event
    stopped: bool

    @classmethod
    def instead_of(cls, queue: Queue) -> None:
        """Let a queue that is not running yet be one of these."""
        queue.__class__ = cls
        queue.progress_update_sleep_when_free = NEVER_S
        queue._news = asyncio.Event()

    async def push(self, *args: Any, **named: Any) -> Any:
        """Take an event, as Gradio does."""
        pushed = await super().push(*args, **named)
        self._news.set()
        return pushed

    async def start_processing(self) -> None:
        """Begin what can begin, then wait for news; until the server ends."""
        self._news = asyncio.Event()  # of this loop: a page may be served once more by another one
        try:
            while not self.stopped:
                self._news.clear()
                while await self._begin_one():
                    pass
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_S)
        finally:
            self.stopped = True
            self._cancel_asyncio_tasks()

    async def _begin_one(self) -> bool:
        """Whether there was a place for an event that waits."""
        if None not in self.active_jobs:
            return False
        async with self.delete_lock:
            found = self.get_events()
        if found is None:
            return False
        events, batch, group = found
        begun_s, function, own = time.time(), events[0].fn, self.event_queue_per_concurrency_id[group]
        self.active_jobs[self.active_jobs.index(None)] = events
        own.current_concurrency += 1
        own.start_times_per_fn[function].add(begun_s)
        for event in events:
            if (noted := self.event_analytics.get(event._id)) is not None:
                noted["status"] = "processing"
        task = run_coro_in_background(self.process_events, events, batch, begun_s, function)
        set_task_name(task, events[0].session_hash, function._id, events[0]._id, batch)
        self._asyncio_tasks.add(task)
        task.add_done_callback(self._asyncio_tasks.discard)
        if self.live_updates:
            self.broadcast_estimations(group)
        return True

    async def reset_iterators(self, *args: Any, **named: Any) -> Any:
        """What Gradio calls when an event has just given its place back, however it ended; figures for its analytics come after it."""
        self._news.set()
        return await super().reset_iterators(*args, **named)
