"""Where a run stands after a step: what a checkpoint must know beside tensors, so that the rest of the run is the same as without a stop. Values only."""

from __future__ import annotations

from pydantic import BaseModel, Field

RECENT_STEPS = 10  # over which the loss is averaged for stopping


class Standing(BaseModel, validate_assignment=False):
    """See above. A step of -1 means never."""

    step: int = 0
    tokens: int = 0  # seen so far, without padding
    work_s: float = 0.0  # over all attempts
    loss: float | None = None  # of the last step
    recent: list[float] = Field(default_factory=list)  # losses of the last steps
    looked_step: int = -1  # at the held-out data
    held_out_first: float | None = None
    held_out_last: float | None = None
    best_step: int = -1
    best_loss: float | None = None
    looks_without_gain: int = 0
    sampled_step: int = -1
    curve_bytes: int = 0
    samples_bytes: int = 0
    digest: str = ""  # of the data

    def learned(self, loss: float, tokens: int, seconds: float) -> None:
        """One more step."""
        self.step += 1
        self.loss = loss
        self.tokens += tokens
        self.work_s += seconds
        self.recent = [*self.recent[1 - RECENT_STEPS :], loss]

    def looked(self, held_out_loss: float) -> bool:
        """One more look at the held-out data; whether it is the best so far. The one before the first step is nobody's merit."""
        self.looked_step, self.held_out_last = self.step, held_out_loss
        if self.held_out_first is None:
            self.held_out_first = held_out_loss
        if self.step == 0:
            return False
        is_best = self.best_loss is None or held_out_loss < self.best_loss
        self.looks_without_gain = 0 if is_best else self.looks_without_gain + 1
        return is_best

    @property
    def has_fallen(self) -> bool:
        """Whether the last look saw less loss than the one before the first step."""
        return self.held_out_first is not None and self.held_out_last is not None and self.held_out_last < self.held_out_first

    def is_low(self, limit: float) -> bool:
        """Whether the loss of late is below a limit; 0 is none."""
        return limit > 0 and len(self.recent) == RECENT_STEPS and sum(self.recent) / RECENT_STEPS < limit
