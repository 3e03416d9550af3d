"""From a prompt and parameters to a sequence the engine can run: checks, sampler, stop strings.

Runs on the caller's thread, so that the engine's thread only ever computes. Knows one model's limits and tokenizer; knows no slots.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence as SequenceABC
from typing import TYPE_CHECKING

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.model import ImageToken
from modules.engine.constraints import Constraints
from modules.engine.detokenizer import Detokenizer, PieceTable
from modules.engine.guidance import Guidance
from modules.engine.payoff import DraftRecord
from modules.engine.penalties import breaker_tokens
from modules.engine.sampling import Sampler
from modules.engine.sequence import Sequence
from modules.engine.stopping import StopChecker

if TYPE_CHECKING:
    from modules.core.model import Runner, Tokenizer
    from modules.core.params import GenerationParams
    from modules.core.text_shape import CallText

MOST_REPORTED = 1 << 19  # log-probabilities of one prompt: each is an object here and in the web process


class Preparation:
    """Makes sequences for one model."""

    def __init__(self, runner: Runner, tokenizer: Tokenizer, pieces: PieceTable, name: str) -> None:
        self.context_limit = min(runner.context_length, runner.capacity_tokens)
        self._vocab_size = runner.vocab_size
        self._tokenizer = tokenizer
        self._pieces = pieces
        self._name = name
        self._constraints = Constraints(tokenizer, runner.vocab_size)
        self._guidance = Guidance(runner, tokenizer, name)
        self._special_stop = functools.lru_cache(maxsize=256)(self._find_special_stop)
        self._shown = functools.lru_cache(maxsize=16)(self._find_shown)
        self._breakers = functools.lru_cache(maxsize=16)(self._find_breakers)

    def sequence(
        self, prompt_ids: SequenceABC[int], params: GenerationParams, *,
        stop: SequenceABC[str], client: str, probe: int, calls: CallText | None = None, begun: str = "",
    ) -> Sequence:  # fmt: skip
        """A checked sequence, ready to be queued.

        Raises:
            ContextOverflow: the prompt leaves no room for a reply.
            InvalidRequest: an empty prompt or an unknown token id, or guidance that is not possible.
        """
        ids, now_s = list(prompt_ids), time.monotonic()
        self._check_prompt(ids, params)
        words = [token_id for token_id in ids if token_id < self._vocab_size]  # positions of images repeat nothing and are no choice
        stops = tuple(dict.fromkeys((*params.stop, *stop)))
        stop_ids = {token_id: text for text in stops if (token_id := self._special_stop(text)) is not None}
        end_ids = self._tokenizer.end_ids
        limit = params.context_limit(self.context_limit)
        most = 0 if params.prompt_only else params.max_tokens or limit
        sequence = Sequence(
            ids,
            max(len(ids), min(limit, len(ids) + most)),
            client=client,
            sampler=Sampler(
                params,
                vocab_size=self._vocab_size,
                end_ids=end_ids | stop_ids.keys(),
                prompt_ids=words,
                breaker_ids=self._breakers(params.dry_sequence_breakers) if params.dry_multiplier else frozenset(),
                constraint=self._constraints.constraint(params, end_ids | stop_ids.keys(), ids, calls, begun),
            ),
            detokenizer=Detokenizer(self._pieces, hides_special=not params.show_special_tokens, shown=self._shown(calls.marks) if calls else frozenset()),
            stops=StopChecker(stops),
            deterministic=params.deterministic,
            record=DraftRecord(allowed=params.drafts, seeded=params.seed is not None),
            logprobs=params.logprobs,
            prompt_logprobs=params.prompt_logprobs,
            probe=probe,
            end_ids=end_ids,
            stop_ids=stop_ids,
            deadline_s=now_s + params.deadline_s if params.deadline_s else 0.0,
            queued_s=now_s,
        )
        self._guidance.add(sequence, params, limit)
        return sequence

    def check_score(self, ids: list[int]) -> None:
        """Whether a text can be scored as a whole.

        Raises:
            ContextOverflow: more tokens than the context holds.
            InvalidRequest: an unknown token id.
        """
        self._check_ids(ids)
        if len(ids) > self.context_limit:
            raise ContextOverflow(
                f"The text has {len(ids)} tokens and the context of {self._name} holds {self.context_limit}; score it in parts.",
                limit=self.context_limit,
                got=len(ids),
            )

    def _check_prompt(self, ids: list[int], params: GenerationParams) -> None:
        if not ids:
            raise InvalidRequest("The prompt is empty; write at least one word.", field="prompt")
        limit = params.context_limit(self.context_limit)
        if params.prompt_only and len(ids) <= self.context_limit:
            pass  # no reply needs room
        elif len(ids) >= limit:
            holds, cure = ("context_tokens allows", "raise context_tokens") if limit < self.context_limit else (f"the context of {self._name} holds", "load the model with a longer context")
            raise ContextOverflow(
                f"The prompt has {len(ids)} tokens; {holds} {limit}, and the reply needs at least one of them. Shorten the prompt, or {cure}.",
                limit=limit,
                got=len(ids),
                field="prompt",
            )
        self._check_ids(ids)
        if params.prompt_logprobs is not None:
            self._check_report(ids, 1 + params.prompt_logprobs)

    def _check_report(self, ids: list[int], entries: int) -> None:
        if any(isinstance(token_id, ImageToken) for token_id in ids):
            raise InvalidRequest("There are no log-probabilities of a prompt with images; leave prompt_logprobs out.", field="prompt_logprobs")
        if len(ids) * entries > MOST_REPORTED:
            raise InvalidRequest(
                f"The prompt has {len(ids)} tokens, and with {entries} log-probabilities for each that is more than the limit of {MOST_REPORTED}; "
                "ask for fewer alternatives, or for parts of the prompt.",
                field="prompt_logprobs",
            )

    def _check_ids(self, ids: list[int]) -> None:
        if isinstance(ids[-1], ImageToken):
            raise InvalidRequest("The prompt ends with an image; write at least one word after it.", field="messages")
        lowest, highest = min(ids), max(0 if isinstance(token_id, ImageToken) else token_id for token_id in ids)
        if lowest < 0 or highest >= self._vocab_size:
            raise InvalidRequest(
                f"Token id {lowest if lowest < 0 else highest} is not in the vocabulary of {self._name}, which has the ids 0 to "
                f"{self._vocab_size - 1}.",
                field="prompt",
            )

    def _find_special_stop(self, stop: str) -> int | None:
        """The special token that a stop string is written as: hidden from the text, so it must be known by its id."""
        ids = self._encode(stop, parse_special=True) if stop[0] in "<[" else []
        if len(ids) == 2 and not self._tokenizer.piece(ids[0]).strip():
            ids = ids[1:]  # a SentencePiece tokenizer puts a space in front
        return ids[0] if len(ids) == 1 and self._tokenizer.is_special(ids[0]) else None

    def _find_shown(self, marks: tuple[str, ...]) -> frozenset[int]:
        """The special tokens that these marks are."""
        return frozenset(token_id for mark in marks if (token_id := self._find_special_stop(mark)) is not None)

    def _find_breakers(self, breakers: tuple[str, ...]) -> frozenset[int]:
        """The tokens that hold a breaker of DRY, and the last one of each breaker that takes several when it stands behind a letter."""
        known = range(min(self._vocab_size, self._tokenizer.vocab_size))
        found = (self._encode("a" + text, parse_special=False) for text in breakers)
        return breaker_tokens(map(self._tokenizer.piece, known), breakers) | frozenset(ids[-1] for ids in found if ids)

    def _encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids; none for a text that this vocabulary cannot hold, which the model can then not write either."""
        try:
            return self._tokenizer.encode(text, add_special=False, parse_special=parse_special)
        except InvalidRequest:
            return []
