"""What can be asked of a loaded model besides generations, as the web process asks it: one command, one answer.

Knows the commands; knows no process. The client of an engine inherits it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from modules.core.generation import ChatPrompt, EmbeddingRequest, Embeddings
from modules.core.model import Adapter
from modules.engine import wire

TEXTS_AT_ONCE = 64  # bounds an answer: so many vectors of 65,536 numbers are half of the largest frame


class Questions:
    """Commands that are answered at once or between two steps of the model."""

    name: str

    async def _ask(self, do: str, number: int = 0, **fields: Any) -> Any:
        """Send a command and wait for its answer."""
        raise NotImplementedError

    def _told(self, adapters: Sequence[Adapter] | None) -> list[dict[str, Any]]:
        """Adapters as the child takes them; None are the model's own."""
        raise NotImplementedError

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return list(await self._ask("tokenize", text=text))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens as they are written.

        Raises:
            InvalidRequest: an id outside the vocabulary.
        """
        return str(await self._ask("detokenize", token_ids=list(token_ids)))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Vectors of texts, a few at a time, so that others are served between them.

        Raises:
            NotOffered: this model makes none.
            InvalidRequest: a text, an id or the dimensions cannot be used.
        """
        vectors: list[bytes] = []
        tokens = 0
        answer: dict[str, Any] = {}
        adapters = self._told(request.adapters)
        for begin in range(0, len(request.inputs), TEXTS_AT_ONCE):
            part = request.model_copy(update={"inputs": request.inputs[begin : begin + TEXTS_AT_ONCE], "adapters": None})
            answer = await self._ask("embed", request={**wire.model_to_wire(part), "adapters": adapters}, first=begin)
            vectors += [base64.b64decode(vector) for vector in answer["vectors"]]
            tokens += answer["tokens"]
        return Embeddings(tuple(vectors), tokens, answer["pooling"], answer["normalized"], self.name)

    async def count(self, prompt: ChatPrompt) -> int:
        """Tokens of a whole rendered conversation."""
        return int(await self._ask("count", prompt=wire.model_to_wire(prompt)))

    async def examine(self, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a prompt looks like, how a text is split, what the template is: see the questions of `services/prompt_questions.py`.

        Raises:
            InvalidRequest: there is no such question, or it cannot be answered.
        """
        return dict(await self._ask("examine", question=question, values=dict(values)))

    async def score(self, token_ids: Sequence[int], adapters: Sequence[Adapter] | None = None, person: str = "") -> list[float]:
        """Log-probability of each token after the first, given those before it; None takes the model's own adapters. In turns of people, as vectors.

        Raises:
            ContextOverflow: more tokens than the context holds.
        """
        return list(await self._ask("score", token_ids=list(token_ids), adapters=self._told(adapters), person=person))
