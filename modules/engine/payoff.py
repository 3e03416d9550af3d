"""Whether drafting pays, and how far: reckoned from how often drafts were right and from how long steps took.

Pure arithmetic. Knows no model, no token and no thread. A round that drafts k tokens writes 1 + a + a² + … + a^k of them on average, where a is the share of
drafts that proved right; it takes k steps of the draft model and one longer step of the model. The number that writes most in a second is taken.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

KEPT = 9  # measurements of one size
ENOUGH = 2  # measurements before a size is relied on
CLEARLY = 1.03  # a gain below this is noise
FADING = 0.93  # what earlier rounds count, each time a new one comes
HOPES = (0.7, 0.9)  # share of right drafts before anything is known: of any, and of those that the drafter is sure of
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
class Tally:
    """Faded sums: how many drafts were tried, and how many of them were right."""

    tried: float = 0.0
    right: float = 0.0

    def note(self, drafted: int, accepted: int) -> None:
        """A round is over: what came after the first wrong draft says nothing."""
        self.tried = self.tried * FADING + min(drafted, accepted + 1)
        self.right = self.right * FADING + accepted


@dataclass(slots=True, eq=False)
class DraftRecord:
    """What drafting did for one sequence."""

    allowed: bool = True  # whether anything may be drafted for this one
    seeded: bool = False  # whether the same tokens are wanted again
    offered: int = 1 << 10  # most tokens that the drafter has for the next step
    sure: bool = False  # whether it takes them for right: such drafts are counted apart
    drafted: int = 0  # tokens, over all rounds
    accepted: int = 0
    count: int = 0  # to draft in the next step
    lately: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))
    quiet: int = 0  # steps in which nothing was to be drafted
    wait: int = FIRST_WAIT
    on_trial: bool = False  # drafting is tried again, until something was drafted

    def may(self, is_careful: bool) -> bool:
        """Whether anything may be drafted, by who drafts unasked or by who was told to."""
        return self.allowed and not (is_careful and self.seeded)

    @property
    def can(self) -> bool:
        """Whether anything could be drafted in the next step."""
        return self.allowed and self.offered > 0


class Payoff:
    """Decides how many tokens to draft for each of the sequences that are decoding."""

    def __init__(self, most: int, drafting: StepTimes) -> None:
        self.steps = StepTimes()  # of the model, by tokens in the step
        self._drafting = drafting  # of the draft model, by sequences
        self._most = most
        self._trial_tokens = min(TRIAL_TOKENS, most)
        self._all = tuple(Tally(HOPE_WEIGHT, hope * HOPE_WEIGHT) for hope in HOPES)
        self._could_pay = True  # if all drafts were right; else only the times of steps can change that, which seldom do
        self._decided_for: tuple[tuple[int, int, bool], ...] = ()
        self._age = 0

    def note(self, record: DraftRecord, drafted: int, accepted: int) -> None:
        """A round of one sequence is over."""
        if record.on_trial:
            self._age = REVIEW_STEPS  # what it showed counts at once
        record.on_trial = False
        record.lately[record.sure].note(drafted, accepted)
        self._all[record.sure].note(drafted, accepted)

    def pass_over(self, records: Sequence[DraftRecord]) -> None:
        """There is nothing to decide: in the next step nothing is to be had for any of them. What was decided before no longer counts."""
        self._decided_for = ()
        for record in records:
            record.quiet += 1

    def decide(self, records: Sequence[DraftRecord]) -> None:
        """Set the `count` of each, for sequences that decode together in the next step."""
        asked = tuple((id(record), record.offered, record.sure) for record in records)
        self._age += 1
        if asked != self._decided_for or self._age >= REVIEW_STEPS:
            self._decided_for, self._age = asked, 0
            for record in records:
                record.count = min(self._trial_tokens, record.offered) if record.on_trial else 0
            self._reckon(records)
        for record in records:
            record.quiet = 0 if record.count else record.quiet + 1
            if record.can and record.quiet > (record.wait if self._could_pay else LONGEST_WAIT):
                self._try_again(record)

    def _try_again(self, record: DraftRecord) -> None:
        """Texts change: one that could not be guessed may be easy now. What was known counts half."""
        lately = record.lately[record.sure]
        lately.tried, lately.right = lately.tried / 2, lately.right / 2
        record.wait = min(2 * record.wait, LONGEST_WAIT)
        record.quiet = 0
        record.on_trial = True
        record.count = min(self._trial_tokens, record.offered)

    def _reckon(self, records: Sequence[DraftRecord]) -> None:
        total = len(records)
        order = sorted((record for record in records if record.can), key=self._share, reverse=True)
        if not order or not self.steps.known(total):  # what a step costs without drafts must be known first
            return
        plain = CLEARLY * total / self.steps.of(total)
        best, chosen, size = plain, (0, 0), total
        self._could_pay = False
        sums = [0.0] * len(order)  # extra tokens of the first, the first two, … of the order, as expected
        drafts = [0] * len(order)  # and all that are drafted for them
        powers = [1.0] * len(order)
        for tokens in range(1, min(self._most, max(record.offered for record in order)) + 1):
            running, added = 0.0, 0
            for place, record in enumerate(order):
                if tokens <= record.offered:
                    powers[place] *= self._share(record)
                    running, added = running + powers[place], added + 1
                sums[place] += running
                drafts[place] += added
            sequences = len(order)
            while sequences:
                extra = drafts[sequences - 1]
                if total + extra <= self.steps.reach:
                    seconds = self.steps.of(total + extra) + tokens * self._drafting.of(sequences)
                    rate = (total + sums[sequences - 1]) / seconds
                    self._could_pay |= (total + extra) / seconds > plain
                    if rate > best:
                        best, chosen, size = rate, (tokens, sequences), total + extra
                sequences //= 2
        if not self.steps.known(size):
            self._age = REVIEW_STEPS  # one step of an unknown size is enough to know better
        for record in order[: chosen[1]]:
            record.count, record.wait = min(chosen[0], record.offered), FIRST_WAIT

    def _share(self, record: DraftRecord) -> float:
        """How many drafts prove right: this sequence's own, leaning on all others while it has few."""
        every, own = self._all[record.sure], record.lately[record.sure]
        return min(0.99, (own.right + HOPE_WEIGHT * every.right / every.tried) / (own.tried + HOPE_WEIGHT))
