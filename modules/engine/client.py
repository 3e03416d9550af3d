"""The web process's side of an engine: starts the child, speaks with it, watches it, and says in words when it dies.

Knows the commands and the child process. Imports no numpy, no torch and no back end. One event loop uses a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from modules.core.errors import AppError, EngineCrashed, InvalidRequest, LoadFailed, NoModelLoaded
from modules.core.generation import (
    EngineCard,
    EngineCounters,
    GenerationRequest,
    NextTokens,
    TextPrompt,
    Usage,
)
from modules.core.model import Adapter, AdapterChoice
from modules.core.params import GenerationParams
from modules.core.process import how_it_ended
from modules.engine import wire
from modules.engine.child import Child
from modules.engine.client_generation import ClientGeneration, Inbox
from modules.engine.client_questions import Questions
from modules.engine.frames import Frames

__all__ = ["ClientGeneration", "ClientSetup", "EngineClient"]

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "modules.services.worker")
LOAD_TIMEOUT_S = 900.0
STEP_TIMEOUT_S = 120.0
HEARTBEAT_TIMEOUT_S = 30.0
QUEUE_LIMIT = 64
DRAIN_S = 1.0  # for the last messages of a process that ended


def _choices(adapters: Sequence[Adapter]) -> tuple[AdapterChoice, ...]:
    """Adapters as cards and receipts name them."""
    return tuple(AdapterChoice(name=adapter.name or Path(adapter.path).name, scale=adapter.scale) for adapter in adapters)


class ClientSetup(TypedDict, total=False):
    """What `EngineClient.start` may be given besides the model."""

    name: str  # how the model is called in lists and sentences
    command: Sequence[str]  # to start the child; default is the worker of this project
    log_path: Path | None  # where the child's errors go
    on_progress: Callable[[str, float | None], None] | None  # called with the stage of loading and its share done
    on_exit: Callable[[str], None] | None  # called with a sentence when the child ended by itself
    load_timeout_s: float
    step_timeout_s: float  # a step that takes longer is taken for a hang
    heartbeat_timeout_s: float  # so is silence of this length
    queue_limit: int
    measured: Mapping[str, Any] | None  # what earlier loads measured, in the loader's words; None remembers nothing
    spill_folder: str  # for what main memory has no room for; empty: nothing is written


class EngineClient(Questions):
    """One loaded model in its child process. Made by `start`."""

    def __init__(self, child: Child, name: str, setup: ClientSetup) -> None:
        self.name = name
        self.card = EngineCard(name=name, loader="", context_length=0, slots=0, vocab_size=0, memory_bytes=0, load_s=0)
        self.measured: Mapping[str, Any] = {}  # by this load, for later ones
        self._adapters: tuple[Adapter, ...] = ()  # for requests that name none
        self.on_exit = setup.get("on_exit")
        self.on_usage: Callable[[Usage, bool], None] | None = None  # called at the end of each generation, with whether it ran alone all the time
        self.on_counters: Callable[[EngineCounters], None] | None = None  # called with what it has counted: once a second, when asked, and at its end
        self._on_progress = setup.get("on_progress")
        self._step_timeout_s = setup.get("step_timeout_s", STEP_TIMEOUT_S)
        self._heartbeat_timeout_s = setup.get("heartbeat_timeout_s", HEARTBEAT_TIMEOUT_S)
        self._child = child
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._in_use = 0  # commands that wait for their answers
        self._loaded = False
        self._closing = False
        self._killed_because = ""
        self._ended: AppError | None = None
        self._heard_s = self._used_s = time.monotonic()
        self._waiter = asyncio.create_task(self._wait())
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, path: str, loader: str, options: Mapping[str, Any], **setup: Unpack[ClientSetup]) -> EngineClient:
        """Start a child and load a model in it.

        Args:
            path: file or folder of the model.
            loader: name of the loader; empty chooses by the files.
            options: options of that loader.
            **setup: see `ClientSetup`.

        Raises:
            LoadFailed: in the child's own sentence (also its subclasses), or how the child ended.
        """
        name = setup.get("name") or Path(path).name
        frames = Frames()
        child = await Child.start(setup.get("command", COMMAND), setup.get("log_path"), frames.feed)
        client = cls(child, name, setup)
        frames.listen(client._take, client._take_nonsense)
        limit_s = setup.get("load_timeout_s", LOAD_TIMEOUT_S)
        loading = client._ask(
            "load", name=name, path=path, loader=loader, options=dict(options), queue_limit=setup.get("queue_limit", QUEUE_LIMIT),
            spill_folder=setup.get("spill_folder", ""), measured=setup.get("measured"),
        )  # fmt: skip
        try:
            card = await asyncio.wait_for(loading, limit_s)
        except TimeoutError:
            await client._abandon_start()
            raise LoadFailed(
                f"Loading {name} took longer than {limit_s:g} s, the limit, and was stopped. Choose a smaller model, or raise load_timeout_s."
            ) from None
        except BaseException:
            await client._abandon_start()
            raise
        client.measured = card.pop("measured", None) or {}
        client.card = EngineCard.model_validate(card)
        client._loaded = True
        client._heard_s = time.monotonic()
        client._watcher = asyncio.create_task(client._watch())
        return client

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._ended is None and self._child.alive

    @property
    def idle_s(self) -> float:
        """For how long nobody has used it; 0 while a generation runs or waits, or a command is being answered. Looking at counters is no use."""
        return 0.0 if self._inboxes or self._in_use else time.monotonic() - self._used_s

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    async def ended(self) -> None:
        """Return when the child has ended and everybody who waits for it was told."""
        await asyncio.shield(self._waiter)

    # ---- commands --------------------------------------------------------------------------------------------------

    async def submit(self, request: GenerationRequest) -> ClientGeneration:
        """Queue a generation. Returns when it was accepted; iterate the result.

        Raises:
            Busy: the queue is full.
            ContextOverflow: the prompt is too long.
            InvalidRequest: the prompt or a parameter cannot be used.
            EngineCrashed: the child is dead.
        """
        if request.adapters is None:
            request = request.model_copy(update={"adapters": self._adapters})
        number, inbox = next(self._numbers), Inbox()
        self._inboxes[number] = inbox
        if len(self._inboxes) > 1:
            for other in self._inboxes.values():
                other.alone = False
        try:
            await self._ask("generate", number, request=wire.model_to_wire(request))
        except BaseException:
            self._forget(number)
            raise
        generation = ClientGeneration(inbox, self.name, partial(self._cancel, number), _choices(request.adapters or ()))
        finalizer = weakref.finalize(generation, self._drop, number)
        finalizer.atexit = False
        return generation

    async def next_tokens(
        self, prompt: TextPrompt, k: int, adapters: Sequence[Adapter] | None = None, params: GenerationParams | None = None
    ) -> NextTokens:
        """The k likeliest next tokens after a text, best first, with `params` as the samplers leave them; None takes the model's own adapters, here and below."""
        told = {"adapters": self._told(adapters), "params": wire.model_to_wire(params) if params is not None else None}
        found = wire.wire_to_delta(await self._ask("next_tokens", 0, prompt=wire.model_to_wire(prompt), k=max(1, k), **told))
        return NextTokens(found.logprobs, found.usage or Usage())

    async def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """The LoRA adapters of all requests from now on that name none; replies that run or wait keep theirs.

        Raises:
            InvalidRequest: the loader takes none.
            AppError: one cannot be used on this model; nothing has changed then.
        """
        await self._ask("try_adapters", adapters=self._told(adapters))
        self._adapters = tuple(adapters)
        self.card = self.card.model_copy(update={"adapters": _choices(adapters)})

    def _told(self, adapters: Sequence[Adapter] | None) -> list[dict[str, Any]]:
        return [wire.model_to_wire(adapter) for adapter in (self._adapters if adapters is None else adapters)]

    async def counters(self) -> EngineCounters:
        """What the engine is doing now."""
        return self._counted(await self._ask("counters"))

    def _counted(self, value: Mapping[str, Any]) -> EngineCounters:
        counters = wire.wire_to_counters(value)
        if self.on_counters is not None:
            self.on_counters(counters)
        return counters

    async def close(self, grace_s: float = 5.0) -> None:
        """End the child: ask, wait, kill. Running generations end with a sentence."""
        self._closing = True
        try:
            if self._child.alive:
                self._send({"do": "close"})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self._waiter), grace_s)
        finally:  # also where the caller gives up
            self._child.kill()
            await asyncio.shield(self._waiter)

    # ---- speaking with the child -----------------------------------------------------------------------------------

    async def _ask(self, do: str, number: int = 0, **fields: Any) -> Any:
        """Send a command and wait for its answer."""
        if self._ended is not None:
            raise self._ended
        number = number or next(self._numbers)
        try:
            frame = wire.to_frame({"do": do, "id": number, **fields})
        except wire.FrameError as error:
            raise InvalidRequest(f"The request is too large for {self.name}: {error} Shorten it.") from error
        answer = self._answers[number] = self._loop.create_future()
        is_use = do != "counters"
        self._in_use += is_use
        try:
            self._child.write(frame)
            return await answer
        except asyncio.CancelledError:
            if do in ("next_tokens", "embed", "score"):  # nobody wants it any more
                self._send({"do": "cancel", "id": next(self._numbers), "job": number})
            raise
        finally:
            self._answers.pop(number, None)
            if is_use:
                self._in_use -= 1
                self._used_s = time.monotonic()

    def _send(self, message: wire.Message) -> None:
        self._child.write(wire.to_frame(message))

    async def _cancel(self, number: int, forget: bool) -> None:
        if forget:
            self._forget(number)
        elif number in self._inboxes:
            self._send({"do": "cancel", "id": next(self._numbers), "job": number})

    def _forget(self, number: int) -> None:
        """Stop a generation if it runs, and take no more news of it."""
        inbox = self._inboxes.pop(number, None)
        self._used_s = time.monotonic()
        if inbox is not None and not inbox.ended:
            inbox.abandon()
            self._send({"do": "cancel", "id": next(self._numbers), "job": number})

    def _drop(self, number: int) -> None:
        """A generation was collected, perhaps on another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._forget, number)

    def _take_nonsense(self, error: Exception) -> None:
        self._kill(f"it sent nonsense ({type(error).__name__})")

    def _take(self, message: wire.Message) -> None:
        if "events" in message:
            for number, kind, value in message["events"]:
                self._take_event(number, kind, value)
        elif "beat" in message:
            self._take_beat(message["beat"])
        elif "progress" in message:
            if self._on_progress is not None and not self._loaded:
                self._on_progress(message["progress"]["stage"], message["progress"]["done"])
        else:
            answer = self._answers.get(message["re"])
            if answer is None or answer.done():
                return
            if "error" in message:
                answer.set_exception(wire.wire_to_error(message["error"]))
            else:
                answer.set_result(message["value"])

    def _take_event(self, number: int, kind: str, value: Any) -> None:
        inbox = self._inboxes.get(number)
        if inbox is None:
            return
        answer = self._answers.get(number)
        if answer is not None and not answer.done():  # to the command that began it
            answer.set_result({})
        if kind == "delta":
            inbox.push(wire.wire_to_delta(value))
        elif kind == "error":
            inbox.fail(wire.wire_to_error(value))
        elif kind == "started":
            inbox.start(wire.wire_to_started(value))
        else:
            inbox.queue(value)
        if inbox.ended:
            del self._inboxes[number]
            self._used_s = time.monotonic()
            if self.on_usage is not None and inbox.usage is not None:
                self.on_usage(inbox.usage, inbox.alone)

    # ---- watching the child ----------------------------------------------------------------------------------------

    def _take_beat(self, beat: Mapping[str, Any]) -> None:
        self._heard_s = time.monotonic()
        if not self._loaded:
            return
        if beat.get("counters"):
            self._counted(beat["counters"])
        if beat["broken"]:
            self._kill(beat["broken"])
        elif beat["step_age_s"] > self._step_timeout_s:
            self._kill(f"a step took longer than {self._step_timeout_s:g} s, the limit")

    async def _watch(self) -> None:
        """Kill a child that has been silent for too long. A loop that was itself held up gives what was said meanwhile time to be read."""
        interval_s = min(1.0, self._heartbeat_timeout_s / 4)
        while True:
            asleep_s = time.monotonic()
            await asyncio.sleep(interval_s)
            now_s = time.monotonic()
            if now_s - asleep_s > interval_s + 1.0:
                continue
            if now_s - self._heard_s > self._heartbeat_timeout_s:
                self._kill(f"it gave no sign of life for {self._heartbeat_timeout_s:g} s, the limit")
                return

    def _kill(self, reason: str) -> None:
        log.warning("The engine of %s is ended: %s", self.name, reason)
        self._killed_because = self._killed_because or reason
        self._child.kill()

    async def _wait(self) -> None:
        """When the child has ended: tell everyone who waits for it."""
        returncode = await self._child.ended(DRAIN_S)
        if self._watcher is not None:
            self._watcher.cancel()
        error = self._ended = self._why(returncode)
        self._child.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
        for inbox in self._inboxes.values():
            inbox.fail(error)
        self._inboxes.clear()
        if self._loaded and not self._closing and self.on_exit is not None:
            self.on_exit(error.message)

    def _why(self, returncode: int) -> AppError:
        if self._closing:
            return NoModelLoaded(f"{self.name} was unloaded; the text so far is kept. Load it again or choose another model.")
        how = self._killed_because or how_it_ended(returncode)
        if not self._loaded:
            return LoadFailed(
                f"{self.name} could not be loaded: its process ended ({how}).{self._child.last_words()} Choose another file, loader or options."
            )
        log.error("The engine of %s ended: %s.%s", self.name, how, self._child.last_words())
        return EngineCrashed(
            f"The engine of {self.name} ended unexpectedly ({how}); the text so far is kept. Send again to restart it.", model=self.name
        )

    async def _abandon_start(self) -> None:
        self._child.kill()
        await self._waiter
