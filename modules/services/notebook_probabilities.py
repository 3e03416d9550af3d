"""What the model finds likely: the next token of a text before and after the samplers, and each token of the text itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from modules.core.errors import InvalidRequest, NotOffered
from modules.core.generation import GenerationRequest, TokenLogprob
from modules.core.params import GenerationParams
from modules.core.text_shape import SHAPE_FIELDS
from modules.services.adapters import choices_from
from modules.services.generation import GenerationService
from modules.services.notebook_writing import marks_from, text_prompt
from modules.services.presets import PresetService

EMPTY = "There is no text to go on from; write a beginning first."
ALTERNATIVES = 6  # told of each token of a text


class NotebookProbabilities:
    """Looks; writes nothing."""

    def __init__(self, generation: GenerationService, presets: PresetService) -> None:
        self._generation = generation
        self._presets = presets

    async def next_tokens(self, text: str, count: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The likeliest next tokens under the adapters of the settings: as the model has them, and as the samplers leave them.

        A shape of the text is not asked, and XTC does not act. `note` says why there is nothing about the samplers.

        Raises:
            InvalidRequest: no text, or a setting outside its limits.
        """
        if not text:
            raise InvalidRequest(EMPTY, field="text")
        adapters = choices_from(settings.get("adapters"))
        params = self._presets.merge(settings.get("preset"), settings.get("params") or {})
        prompt = text_prompt(text, marks_from(settings))
        before = await self._generation.next_tokens(prompt, count, adapters=adapters)
        after: tuple[TokenLogprob, ...] = ()
        note = ""
        try:
            after = await self._generation.next_tokens(prompt, count, adapters=adapters, params=_samplers_of(params))
        except NotOffered as error:
            note = error.message
        return {"before": [_told(token) for token in before], "after": [_told(token) for token in after], "note": note}

    async def of_text(self, text: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each token of a text: where it stands, how likely it was there, and what was likelier. Nothing is known about the first one.

        Raises:
            InvalidRequest: no text.
            ContextOverflow: it is longer than the model can read.
            NotOffered: another server that does not tell.
        """
        if not text:
            raise InvalidRequest(EMPTY, field="text")
        params = GenerationParams(prompt_only=True, prompt_logprobs=ALTERNATIVES)
        request = GenerationRequest(prompt=text_prompt(text, marks_from(settings)), params=params, client="probabilities", whole=True)
        generation = await self._generation.submit(request, adapters=choices_from(settings.get("adapters")))
        found: list[TokenLogprob] = []
        try:
            async for delta in generation:
                found += delta.prompt_logprobs
        finally:
            await generation.aclose()
        return placed(text, found)


def _samplers_of(params: GenerationParams) -> GenerationParams:
    """Only what chooses one token."""
    values = params.model_dump(include=set(params.changed()), exclude={*SHAPE_FIELDS, "stop", "prompt_only", "prompt_logprobs", "deadline_s"})
    return GenerationParams.model_validate({**values, "max_tokens": 1})


def placed(text: str, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with the places of their text. A token that is not written in the text, as one that only marks its start, has an empty one."""
    content = text.encode("utf-8", "replace")
    rows: list[dict[str, Any]] = []
    byte = start = 0  # place of the next token in the content, and in the text
    for index, token in enumerate(tokens):
        raw = token.raw
        if not content.startswith(raw, byte):  # some tokenizers put a space before a text
            bare = raw.removeprefix(b" ")
            raw = bare if bare and content.startswith(bare, byte) else b""
        letters = sum(1 for value in content[byte : byte + len(raw)] if value & 0xC0 != 0x80)  # a character counts where it begins
        row = {**_told(token), "start": start, "stop": start + letters, "alternatives": [_told(other) for other in token.top]}
        rows.append(row if index else {**row, "probability": None, "alternatives": []})
        byte, start = byte + len(raw), start + letters
    return rows


def _told(token: TokenLogprob) -> dict[str, Any]:
    return {"text": token.text, "token_id": token.token_id, "probability": exp(token.logprob)}
