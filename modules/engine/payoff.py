"""Whether drafting pays, and how far: reckoned from how often drafts were right and from how long steps took.

Pure arithmetic. Knows no model, no token and no thread. A round that drafts k tokens writes 1 + a + a² + … + a^k of them on average, where a is the share of
drafts that proved right; it takes k steps of the draft model and one longer step of the model. The number that writes most in a second is taken.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 9  # measurements of one size
ENOUGH = 2  # measurements before a size is relied on
CLEARLY = 1.03  # a gain below this is noise
FADING = 0.93  # what earlier rounds count, each time a new one comes
HOPE = 0.7  # share of right drafts before anything is known
HOPE_WEIGHT = 4.0  # in drafts
REVIEW_STEPS = 4  # between two reckonings
FIRST_WAIT, LONGEST_WAIT = 32, 512  # steps without drafts before they are tried again
TRIAL_TOKENS = 2


class StepTimes:
    """How long steps take by their size: medians of the last few, straight lines between sizes, flat beyond the largest one seen."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._sizes: list[int] = []

    def note(self, size: int, seconds: float) -> None:
        """A step of that size took so long."""
        if size not in self._seen:
            self._seen[size] = deque(maxlen=KEPT)
            insort(self._sizes, size)
        seen = self._seen[size]
        seen.append(seconds)
        self._medians[size] = sorted(seen)[(len(seen) - 1) // 2]

    def known(self, size: int) -> bool:
        """Whether that very size was measured often enough."""
        return len(self._seen.get(size, ())) >= ENOUGH

    @property
    def reach(self) -> int:
        """The largest size that is worth a guess: twice what was ever measured."""
        return 2 * self._sizes[-1] + TRIAL_TOKENS if self._sizes else 0

    def of(self, size: int) -> float:
        """Seconds of a step of that size; 0 while nothing is known."""
        if not self._sizes:
            return 0.0
        place = bisect_left(self._sizes, size)
        if place == len(self._sizes):
            return self._medians[self._sizes[-1]]
        above = self._sizes[place]
        if above == size or place == 0:
            return self._medians[above]
        below = self._sizes[place - 1]
        share = (size - below) / (above - below)
        return (1 - share) * self._medians[below] + share * self._medians[above]


@dataclass(slots=True, eq=False)
class DraftRecord:
    """What drafting did for one sequence."""

    allowed: bool = True  # whether anything may be drafted for this one
    drafted: int = 0  # tokens, over all rounds
    accepted: int = 0
    count: int = 0  # to draft in the next step
    tried_lately: float = 0.0  # faded sums
    right_lately: float = 0.0
    quiet: int = 0  # steps in which nothing was to be drafted
    wait: int = FIRST_WAIT
    on_trial: bool = False  # drafting is tried again, until something was drafted

    def note(self, drafted: int, accepted: int) -> None:
        """A round is over: what came after the first wrong draft says nothing."""
        self.tried_lately = self.tried_lately * FADING + min(drafted, accepted + 1)
        self.right_lately = self.right_lately * FADING + accepted
        self.on_trial = False


class Payoff:
    """Decides how many tokens to draft for each of the sequences that are decoding."""

    def __init__(self, most: int, drafting: StepTimes) -> None:
        self.steps = StepTimes()  # of the model, by tokens in the step
        self._drafting = drafting  # of the draft model, by sequences
        self._most = most
        self._trial_tokens = min(TRIAL_TOKENS, most)
        self._tried = HOPE_WEIGHT
        self._right = HOPE * HOPE_WEIGHT
        self._could_pay = True  # if all drafts were right; else only the times of steps can change that, which seldom do
        self._decided_for: tuple[int, ...] = ()
        self._age = 0

    def note(self, record: DraftRecord, drafted: int, accepted: int) -> None:
        """A round of one sequence is over."""
        if record.on_trial:
            self._age = REVIEW_STEPS  # what it showed counts at once
        record.note(drafted, accepted)
        self._tried = self._tried * FADING + min(drafted, accepted + 1)
        self._right = self._right * FADING + accepted

    def decide(self, records: Sequence[DraftRecord]) -> None:
        """Set the `count` of each, for sequences that decode together in the next step."""
        asked = tuple(map(id, records))
        self._age += 1
        if asked != self._decided_for or self._age >= REVIEW_STEPS:
            self._decided_for, self._age = asked, 0
            self._reckon(records)
        for record in records:
            record.quiet = 0 if record.count else record.quiet + 1
            if record.allowed and record.quiet > (record.wait if self._could_pay else LONGEST_WAIT):
                self._try_again(record)

    def _try_again(self, record: DraftRecord) -> None:
        """Texts change: one that could not be guessed may be easy now. What was known counts half."""
        record.tried_lately /= 2
        record.right_lately /= 2
        record.wait = min(2 * record.wait, LONGEST_WAIT)
        record.quiet = 0
        record.on_trial = True
        record.count = self._trial_tokens

    def _reckon(self, records: Sequence[DraftRecord]) -> None:
        for record in records:
            record.count = self._trial_tokens if record.on_trial else 0
        total = len(records)
        if not self.steps.known(total):  # what a step costs without drafts must be known first
            return
        order = sorted((record for record in records if record.allowed), key=self._share, reverse=True)
        plain = CLEARLY * total / self.steps.of(total)
        best, chosen = plain, (0, 0)
        self._could_pay = False
        sums = [0.0] * len(order)  # extra tokens of the first, the first two, … of the order
        powers = [1.0] * len(order)
        for tokens in range(1, self._most + 1):
            running = 0.0
            for place, record in enumerate(order):
                powers[place] *= self._share(record)
                running += powers[place]
                sums[place] += running
            sequences = len(order)
            while sequences:
                if total + sequences * tokens > self.steps.reach:
                    sequences //= 2
                    continue
                seconds = self.steps.of(total + sequences * tokens) + tokens * self._drafting.of(sequences)
                rate = (total + sums[sequences - 1]) / seconds
                self._could_pay |= (total + sequences * tokens) / seconds > plain
                if rate > best:
                    best, chosen = rate, (tokens, sequences)
                sequences //= 2
        if not self.steps.known(total + chosen[0] * chosen[1]):
            self._age = REVIEW_STEPS  # one step of an unknown size is enough to know better
        for record in order[: chosen[1]]:
            record.count, record.wait = chosen[0], FIRST_WAIT

    def _share(self, record: DraftRecord) -> float:
        """How many drafts prove right: this sequence's own, leaning on all others while it has few."""
        hope = self._right / self._tried
        return min(0.99, (record.right_lately + HOPE_WEIGHT * hope) / (record.tried_lately + HOPE_WEIGHT))
