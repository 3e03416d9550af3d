"""What a person should know before a run, from the figures of a look: each rule is a function from figures to a sentence with its cure, or nothing.

The thresholds are judgements; each says why. Knows figures, no file and no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modules.training.examination import Counts, TemplateFinding
from modules.training.options import TrainingOptions
from modules.training.probe import Probe

CUT_SHARE = 0.1  # a few long samples are normal; with more, replies without their end are learned
FEW_HELD_OUT = 20  # fewer say more about themselves than about the run
PADDING_SHARE = 0.25  # below, packing gains less than a quarter
DUPLICATE_SHARE = 0.2
LEARNED_SHARE = 0.03  # most data learns a tenth of its tokens and more
HEADER_TOKENS = 3  # a reply of a letter and its end has two
HIGH_RATE, HIGH_PREFERENCE_RATE, LOW_RATE = 2e-3, 2e-4, 1e-6  # an adapter's usual range is 1e-5 to 1e-3; preferences want a tenth of it
MANY_EPOCHS, FEW_STEPS = 10, 20
LONG_HOURS = 24.0


@dataclass(frozen=True)
class Figures:
    """What the rules look at."""

    options: TrainingOptions
    counts: Counts
    limit_tokens: int
    known_tokens: int  # positions that the model knows; 0 if not told
    steps: int
    padding_share: float
    typical_learned: float  # learned tokens of the middle sequence
    prefers: bool  # pairs or judged answers
    has_own_held_out: bool = False
    findings: Sequence[TemplateFinding] = ()
    opens_thinking: str = ""  # the tag, where the template opens thinking and no reply has any
    cannot_stop: bool = False  # nothing tells the model to end a reply
    unseen_tokens: Sequence[str] = ()  # new ones that no sample has
    problems: Sequence[str] = ()
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence. What warns makes the verdict amber."""

    sentence: str
    warns: bool = True


def advice_of(figures: Figures) -> tuple[Advice, ...]:
    """All that there is to say, weightiest first."""
    found = [advice for rule in (_probe, _template, _data, _lengths, _learned, _held_out, _steps) for advice in rule(figures)]
    return tuple(sorted(found, key=lambda one: not one.warns))


def _probe(figures: Figures) -> Iterator[Advice]:
    probe = figures.probe
    if probe is None:
        return
    if probe.problem:
        yield Advice(probe.problem)
    if probe.hours > LONG_HOURS:
        yield Advice(f"The run would take about {probe.hours:,.0f} hours; fewer epochs, packing, or a shorter cutoff_tokens make it shorter.", warns=False)


def _template(figures: Figures) -> Iterator[Advice]:
    yield from (Advice(one.sentence) for one in figures.findings if one.level == "problem")
    if figures.cannot_stop:
        yield Advice("Neither the chat template nor the model has an end of a reply, so the model cannot learn to stop; choose another prompt template.")
    if figures.opens_thinking:
        yield Advice(
            f"The template begins replies with {figures.opens_thinking} and no reply in the data has thinking: what is learned shows only after "
            "the model's own thinking. Choose a prompt template without it if the model is to answer at once.",
            warns=False,
        )
    for token in figures.unseen_tokens[:5]:
        yield Advice(f"The new token “{token}” is in no sample, so nothing is learned about it; write it into the data or take it out of new_tokens.")


def _data(figures: Figures) -> Iterator[Advice]:
    counts = figures.counts
    if counts.refused:
        yield Advice(f"{counts.refused:,} of {counts.samples:,} samples do not go through the chat template and are left out. The first: {figures.problems[0]}")
    if counts.unlearned + counts.empty > 0:
        yield Advice(f"{counts.unlearned + counts.empty:,} of {counts.samples:,} samples are empty or have no reply to learn, and are left out.", warns=2 * (counts.unlearned + counts.empty) > counts.samples)
    same, all_samples = counts.exact + counts.near, counts.samples + counts.held_out
    if figures.options.drop_duplicates:
        all_samples += same
        what = "are left out"
    else:
        what = "are learned again each time; turn drop_duplicates on"
    if same > DUPLICATE_SHARE * all_samples:
        yield Advice(f"{same:,} of {all_samples:,} samples are the same as, or nearly the same as, an earlier one and {what}.", warns=False)


def _lengths(figures: Figures) -> Iterator[Advice]:
    counts, options, limit = figures.counts, figures.options, figures.limit_tokens
    if options.cutoff_tokens > limit:
        yield Advice(f"cutoff_tokens is {options.cutoff_tokens:,} and the model knows {limit:,} positions, so sequences end there.", warns=False)
    higher = f"raise cutoff_tokens (the model knows {figures.known_tokens:,} positions)" if figures.known_tokens > limit else "shorten the samples"
    if counts.cut > CUT_SHARE * counts.sequences:
        yield Advice(f"{counts.cut:,} of {counts.sequences:,} sequences are longer than {limit:,} tokens and lose their end; {higher}, or set too_long to drop.")
    elif counts.cut:
        yield Advice(f"{counts.cut:,} of {counts.sequences:,} sequences are longer than {limit:,} tokens and lose their end.", warns=False)
    if counts.dropped:
        yield Advice(
            f"{counts.dropped:,} samples are longer than {limit:,} tokens, or what is to be learned stands behind the cut, and are left out; {higher}.",
            warns=counts.dropped > CUT_SHARE * counts.samples,
        )
    if figures.padding_share > PADDING_SHARE and not options.packing and not figures.prefers:
        yield Advice(f"{figures.padding_share:.0%} of what is computed would be padding; turn packing on, or set batch_tokens.", warns=False)


def _learned(figures: Figures) -> Iterator[Advice]:
    counts = figures.counts
    tokens = counts.trained_tokens + counts.ignored_tokens
    if figures.typical_learned < HEADER_TOKENS and figures.options.learn != "everything":
        yield Advice(
            f"Half of the sequences have fewer than {HEADER_TOKENS} learned tokens: little more than the end of the reply. "
            "Look at the samples below, and at which column means what."
        )
    elif counts.trained_tokens < LEARNED_SHARE * tokens:
        yield Advice(f"Only {counts.trained_tokens / tokens:.1%} of the tokens are learned, the rest is read; shorter prompts make the run faster.", warns=False)


def _held_out(figures: Figures) -> Iterator[Advice]:
    counts, options = figures.counts, figures.options
    if not counts.held_out_sequences:
        yield Advice("Nothing is held out, so nobody will see whether the model learns or learns by heart; set held_out_percent to 5 or more.", warns=figures.options.patience > 0)
    elif counts.held_out_sequences < FEW_HELD_OUT and not figures.has_own_held_out:
        wanted = min(50, max(options.held_out_percent + 1, 100 * FEW_HELD_OUT / max(1, counts.samples + counts.held_out)))
        yield Advice(
            f"Only {counts.held_out_sequences} sequences are held out, which says little; set held_out_percent to {wanted:.0f}, or choose a data set for it.",
            warns=False,
        )


def _steps(figures: Figures) -> Iterator[Advice]:
    options = figures.options
    high = HIGH_PREFERENCE_RATE if figures.prefers else HIGH_RATE
    if options.optimizer not in ("sgd", "adagrad"):  # they live on other scales
        if options.learning_rate > high:
            yield Advice(f"A learning rate of {options.learning_rate:g} is very high and may ruin the model; {high / 10:g} is usual.")
        elif options.learning_rate < LOW_RATE:
            yield Advice(f"A learning rate of {options.learning_rate:g} is so low that nothing may be learned; {high / 10:g} is usual.")
    if options.epochs > MANY_EPOCHS and not options.patience and not options.max_steps:
        yield Advice(f"Everything is seen {options.epochs:g} times, which learns by heart; 1 to 5 is usual, or set patience to stop in time.", warns=False)
    if figures.steps < FEW_STEPS:
        yield Advice(f"The run has only {figures.steps} steps, so little will be learned; lower batch_size, or raise epochs.", warns=False)
