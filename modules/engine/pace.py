"""How long steps take on this machine, and how much prefill may so ride along in the next one.

Measured while replies run. Knows numbers of tokens and seconds; no sequence, no model.
"""

from __future__ import annotations

from modules.engine.tiles import Tiles

MIN_CHUNK_TOKENS = 16  # prefill never crawls, however slow the model
FIRST_CHUNK_TOKENS = 64  # until the speed of prefill is known: on a slow machine a whole batch would look like a hang
MIN_ALONE_TOKENS = 128  # a whole-batch prefill is efficient from about here
MEASURED_FROM_TOKENS = 16  # shorter prefills say little about speed
LEAST_CHUNK_S = 0.2  # beside running replies; a shorter pause is hardly seen, and smaller chunks take longer in all
BESIDE_SHARE = 0.5  # of what a step could take at most: fast models read all of it in less time than `LEAST_CHUNK_S`, and a reply need not wait even for that
UNSEEN_S = 0.05  # a pause that is not worth making shorter
CHUNK_STEPS = 2  # on slow models as long as so many steps without prefill: a reply then goes on at a third of its speed, and prefill has the rest
LONGEST_CHUNK_S = 1.0
LONGEST_ALONE_S = 3.0  # where nobody's stream waits for it: larger pieces are read sooner, and a newcomer or a stop button can wait so long
MOST_HELD_S = 5.0  # for which replies that have just begun wait for short prompts: read together, all are sooner done
LEAST_OWN_SHARE = 0.1  # of a step with prefill, that is the prefill's: a step without it may have been a slow one
NEW_SHARE = 0.3  # of the newest measurement in what is known


class Pace:
    """Speeds of one model. Zero until known."""

    def __init__(self, tile_rows: int = 0) -> None:
        self.tiles = Tiles(tile_rows)
        self.prefill_s_per_token = 0.0
        self.decode_step_s = 0.0  # a step without prefill
        self._quickest_step_s = 0.0  # of those: what any step costs, whatever is in it

    def note(self, prefill: int, seconds: float, depth: int | None = None, *, beside: bool = False) -> None:
        """A step with so many tokens of prefill took so long; behind how many others they stood, if all are of one sequence. `beside`: it decoded too."""
        if not prefill:
            self.decode_step_s = _mean(self.decode_step_s, seconds)
            self._quickest_step_s = min(self._quickest_step_s or seconds, seconds)
            return
        # what a step costs whatever is in it must not count as the price of few tokens: chunks would only get smaller
        own_s = max(seconds - (self.decode_step_s if beside else self._quickest_step_s), LEAST_OWN_SHARE * seconds)
        if prefill >= MEASURED_FROM_TOKENS:
            self.prefill_s_per_token = _mean(self.prefill_s_per_token, own_s / prefill)
        if depth is not None:
            self.tiles.note(prefill, depth, own_s)

    def prefill_tokens(self, room: int, flows: bool, depth: int = 0) -> int:
        """How many tokens of prefill the next step takes, at most `room`, with replies beside it that flow or not; the first stands at `depth`.

        The longest pause of a running reply is so one step without prefill and one chunk, and the chunk takes no longer than two such steps, or
        than a pause that is hardly seen, unless a little more of it is read much faster. Before any step without prefill was seen none takes any:
        what every step costs would count as the price of its few tokens, and for good.
        """
        known = self.prefill_s_per_token
        if flows and not self.decode_step_s:
            return 0
        if not known:
            return min(room, FIRST_CHUNK_TOKENS)
        if flows:
            chunk_s = min(LONGEST_CHUNK_S, max(LEAST_CHUNK_S, CHUNK_STEPS * self.decode_step_s))
            count = max(MIN_CHUNK_TOKENS, int(UNSEEN_S / known), min(int(chunk_s / known), int(BESIDE_SHARE * room)))
            return min(room, self.tiles.at_least(count, depth, LONGEST_CHUNK_S))
        return min(room, max(MIN_ALONE_TOKENS, int(LONGEST_ALONE_S / known)))


def _mean(known: float, measured: float) -> float:
    return (1 - NEW_SHARE) * known + NEW_SHARE * measured if known else measured
