"""Red, amber or green, with a sentence: what the figures of a proof mean for somebody who has to decide whether to use the adapter.

Knows figures, no model. The thresholds are judgements; each says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.training.evidence import Answer, Colour, Comparison, Preference

# Held-out loss must fall by more than chance: two standard errors of the difference leave about one false alarm in forty,
CLEAR_ERRORS = 2.0
# and by at least so much of itself, or it is real and nobody will notice.
CLEAR_SHARE = 0.02
# Fewer items say too little about how much they differ among themselves for an error to mean anything.
FEW_SEQUENCES = 5
# On the general text: 5 % of a usual loss of 2.5 is an eighth of a nat, so each word is about 13 % less likely than before. Below that,
# adapters that merely change tone and format stay; those that unlearn something are well above.
FORGETTING_SHARE = 0.05
# A preference must move by more than a coin would: this share of items, and two standard errors of a fair coin.
MOVED_SHARE = 0.6
# Answers in circles or empty: one may be bad luck of greedy decoding, half of them are not; the base model's own do not count.
DEGENERATE_SHARE = 0.5
REPEATED_RUN = 4  # tokens of a piece; a text whose pieces of four are mostly repeats goes in circles
DISTINCT_SHARE = 0.35  # ordinary prose has above 0.9, lists and verse above 0.6
LONG_ENOUGH_TOKENS = 24  # shorter texts repeat themselves by right
SAME_ANSWERS = 4  # that many different prompts and one answer to all: it has become one sentence


def is_degenerate(text: str, token_ids: Sequence[int]) -> bool:
    """Whether an answer is empty or goes in circles."""
    if not text.strip():
        return True
    if len(token_ids) < LONG_ENOUGH_TOKENS:
        return False
    pieces = [tuple(token_ids[at : at + REPEATED_RUN]) for at in range(len(token_ids) - REPEATED_RUN + 1)]
    return len(set(pieces)) / len(pieces) < DISTINCT_SHARE


def judge(held_out: Comparison | None, general: Comparison, preference: Preference | None, answers: Sequence[Answer]) -> tuple[Colour, str]:
    """The colour and the sentences that say why: what is worst comes first."""
    red = list(_red(held_out, general, preference, answers))
    if red:
        return "red", " ".join([*red, "Do not use this adapter as it is: a lower learning rate, fewer epochs or more data may help."])
    amber = list(_amber(held_out, general, preference))
    good = _gain(held_out, preference)
    if amber:
        return "amber", " ".join([*amber, *good])
    return "green", " ".join([*good, _kept(general)])


def _red(held_out: Comparison | None, general: Comparison, preference: Preference | None, answers: Sequence[Answer]) -> list[str]:
    found = []
    if not general.is_number or (held_out is not None and not held_out.is_number):
        found.append("The loss is not a number: the model with this adapter computes nonsense.")
    elif held_out is not None and preference is None and _is_clear(held_out, worse=True):
        found.append(f"Held-out loss rose {_from_to(held_out)}: the adapter does worse on what it was not shown.")
    if preference is not None and _right(preference, -1):
        found.append(f"Of {preference.items} held-out items only {_percent(preference.moved)} moved towards the better answer.")
    return found + _bad_answers(answers)


def _bad_answers(answers: Sequence[Answer]) -> list[str]:
    if not answers:
        return []
    bad = sum(answer.adapter_is_degenerate for answer in answers)
    bad_before = sum(answer.base_is_degenerate for answer in answers)
    if bad >= DEGENERATE_SHARE * len(answers) and bad > bad_before:
        return [f"{bad} of {len(answers)} answers are empty or go in circles, {bad_before} did before."]
    same, same_before = (max(Counter(texts).values()) for texts in ([a.adapter for a in answers], [a.base for a in answers]))
    if len(answers) >= SAME_ANSWERS and same == len(answers) and same_before < same and len({answer.prompt for answer in answers}) >= SAME_ANSWERS:
        return [f"All {same} prompts get the same answer."]
    return []


def _amber(held_out: Comparison | None, general: Comparison, preference: Preference | None) -> list[str]:
    found = []
    if preference is not None:
        if not _right(preference, 1):
            found.append("The preference for better answers has not clearly grown.")
    elif held_out is None:
        found.append("There is no held-out data that could be measured, so nothing tells whether the adapter helps on what it was not shown: set a larger held-out share and train again.")
    elif held_out.sequences < FEW_SEQUENCES:
        found.append(f"Only {held_out.sequences} held-out item{'s' if held_out.sequences != 1 else ''}: too few to tell a gain from chance.")
    elif not _is_clear(held_out):
        found.append("Held-out loss has not clearly fallen.")
    if general.change > FORGETTING_SHARE:
        found.append(f"The model has forgotten: its loss on the general text rose {_from_to(general)}, above the limit of {_percent(FORGETTING_SHARE)}.")
    return found


def _gain(held_out: Comparison | None, preference: Preference | None) -> list[str]:
    said = []
    if preference is not None and preference.items:
        shares = ""
        if preference.before is not None and preference.after is not None:
            shares = f"; the better one is the likelier in {_percent(preference.after)}, before in {_percent(preference.before)}"
        said.append(f"Of {preference.items} held-out items {_percent(preference.moved)} moved towards the better answer{shares}.")
    if held_out is not None and held_out.is_number and preference is None:
        went = "fell" if held_out.change < 0 else "went"
        said.append(f"Held-out loss {went} {_from_to(held_out)}, on {held_out.sequences} items that were not learned.")
    return said


def _kept(general: Comparison) -> str:
    if general.change <= 0.005:
        return "The general text is as easy as before."
    return f"On the general text the loss rose by {_percent(general.change, 1)}, which is little."


def _is_clear(held_out: Comparison, *, worse: bool = False) -> bool:
    """Whether the loss fell (or rose) by more than chance and by enough to matter."""
    if held_out.before is None or held_out.after is None or held_out.sequences < FEW_SEQUENCES:
        return False
    fell = (held_out.after - held_out.before) if worse else (held_out.before - held_out.after)
    return fell > CLEAR_ERRORS * held_out.error and fell >= CLEAR_SHARE * held_out.before


def _right(preference: Preference, sign: int) -> bool:
    """Whether clearly more (sign 1) or fewer (-1) items than half moved the right way."""
    coin = 0.5 / math.sqrt(preference.items) if preference.items else math.inf
    return sign * (preference.moved - 0.5) >= max(MOVED_SHARE - 0.5, CLEAR_ERRORS * coin)


def _from_to(comparison: Comparison) -> str:
    return f"from {comparison.before:.2f} to {comparison.after:.2f} ({comparison.change:+.0%})".replace("-", "−")


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
