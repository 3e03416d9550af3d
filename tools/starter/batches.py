"""Turn documents into rows of token ids with a loss weight per token.

Knows the chat layout in tokens and the row lengths. Every batch depends on (seed, step) alone, so a resumed run sees
the same text as an uninterrupted one.
"""

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from tools.starter.dialogue import Conversation, Writer
from tools.starter.tokenizer import BEGIN, END, TURN_END, TURN_START, token_id

USER_WEIGHT, ANSWER_WEIGHT, TEXT_WEIGHT = 0.05, 1.0, 0.5
"""Loss weight of a token a user wrote, of a reply, of plain text. Replies matter; the rest helps the embeddings."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids [rows, length + 1] and the loss weight of each target [rows, length]."""

    token_ids: torch.Tensor
    weights: torch.Tensor


class BatchMaker:
    """Packs conversations and plain texts into rows."""

    def __init__(self, writer: Writer, tokenizer: Tokenizer, seed: int, tokens_per_step: int) -> None:
        """Keep the sources and look the control tokens up once."""
        self._writer = writer
        self._tokenizer = tokenizer
        self._seed = seed
        self._tokens = tokens_per_step
        self._begin, self._end, self._start, self._stop = (
            token_id(tokenizer, text) for text in (BEGIN, END, TURN_START, TURN_END)
        )
        self._roles = {role: self._encode(role + "\n") for role in ("system", "user", "assistant")}
        self._newline = self._encode("\n")

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def conversation(self, made: Conversation) -> tuple[list[int], list[float]]:
        """Return ids and weights of a conversation, as the chat template writes it."""
        ids, weights = [self._begin], [0.0]
        messages = [("system", made.system)] if made.system else []
        for question, answer in made.turns:
            messages += [("user", question), ("assistant", answer)]
        for role, text in messages:
            weight = ANSWER_WEIGHT if role == "assistant" else USER_WEIGHT
            body = self._encode(str(text))
            head = [self._start, *self._roles[role]]
            ids += [*head, *body, self._stop, *self._newline]
            weights += [*([0.0] * len(head)), *([weight] * (len(body) + 1)), *([0.0] * len(self._newline))]
        return ids, weights

    def plain(self, text: str) -> tuple[list[int], list[float]]:
        """Return ids and weights of a text that ends with the end token."""
        ids = [self._begin, *self._encode(text), self._end]
        return ids, [0.0] + [TEXT_WEIGHT] * (len(ids) - 1)

    def row(self, rng: random.Random, length: int, long: bool) -> tuple[list[int], list[float]]:
        """Fill one row of ``length`` + 1 ids; ``long`` asks for one conversation over the whole row."""
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length + 1:
            if not long and rng.random() < 0.1:
                more = self.plain(self._writer.plain_text(rng))
            else:
                turns = 40 if long else rng.choices((1, 2, 3, 4, 6), (50, 20, 12, 10, 8))[0]
                more = self.conversation(self._writer.conversation(rng, turns))
            ids += more[0]
            weights += more[1]
        return ids[: length + 1], weights[: length + 1]

    def batch(self, step: int) -> Batch:
        """Return the batch of ``step``: mostly rows of 256, every sixth step rows of 1024."""
        rng = random.Random(f"{self._seed}-{step}")
        length = 1024 if step % 6 == 5 else 256
        rows = [self.row(rng, length, length == 1024 and rng.random() < 0.7)
                for _ in range(max(1, self._tokens // length))]
        ids = torch.tensor([row[0] for row in rows])
        weights = torch.tensor([row[1] for row in rows])
        return Batch(ids, weights[:, 1:])
