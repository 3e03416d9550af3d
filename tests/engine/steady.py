"""Step times that measure nothing, so that whether drafting pays does not depend on how busy the machine is."""

from __future__ import annotations

from modules.engine.engine import Engine
from modules.engine.payoff import StepTimes


class SteadyTimes(StepTimes):
    """A step takes what it is said to take, whatever its size."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        super().note(1, seconds)

    def note(self, size: int, seconds: float) -> None:
        assert size > 0 <= seconds

    @property
    def reach(self) -> int:
        return 1 << 20

    def known(self, size: int) -> bool:
        return True


def steady(engine: Engine, share: float = 0.1) -> None:
    """Let steps of the draft model take such a share of the model's, whose steps take the same for any number of tokens."""
    assert engine._speculation is not None
    payoff = engine._speculation._payoff
    payoff.steps, payoff._drafting = SteadyTimes(1.0), SteadyTimes(share)
