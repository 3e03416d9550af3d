"""A run under way: what happens after each step. Rows of the curve, looks at the held-out data, sample texts, checkpoints, and when to stop.

Knows the model and the optimizer, and nothing of how a step is made (`trainer.py`). Files are written by the leader of the ranks alone.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import AppError
from modules.core.job import Cancelled, JobContext
from modules.jobs.record import stop_reason
from modules.training import adapter
from modules.training.checkpoints import CheckpointError, Checkpoints, Snapshot
from modules.training.curve import Lines
from modules.training.feed import Feed
from modules.training.held_out import HeldOut
from modules.training.material import Material
from modules.training.memory import used_bytes
from modules.training.ranks import Ranks
from modules.training.sample_texts import SampleTexts
from modules.training.spec import CHECKPOINTS, CURVE, FINISH, SAMPLES
from modules.training.standing import Standing

LOOKS = 10  # in all, where nothing is said
PULSE_S = 0.5
PATIENCE_S = 1.5  # how long a step that takes long is waited for before a checkpoint is written beside it
GO_ON, ENOUGH = 0.0, 1.0


@dataclass
class Engine:
    """What learns: everything a checkpoint takes tensors from."""

    model: Any
    optimizer: Any
    schedule: Any
    scaler: Any = None  # of gradients in float16; the trainer brings it
    scaled: dict[str, Any] = field(default_factory=dict)  # its state in the checkpoint that the run goes on from

    def states(self) -> dict[str, Any]:
        """For a checkpoint."""
        scaled = self.scaler.state_dict() if self.scaler is not None else self.scaled
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "scaler": scaled}

    def scale_with(self, scaler: Any) -> None:
        """Take the trainer's scaler, as it stood."""
        self.scaler = scaler
        if scaler is not None and self.scaled:
            scaler.load_state_dict(self.scaled)

    def put(self, snapshot: Snapshot) -> None:
        """Back to what a checkpoint holds."""
        adapter.put_weights(self.model, snapshot.weights)
        self.optimizer.load_state_dict(snapshot.optimizer["optimizer"])
        self.schedule.load_state_dict(snapshot.optimizer["schedule"])
        self.scaled = snapshot.optimizer["scaler"]


class Learner:
    """See above."""

    def __init__(self, material: Material, engine: Engine, feed: Feed, ranks: Ranks, context: JobContext) -> None:
        self.material = material
        self.engine = engine
        self.feed = feed
        self.ranks = ranks
        self.context = context
        self.options = material.args.options
        self.standing = Standing(digest=material.data.digest)
        self.checkpoints = Checkpoints(material.directory / CHECKPOINTS, self.options.keep_checkpoints)
        self._curve = Lines(material.directory / CURVE)
        self._samples = Lines(material.directory / SAMPLES)
        self._held_out = HeldOut(material, ranks)
        self._texts = SampleTexts(material)
        self._changing = threading.Lock()  # held while weights, optimizer and standing do not fit each other
        self._asked = threading.Event()
        self._closed = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="training-pulse", daemon=True)
        self._metrics: dict[str, float | int | str] = {}
        self._saved_s = self._step_s = time.monotonic()
        self._look_every = self.options.evaluate_every_steps or max(1, math.ceil(feed.steps / LOOKS))
        self._sample_every = self.options.sample_every_steps or self._look_every
        self.ended = ""  # why, when it is enough

    # ---- begin and end ---------------------------------------------------------------------------------------------

    def resume(self, snapshot: Snapshot | None) -> None:
        """Go back to a checkpoint, or to the beginning; the files that tell of later steps are cut.

        Raises:
            AppError: the data was changed since.
        """
        if snapshot is not None:
            standing = Standing.model_validate(snapshot.state)
            if standing.digest != self.standing.digest:
                raise AppError(
                    f"The data set “{self.material.args.dataset.name}” was changed since this run was at step {standing.step}, so it cannot go on from there. "
                    "Put the old data back, or begin a new run."
                )
            self.standing = standing
            self.engine.put(snapshot)
        if self.ranks.leads:
            self.checkpoints.tidy(self.standing.step)
            self._curve.cut(self.standing.curve_bytes)
            self._samples.cut(self.standing.samples_bytes)

    def begin(self, **metrics: float | int | str) -> None:
        """The first step is about to be made. What was due when the run stopped is done first."""
        self._metrics.update(metrics)
        if self.ranks.leads:
            self._pulse.start()
        self._look_and_sample()
        self._saved_s = self._step_s = time.monotonic()

    def close(self) -> None:
        """No more progress after this."""
        self._closed.set()
        if self._pulse.is_alive():
            self._pulse.join(PATIENCE_S)

    def stopped(self) -> None:
        """The person asked to stop: a run that is to be resumed keeps what it has."""
        if self.ranks.leads and stop_reason(self.context.directory) != "cancel":
            self.save()

    # ---- during a step ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Between two micro-batches.

        Raises:
            Cancelled: the person asked to stop.
        """
        if self._asked.is_set():
            raise Cancelled("The run was asked to stop.")

    def changing(self) -> None:
        """The optimizer is about to change the weights."""
        self._changing.acquire()

    def stepped(self, loss: float, gradient_norm: float | None, learning_rate: float, tokens: int) -> bool:
        """A step was made: write it down, look, save; whether it was the last.

        Raises:
            AppError: the loss is not a number any more.
            Cancelled: the person asked to stop.
        """
        try:
            now = time.monotonic()
            seconds, self._step_s = now - self._step_s, now
            self.standing.learned(loss, tokens, seconds)
            self._note(loss, gradient_norm, learning_rate, tokens / seconds if seconds > 0 else 0.0)
        finally:
            self._changing.release()
        if not math.isfinite(loss):
            raise AppError(
                f"The loss is not a number any more at step {self.standing.step}: the run cannot go on like this. Start another one with a smaller learning rate "
                f"(this one had {self.options.learning_rate:g}), or a longer warm-up."
            )
        self._report()
        self._look_and_sample()
        self.ended = self._enough()
        over = bool(self.ended) or self.standing.step >= self.feed.steps
        if self.ranks.leads and (over or self._is_save_due()):
            self.save()
        self._step_s = time.monotonic()
        return over

    def _note(self, loss: float, gradient_norm: float | None, learning_rate: float, tokens_per_s: float) -> None:
        standing = self.standing
        epoch = round(self.feed.epoch_at(standing.step), 4)
        row: dict[str, Any] = {"loss": loss, "learning_rate": learning_rate, "tokens_per_s": round(tokens_per_s, 1), "memory_bytes": used_bytes()}
        self._metrics.update(row, epoch=epoch)
        if self.ranks.leads:
            self._curve.append(step=standing.step, epoch=epoch, **row, gradient_norm=gradient_norm, time_s=round(standing.work_s, 3))
            standing.curve_bytes = self._curve.size_bytes

    def _enough(self) -> str:
        """Why the run ends before its last step, on every rank alike; empty if it does not."""
        if self.standing.is_low(self.options.stop_at_loss):
            return "the loss is low enough"
        if self.options.patience and self.standing.looks_without_gain >= self.options.patience:
            return "the held-out loss falls no more"
        wish = ENOUGH if (self.material.directory / FINISH).exists() else GO_ON
        return "as the person wished" if self.ranks.agreed([wish])[0] == ENOUGH else ""

    # ---- looks -----------------------------------------------------------------------------------------------------

    def _look_and_sample(self) -> None:
        standing = self.standing
        is_last = standing.step >= self.feed.steps
        if self.material.held_out and standing.looked_step < standing.step and (standing.step % self._look_every == 0 or is_last):
            self._look()
        if standing.sampled_step < standing.step and (standing.step % self._sample_every == 0 or is_last):
            self._write_samples()

    def _look(self) -> None:
        loss = self._held_out.loss(self.engine.model, self.check)
        standing = self.standing
        is_best = standing.looked(loss)
        self._metrics["held_out_loss"] = loss
        if self.ranks.leads:
            self._curve.append(step=standing.step, epoch=round(self.feed.epoch_at(standing.step), 4), held_out_loss=loss, time_s=round(standing.work_s, 3))
            standing.curve_bytes = self._curve.size_bytes
            self.context.log(f"Step {standing.step}: held-out loss {loss:.4f}" + (", the lowest so far" if is_best and standing.has_fallen else ""))
        if is_best:
            self._keep_best(loss)
        self._report()

    def _keep_best(self, loss: float) -> None:
        standing = self.standing
        try:
            if self.options.patience and self.ranks.leads:
                self.checkpoints.save_best(standing.step, adapter.weights(self.engine.model))
        except CheckpointError as error:
            self._warn(str(error))
        else:
            standing.best_step, standing.best_loss = standing.step, loss

    def _write_samples(self) -> None:
        standing = self.standing
        if self.ranks.leads or self.ranks.divided:
            written = list(self._texts.write(self.engine.model, self.check))
            for prompt, text in written if self.ranks.leads else ():
                self._samples.append(step=standing.step, prompt=prompt, text=text)
        standing.sampled_step, standing.samples_bytes = standing.step, self._samples.size_bytes

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _is_save_due(self) -> bool:
        every_steps, every_s = self.options.save_every_steps, self.options.save_every_minutes * 60
        return bool(every_steps and self.standing.step % every_steps == 0) or bool(every_s and time.monotonic() - self._saved_s >= every_s)

    def save(self) -> None:
        """A checkpoint of the last step that was made. On a full disk the run goes on, and says so."""
        with self._changing:
            self._saved_s = time.monotonic()
            try:
                self.checkpoints.save(self.standing.step, adapter.weights(self.engine.model), self.engine.states(), self.standing.model_dump(mode="json"))
            except CheckpointError as error:
                self._warn(str(error))
            else:
                self._metrics.pop("warning", None)
                self._metrics["saved_step"] = self.standing.step

    def _warn(self, sentence: str) -> None:
        self.context.log(sentence)
        self._metrics["warning"] = sentence

    # ---- progress --------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        if self.ranks.leads:
            self.context.progress(self.standing.step, self.feed.steps, "steps", **self._metrics)

    def _beat(self) -> None:
        """Progress also while a step takes long, and a checkpoint beside it if it takes too long for a person who wants to stop."""
        asked_s = math.inf
        while not self._closed.wait(PULSE_S):
            try:
                self.context.progress(self.standing.step, self.feed.steps, "steps", **dict(self._metrics))
            except Cancelled:
                self._asked.set()
                asked_s = min(asked_s, time.monotonic())
            if time.monotonic() - asked_s > PATIENCE_S:
                self.stopped()
                return
