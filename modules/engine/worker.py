"""The engine's child process: takes commands from its parent, runs one engine, tells what happens.

Knows the commands and the engine. How a model is loaded and how a prompt is made is handed in, so this module knows no loader and no
template. The receiving thread never computes; prompts are made on one thread, the model runs on the engine's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from modules.core.errors import AppError, InvalidRequest, LoadFailed, NoModelLoaded
from modules.core.generation import ChatPrompt, EmbeddingRequest, EngineCard, GenerationRequest
from modules.core.model import Adapter, LoadedModel
from modules.core.process import name_thread
from modules.engine import wire
from modules.engine.channel import Channel
from modules.engine.embedding import check_writes, embedding_ids, scored, told_vectors
from modules.engine.engine import Engine
from modules.engine.events import Event, Generation
from modules.engine.guidance import ignored
from modules.engine.person_turns import PersonTurns
from modules.engine.prompt_maker import Prepared, PromptMaker
from modules.engine.wire import Message

log = logging.getLogger(__name__)

BEAT_S = 1.0
CLOSE_S = 4.0  # for the present step to end
PROGRESS_S = 0.05  # between progress messages of one stage

TOLD_AT_START = ("dropped_messages", "starts_thinking", "dropped", "prompt_hash", "template_origin", "template_hash", "call_format", "prompt_ids")

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class LoadCommand:
    """What to load and how."""

    name: str
    path: str
    loader: str
    options: dict[str, Any]
    measured: Mapping[str, Any] | None = None  # by earlier loads; None where nothing is remembered


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded model, the loader that did it, and how prompts are made for it."""

    model: LoadedModel
    loader: str
    prompts: PromptMaker
    template_doubts: tuple[str, ...] | None = None
    template_variables: tuple[str, ...] | None = None
    engine: str = ""
    disk_gb: float = 0.0  # for conversations that main memory has no room for; -1 is what there is to spare


Load = Callable[[LoadCommand, Progress], Ready]


@dataclass(slots=True, eq=False)
class _Job:
    """One generation as the parent knows it."""

    id: int
    prepared: Prepared | None = None
    generation: Generation | None = None
    cancelled: bool = False


@dataclass(slots=True)
class _Running:
    """What there is after loading."""

    engine: Engine
    ready: Ready
    name: str


class Worker:
    """Carries out the commands of one parent."""

    def __init__(self, channel: Channel, load: Load) -> None:
        self._channel = channel
        self._load_model = load
        self._running: _Running | None = None
        self._jobs: dict[int, _Job] = {}
        self._prompts = ThreadPoolExecutor(1, "prompts", name_thread)
        self._between = ThreadPoolExecutor(1, "between steps", name_thread)  # waits for the engine
        self._turns = PersonTurns(self._between)
        self._commands: dict[str, tuple[ThreadPoolExecutor | None, Callable[[Message], Any]]] = {
            "load": (self._between, self._load),
            "generate": (self._prompts, self._generate),
            "next_tokens": (self._prompts, self._next_tokens),
            "tokenize": (self._prompts, self._tokenize),
            "detokenize": (self._prompts, self._detokenize),
            "count": (self._prompts, self._count),
            "examine": (self._prompts, self._examine),
            "score": (self._prompts, self._score),
            "embed": (self._prompts, self._embed),
            "try_adapters": (self._between, self._try_adapters),
            "counters": (None, self._counters),
            "cancel": (None, self._cancel),
        }

    def serve(self) -> None:
        """Until the parent says `close` or is gone."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        while (message := self._channel.receive()) is not None:
            if message.get("do") == "close":
                break
            self._dispatch(message)
        if self._running is not None:
            self._running.engine.close(CLOSE_S)
            self._running.ready.prompts.close()
            self._channel.send({"beat": self._pulse()})  # the last word about what was counted
        self._channel.close()

    def _dispatch(self, message: Message) -> None:
        executor, command = self._commands.get(str(message.get("do")), (None, self._unknown))
        if message.get("do") in ("generate", "next_tokens", "embed", "score"):
            self._jobs[message["id"]] = _Job(message["id"])
        if executor is None:
            self._answer(message, command)
        else:
            executor.submit(self._answer, message, command)

    def _answer(self, message: Message, command: Callable[[Message], Any]) -> None:
        """Carry out a command and answer it; a command that returns None is answered by an event, or needs no answer."""
        try:
            value = command(message)
        except AppError as error:
            self._refuse(message, error)
        except Exception as error:
            log.exception("The command %s failed", message.get("do"))
            self._refuse(message, AppError(f"The engine could not do this ({type(error).__name__}: {error}). See its log for the cause."))
        else:
            if value is not None:
                self._channel.send({"re": message["id"], "value": value})

    def _refuse(self, message: Message, error: AppError) -> None:
        self._jobs.pop(message["id"], None)
        self._channel.send({"re": message["id"], "error": wire.error_to_wire(error)})

    # ---- commands --------------------------------------------------------------------------------------------------

    def _unknown(self, message: Message) -> None:
        raise InvalidRequest(f"The engine knows no command “{message.get('do')}”.")

    def _load(self, message: Message) -> Message:
        if self._running is not None:
            raise InvalidRequest("This engine already holds a model.")
        command = LoadCommand(message["name"], message["path"], message["loader"], message["options"], message.get("measured"))
        begun_s = time.monotonic()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="loading") as loading:
                # OpenMP keeps a thread's helpers as long as that thread, and lets all of them sleep at every barrier once they outnumber the cores
                ready = loading.submit(self._load_model, command, self._progress_sender()).result()
        except AppError:
            raise
        except MemoryError as error:
            raise LoadFailed(f"{command.name} does not fit into the memory of this machine; choose a smaller file or context.") from error
        except Exception as error:
            log.exception("Loading failed")
            raise LoadFailed(f"{command.name} could not be loaded ({type(error).__name__}: {error}). See the engine's log for the cause.") from error
        name = command.name or ready.model.info.name
        runner, tokenizer = ready.model.runner, ready.model.tokenizer
        engine = Engine(
            runner, tokenizer, lambda events: self._channel.send(lambda: self._told(events)), queue_limit=message["queue_limit"], name=name, set_adapters=ready.model.set_adapters, draft=ready.model.draft
        )
        engine.spill_within(ready.model.spill_bytes, message.get("spill_folder", ""), ready.disk_gb)
        self._running = _Running(engine, ready, name)
        card = EngineCard(
            name=name,
            loader=ready.loader,
            context_length=engine.context_limit,
            slots=engine.counters().slots,
            vocab_size=runner.vocab_size,
            memory_bytes=ready.model.memory_bytes,
            load_s=time.monotonic() - begun_s,
            template_origin=ready.model.template.origin if ready.model.template else "",
            template_doubts=ready.template_doubts,
            template_variables=ready.template_variables,
            engine=ready.engine,
            bos_id=tokenizer.bos_id if tokenizer.adds_bos else None,
            vision=ready.model.vision is not None,
            can_write=ready.model.info.can_write,
            can_embed=ready.model.embedder is not None,
            ignores=ignored(engine.counters().slots),
            notes=ready.model.notes,
            pid=os.getpid(),
        )
        return card.model_dump(mode="json") | {"measured": dict(ready.model.measured)}

    def _progress_sender(self) -> Progress:
        last_stage, last_s = "", 0.0

        def send(stage: str, done: float | None) -> None:
            nonlocal last_stage, last_s
            now_s = time.monotonic()
            if stage != last_stage or now_s - last_s >= PROGRESS_S:
                last_stage, last_s = stage, now_s
                self._channel.send({"progress": {"stage": stage, "done": done}})

        return send

    def _generate(self, message: Message) -> Message | None:
        """Answered by its first event where that comes at once, as nothing runs: the parent would take a core from the step between them."""
        running, request = self._model(), GenerationRequest.model_validate(message["request"])
        return None if self._submit(running, self._jobs[message["id"]], request, probe=0) and not request.adapters else {}  # these may have to be read

    def _next_tokens(self, message: Message) -> None:
        """Answered when the probe ends."""
        params = message["params"] if message["params"] is not None else {"max_tokens": 1}
        asked = {"prompt": message["prompt"], "params": params, "adapters": message["adapters"]}
        self._submit(self._model(), self._jobs[message["id"]], GenerationRequest.model_validate(asked), probe=message["k"])

    def _submit(self, running: _Running, job: _Job, request: GenerationRequest, probe: int) -> bool:
        """Whether nothing ran before."""
        check_writes(running.ready.model, running.name)
        if job.cancelled:
            raise InvalidRequest("The request was cancelled.")
        job.prepared = running.ready.prompts.prepare(request)
        rests = not running.engine.busy_since_s
        job.generation = running.engine.submit(
            job.prepared.token_ids, request.params, stop=job.prepared.stop, person=request.person, client=request.client, key=job, probe=probe,
            adapters=request.adapters or (), keep_on_disk=request.keep_on_disk, calls=job.prepared.calls, begun=job.prepared.begun,
        )  # fmt: skip
        if job.cancelled:
            job.generation.cancel()
        return rests

    def _tokenize(self, message: Message) -> list[int]:
        return self._model().ready.prompts.tokenize(message["text"])

    def _detokenize(self, message: Message) -> str:
        tokenizer, ids = self._model().ready.model.tokenizer, message["token_ids"]
        wrong = [token_id for token_id in ids if not 0 <= token_id < tokenizer.vocab_size]
        if wrong:
            raise InvalidRequest(f"Token id {wrong[0]} is not in the vocabulary, which has the ids 0 to {tokenizer.vocab_size - 1}.")
        return b"".join(tokenizer.piece(token_id) for token_id in ids).decode("utf-8", "replace")

    def _count(self, message: Message) -> int:
        return self._model().ready.prompts.count(ChatPrompt.model_validate(message["prompt"]))

    def _examine(self, message: Message) -> Message:
        return self._model().ready.prompts.examine(str(message["question"]), message["values"])

    def _score(self, message: Message) -> None:
        running, ids, adapters = self._model(), message["token_ids"], _adapters(message)
        check_writes(running.ready.model, running.name)
        self._read(message, message["person"], lambda is_over: scored(running.engine, ids, adapters, is_over))

    def _embed(self, message: Message) -> None:
        """Texts become ids on the thread for prompts; the vectors are made, and told, between steps."""
        running, request = self._model(), EmbeddingRequest.model_validate(message["request"])
        texts = embedding_ids(running.ready.model, running.name, request, message["first"])
        self._read(message, request.person, lambda is_over: told_vectors(running.engine, running.ready.model, texts, request, is_over))

    def _read(self, message: Message, person: str, made: Callable[[Callable[[], bool]], Any]) -> None:
        """Have something made between steps when it is this person's turn; it can ask whether anybody still waits for it."""
        job = self._jobs[message["id"]]

        def make(_: Message) -> Any:
            try:
                return made(lambda: job.cancelled)
            finally:
                self._jobs.pop(job.id, None)

        self._turns.submit(person, partial(self._answer, message, make))

    def _try_adapters(self, message: Message) -> Message:
        self._model().engine.try_adapters(_adapters(message))
        return {}

    def _counters(self, message: Message) -> Message:
        return wire.counters_to_wire(self._model().engine.counters())

    def _cancel(self, message: Message) -> None:
        job = self._jobs.get(message["job"])
        if job is not None:
            job.cancelled = True
            if job.generation is not None:
                job.generation.cancel()

    def _model(self) -> _Running:
        if self._running is None:
            raise NoModelLoaded("The model is still being loaded; wait until it is ready.")
        return self._running

    # ---- news ------------------------------------------------------------------------------------------------------

    def _told(self, events: list[Event]) -> Message | None:
        told = []
        for event in events:
            job: _Job = event.generation.key
            if event.generation.probe:
                self._answer_probe(job, event)
            else:
                told.append([job.id, *_told_event(job, event)])
            if event.error is not None or (event.delta is not None and event.delta.finish_reason is not None):
                self._jobs.pop(job.id, None)
        return {"events": told} if told else None

    def _answer_probe(self, job: _Job, event: Event) -> None:
        if event.error is not None:
            self._channel.send({"re": job.id, "error": wire.error_to_wire(event.error)})
        elif event.delta is not None and event.delta.finish_reason is not None:
            self._channel.send({"re": job.id, "value": wire.delta_to_wire(event.delta)})

    def _beat(self) -> None:
        """Tell once a second that this process lives."""
        name_thread()
        while True:
            self._channel.send({"beat": self._pulse()})
            time.sleep(BEAT_S)

    def _pulse(self) -> Message:
        """Since when the present step runs, whether steps fail again and again, and what was counted."""
        running = self._running
        if running is None:
            return {"step_age_s": 0.0, "broken": ""}
        since_s = running.engine.busy_since_s
        pulse: Message = {"step_age_s": time.monotonic() - since_s if since_s else 0.0, "broken": running.engine.broken}
        with contextlib.suppress(RuntimeError):  # something came or went while it was counted; a second later it is told
            pulse["counters"] = wire.counters_to_wire(running.engine.counters())
        return pulse


def _adapters(message: Message) -> list[Adapter]:
    return [Adapter.model_validate(value) for value in message["adapters"]]


def _told_event(job: _Job, event: Event) -> tuple[str, Any]:
    """Kind and value of an event."""
    if event.delta is not None:
        return "delta", wire.delta_to_wire(event.delta)
    if event.error is not None:
        return "error", wire.error_to_wire(event.error)
    if event.started is not None:
        prepared = job.prepared or Prepared(())
        told = {name: getattr(prepared, name) for name in TOLD_AT_START}
        started = dataclasses.replace(event.started, **told)
        return "started", wire.started_to_wire(started)
    return "place", event.place


def serve(channel: Channel, load: Load) -> None:
    """Be the engine of the process at the other end until it closes the connection."""
    Worker(channel, load).serve()
