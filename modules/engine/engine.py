"""The engine: one thread that owns a runner and writes all replies at once.

Commands come in through a queue, events go out through one callback per step. Knows the scheduler, sampling, text and stop strings;
knows no back end, no template and no process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from modules.core.errors import AppError, Busy, NoModelLoaded, OutOfMemory, in_short
from modules.core.generation import EngineCounters, Started
from modules.core.process import name_thread
from modules.engine.adapter_turns import AdapterTurns, Apply
from modules.engine.commands import Commands
from modules.engine.deadlines import Deadlines
from modules.engine.detokenizer import PieceTable
from modules.engine.events import Event, Generation, Outbox, Sink
from modules.engine.guidance import chosen_from
from modules.engine.lending import LendingPace
from modules.engine.logits import as_row
from modules.engine.preparation import Preparation
from modules.engine.room import Room
from modules.engine.scheduler import Scheduler
from modules.engine.sequence import Sequence as Running
from modules.engine.shares import Share
from modules.engine.speculation import Speculation
from modules.engine.writing import End, Writer

if TYPE_CHECKING:
    from modules.core.model import Adapter, DraftSource, Logits, Runner, Tokenizer
    from modules.core.params import GenerationParams
    from modules.core.text_shape import CallText

log = logging.getLogger(__name__)
Result = TypeVar("Result")

FAILURES_UNTIL_BROKEN = 3  # failed steps in a row after which the process is better replaced


class Engine:
    """Continuous batching over any `Runner`."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        sink: Sink,
        *,
        queue_limit: int = 64,
        name: str = "the model",
        set_adapters: Apply | None = None,
        draft: DraftSource | None = None,
    ) -> None:
        self._runner = runner
        self._name = name
        self._queue_limit = queue_limit
        self._scheduler = Scheduler(
            runner, n_slots=runner.n_slots, capacity_tokens=runner.capacity_tokens,
            max_batch_tokens=runner.max_batch_tokens, max_outputs=runner.max_outputs, tile_rows=runner.tile_rows,
        )  # fmt: skip
        self._room = Room(self._scheduler)
        self._turns = AdapterTurns(self._scheduler, set_adapters, name)
        self._lending = LendingPace()
        self._speculation = Speculation(draft, self._scheduler, runner.vocab_size) if draft is not None else None
        pieces = PieceTable(tokenizer)
        self._preparation = Preparation(runner, tokenizer, pieces, name)
        self._outbox = Outbox(sink)
        self._writer = Writer(pieces, self._outbox)
        self._commands = Commands()
        self._lock = threading.Lock()  # guards the two below
        self._in_flight = 0
        self._closing = False
        self._sequences: dict[Generation, Running] = {}
        self._deadlines = Deadlines()
        self._paused = False
        self._failures = self._steps = self._prefill_tokens = self._reused_tokens = self._decode_tokens = self._cancelled = 0
        self.context_limit = self._preparation.context_limit
        self.broken = ""  # a sentence once the runner failed again and again: replace the process
        self.busy_since_s = 0.0  # monotonic start of the present step; 0 while idle. Others watch it for a hang
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # ---- called from any thread ------------------------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - all that a request can say
        self,
        prompt_ids: Sequence[int],
        params: GenerationParams,
        *,
        stop: Sequence[str] = (),
        person: str = "", client: str = "",
        key: Any = None, probe: int = 0, begun: str = "",
        adapters: Sequence[Adapter] = (),
        keep_on_disk: bool = True,
        calls: CallText | None = None,
    ) -> Generation:
        """Queue a generation with exactly these adapters; its events carry the returned handle. `probe` asks only for that many likeliest next tokens; `begun` is what the prompt has of the reply.

        Raises:
            ContextOverflow: the prompt leaves no room for a reply.
            Busy: as many as allowed are waiting.
            InvalidRequest: an empty prompt, an unknown token id, or adapters on a model that takes none.
            NoModelLoaded: the engine was closed.
        """
        sequence = self._preparation.sequence(prompt_ids, params, stop=stop, client=client, probe=probe, calls=calls, begun=begun)
        sequence.adapters, sequence.keep_on_disk, sequence.person = self._turns.check_possible(adapters), keep_on_disk, person
        sequence.generation = generation = Generation(
            key, sequence.sampler.seed, sequence.prompt_length, probe=probe > 0, send=lambda one: self._commands.put(partial(self._cancel, one))
        )
        with self._lock:
            self._check_open()
            waiting = self._in_flight - len(self._scheduler.slots)
            if waiting >= self._queue_limit:
                told = f"{self._name} is busy: {waiting} requests are waiting and the queue holds {self._queue_limit}, so this one would be at place"
                raise Busy(f"{told} {waiting + 1}. Try again in a moment.", place=waiting + 1, limit=self._queue_limit)
            self._in_flight += 1
        self._commands.put(partial(self._accept, sequence))
        return generation

    def call(self, function: Callable[[], Result]) -> Result:
        """Run something on the engine thread between two steps, with all slots empty; running replies continue after it."""
        return self._between_steps(function, self._scheduler.empty_all)

    def try_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Read adapters and see that they can be used; running replies go on with their own.

        Raises:
            AppError: one cannot be used, or this model takes none.
        """
        self.lend(lambda: None, 0, adapters)

    def score(self, token_ids: Sequence[int], adapters: Sequence[Adapter] = (), chunk_done: Callable[[], None] | None = None) -> list[float]:
        """Log-probability of each token after the first, given those before it, with these adapters. `chunk_done` calls that of the engine, or ends it.

        Raises:
            ContextOverflow: more tokens than the context holds.
        """
        ids = list(token_ids)
        if len(ids) < 2:
            return []
        self._preparation.check_score(ids)
        return self.lend(lambda: [float(value) for value in self._runner.score(ids, chunk_done or self.chunk_done)], len(ids), adapters)

    def lend(self, function: Callable[[], Result], tokens: int, adapters: Sequence[Adapter] = ()) -> Result:
        """Do something between two steps with these adapters; for any `tokens` slot 0 is empty, with room for so many. Steps have half of the time."""
        self._lending.wait(lambda: bool(self._sequences) and not self._closing)
        make_room = partial(self._scheduler.empty_for, 0, tokens) if tokens else lambda: None
        return self._between_steps(partial(self._lending.timed, partial(self._turns.lend, adapters, function, tokens)), make_room)

    def counters(self) -> EngineCounters:
        """What the engine is doing now."""
        return EngineCounters(
            **self._scheduler.figures(),
            steps=self._steps,
            prefill_tokens=self._prefill_tokens,
            reused_tokens=self._reused_tokens,
            decode_tokens=self._decode_tokens,
            cancelled=self._cancelled,
            **(self._speculation.figures() if self._speculation else {}),
        )

    def spill_within(self, budget_bytes: int, disk_folder: str = "", disk_gb: float = 0.0) -> None:
        """Let conversations that lose their slot take so much main memory, and then so much of the disk of a folder; -1 is what it has to spare."""
        self._scheduler.spill.budget_bytes = budget_bytes
        self._scheduler.spill.use_disk(disk_folder, disk_gb, self._commands.put)

    def pause(self, paused: bool = True) -> None:
        """Stop stepping after the present step, or go on; requests are still accepted."""
        self._commands.put(lambda: setattr(self, "_paused", paused))

    def close(self, timeout_s: float = 10.0) -> bool:
        """End all generations with a sentence, give the model's memory back; False if a step does not end in time."""
        with self._lock:
            self._closing = True
        self._commands.put(lambda: None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _check_open(self) -> None:
        if self._closing:
            raise NoModelLoaded(f"{self._name} was unloaded; load it again or choose another model.")

    def _between_steps(self, function: Callable[[], Result], make_room: Callable[[], None]) -> Result:
        future: Future[Result] = Future()

        def run() -> None:
            try:
                self._check_open()
                make_room()
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        with self._lock:
            self._check_open()
            self._commands.put(run)
        return future.result()

    def chunk_done(self) -> None:
        """A part of a long call is done: nothing hangs, and replies go on by a token. Ends the call when the engine is closing."""
        self._check_open()
        self.busy_since_s = time.monotonic()
        if not self._paused and self._turns.beside():
            self._step(self._turns.beside)
            self._outbox.deliver(self._scheduler.waiting, at_once=True, begun_s=self.busy_since_s)

    # ---- commands, on the engine thread ----------------------------------------------------------------------------

    def _accept(self, sequence: Running) -> None:
        self._sequences[sequence.generation] = sequence
        self._deadlines.add(sequence)
        self._scheduler.submit(sequence)
        self._outbox.places_changed = True
        if sequence.generation.cancelled:
            self._cancel(sequence.generation)

    def _cancel(self, generation: Generation) -> None:
        sequence = self._sequences.get(generation)
        if sequence is not None:
            self._cancelled += 1
            self._finish(sequence, End("cancelled"))

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        name_thread()
        while not self._closing:
            if self._paused or not self._sequences:
                self.busy_since_s = 0.0
                self._obey(self._commands.next(self._scheduler.table.save_ahead))
            while not self._commands.empty():
                self._obey(self._commands.get())
            if not self._paused and not self._closing:
                self.busy_since_s = time.monotonic()
                self._step(self._planned)
            self._outbox.deliver(self._scheduler.waiting, at_once=not self._commands.empty(), begun_s=self.busy_since_s)
        self._end()

    def _obey(self, command: Callable[[], None]) -> None:
        """Do what was asked for between two steps."""
        self.busy_since_s = time.monotonic()
        self._scheduler.look_again()
        command()

    def _end(self) -> None:
        """Nothing is left waiting: not a generation, not a caller."""
        while not self._commands.empty():
            self._commands.get()()
        error = NoModelLoaded(f"{self._name} was unloaded while this was being written; the text so far is kept.")
        for sequence in list(self._sequences.values()):
            self._fail(sequence, error)
        self._outbox.deliver(())
        self._scheduler.spill.close()
        self._runner.close()
        if self._speculation is not None:
            self._speculation.close()
        self.busy_since_s = 0.0

    def _step(self, plan: Callable[[], list[Share]]) -> None:
        """Plan, run the model once, choose the next tokens. Whatever fails becomes an answer, not an end of the process."""
        try:
            self._room.believe()
            self._end_late()
            shares = plan()
            self._outbox.before_step(self._scheduler.waiting, self._scheduler.expected_s(shares))
            if not shares:
                self._scheduler.spill.rest()
                return
            if self._speculation is not None and not self._turns.is_lent:  # no drafts where something else has room in the memory
                self._speculation.extend(shares)
            begun_s = time.perf_counter()
            logits = self._runner.forward([share.row for share in shares])
            step_s = time.perf_counter() - begun_s
            self._steps += 1
            self._prefill_tokens += self._scheduler.advance(shares, step_s)
            for share, own in chosen_from(shares, logits):
                if share.completes or share.sequence.reports_prompt:
                    self._choose(share, own)
            if self._speculation is not None:
                self._speculation.settle(shares, step_s)
            self._failures = 0
        except OutOfMemory as error:
            self._relieve(error)
        except Exception as error:
            self._fail_all(error)

    def _planned(self) -> list[Share]:
        """The last step again, or who can begin is admitted and the next one planned."""
        if shares := self._scheduler.again():
            return shares
        self._turns.begin(self._fail)
        self._announce(self._scheduler.admit())
        return self._scheduler.plan()

    def _announce(self, admitted: list[Running]) -> None:
        now_s = time.monotonic()
        for sequence in admitted:
            self._outbox.places_changed = True
            if not sequence.announced:
                sequence.announced, sequence.admitted_s = True, now_s
                self._reused_tokens += sequence.reused
                sequence.generation.place = 0
                started = Started(sequence.prompt_length, sequence.reused, 0, sequence.generation.seed)
                self._outbox.add(Event(sequence.generation, started), urgent=False)  # with the first token, unless that takes long

    def _choose(self, share: Share, entries: Logits) -> None:
        """Choose the next tokens of one sequence; an error here ends only that one."""
        sequence, before = share.sequence, len(share.sequence.ids)
        try:
            self._write(share, entries)
        except AppError as error:
            self._fail(sequence, error)
        except Exception as error:
            log.exception("Choosing a token failed")
            self._fail(sequence, AppError(f"Choosing the next token failed ({in_short(error)}); the text so far is kept."))
        self._decode_tokens += len(sequence.ids) - before

    def _write(self, share: Share, entries: Logits) -> None:
        """One token, and another one after each that is as drafted: the model has seen it, so its logits count."""
        sequence = share.sequence
        entries = self._writer.report_prompt(sequence, entries) if sequence.reports_prompt else entries
        for entry, draft in zip(entries, (*share.drafts, None), strict=True) if share.completes else ():
            if sequence.generation.cancelled:
                self._cancel(sequence.generation)  # its command may be on its way still, and then finds nothing
                return
            end = self._writer.next_token(sequence, as_row(entry))
            if end is not None:
                self._finish(sequence, end)
                return
            if sequence.ids[-1] != draft:
                return
            share.accepted += 1
            sequence.record.accepted += 1
            sequence.computed += 1

    # ---- ends ------------------------------------------------------------------------------------------------------

    def _finish(self, sequence: Running, end: End) -> None:
        """The last delta."""
        self._release(sequence)
        if not end.cut:
            self._writer.flush(sequence)
        self._outbox.add(Event(sequence.generation, delta=sequence.take_delta(end.reason, end.stop, sequence.usage(time.monotonic()), end.token_id)))

    def _end_late(self) -> None:
        """A deadline that passes ends a reply like its length; who had no slot by then is refused."""
        for sequence in self._deadlines.passed(time.monotonic()):
            if sequence.announced:
                self._finish(sequence, End("length"))
            else:
                told = f"{self._name} is busy: this request was still waiting when its deadline passed. Try again in a moment, or allow it more seconds."
                self._fail(sequence, Busy(told, field="deadline_s"))

    def _fail(self, sequence: Running, error: AppError) -> None:
        self._release(sequence)
        self._writer.flush(sequence)
        self._outbox.add(Event(sequence.generation, delta=sequence.take_delta()))
        self._outbox.add(Event(sequence.generation, error=error))

    def _release(self, sequence: Running) -> None:
        """Free the slot or the place in the queue."""
        self._scheduler.finish(sequence)
        self._sequences.pop(sequence.generation, None)
        self._deadlines.forget(sequence)
        self._outbox.forget(sequence)
        self._outbox.places_changed = True
        with self._lock:
            self._in_flight -= 1

    def _relieve(self, error: OutOfMemory) -> None:
        """Make room after the model ran out of memory; one that has all of it ends."""
        sequence = self._room.ran_out(error)
        if sequence is not None:
            held = len(sequence.ids)
            self._fail(sequence, OutOfMemory(f"{self._name} ran out of memory at {held} tokens ({error.message}) Load it with a shorter context."))

    def _fail_all(self, error: Exception) -> None:
        """A step failed: everything running ends with a sentence, the slots are emptied, those who wait get their turn."""
        log.error("A step of the model failed", exc_info=error)
        self._failures += 1
        told = AppError(f"{self._name} failed while computing ({in_short(error)}). The text so far is kept; send again.")
        for sequence in list(self._scheduler.running):
            self._fail(sequence, told)
        try:
            self._scheduler.forget_all()
        except Exception as second:
            log.error("Emptying the slots failed too", exc_info=second)
            self._failures = FAILURES_UNTIL_BROKEN
        if self._failures >= FAILURES_UNTIL_BROKEN:
            self.broken = f"{self._name} failed {self._failures} times in a row; the last cause was {in_short(error)}."
            self._paused = True  # who waits is left to the process that replaces this one
