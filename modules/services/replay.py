"""A reply written once more from its receipt, and in what it differs then. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from modules.core.errors import InvalidRequest
from modules.core.generation import GenerationRequest
from modules.core.model import AdapterChoice
from modules.core.params import GenerationParams
from modules.services.conversations import MessageRecord
from modules.services.kept_prompts import KeptPrompt

BEFORE_CHARACTERS, DIFFERENT_CHARACTERS = 60, 2000  # of texts that differ


@dataclass(frozen=True, slots=True)
class Original:
    """What is to be written again."""

    id: str
    text: str
    model: str
    is_whole: bool  # whether nothing was added to it later
    receipt: Mapping[str, Any]
    params: GenerationParams
    adapters: tuple[AdapterChoice, ...]
    kept: KeptPrompt | None = None  # None: what is there today is asked again

    @property
    def begun(self) -> str:
        """The words that it was to begin with."""
        prompt = self.kept.prompt if self.kept is not None else None
        last = prompt.messages[-1] if prompt is not None and prompt.continue_final_message and prompt.messages else None
        return last.content if last is not None and self.text.startswith(last.content) else ""

    def asked(self, request: GenerationRequest) -> GenerationRequest:
        """A request of today with the values of the receipt."""
        return request.model_copy(update={"params": self.params})

    def texts(self, text: str, at: int) -> dict[str, str]:
        """Both texts from their first difference on, and what stands before it in both."""
        return {"before": text[max(0, at - BEFORE_CHARACTERS) : at], "was": self.text[at : at + DIFFERENT_CHARACTERS], "now": text[at : at + DIFFERENT_CHARACTERS]}

    def compared(self, text: str, model: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
        """What a receipt says about a replay: whether prompt and text are the same, and from which character on they are not."""
        same = text == self.text or (not self.is_whole and self.text.startswith(text))
        told: dict[str, Any] = {
            "of": self.id,
            "same_model": model == self.model,
            "same_prompt": bool(receipt.get("prompt_hash")) and receipt.get("prompt_hash") == self.receipt.get("prompt_hash"),
            "same_text": same,
        }
        if not same:
            told["differs_at"] = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, self.text, strict=False)))
        return told


def original_of(message: MessageRecord, kept: KeptPrompt | None = None) -> Original:
    """A stored reply as it can be written again, from the prompt that was kept: its first part, if it was continued.

    Raises:
        InvalidRequest: it is no reply, or its receipt says too little.
    """
    receipt = message.receipt or {}
    earlier: Sequence[Mapping[str, Any]] = receipt.get("earlier") or ()
    first = earlier[0] if earlier else receipt
    if message.role != "assistant" or message.parent_id is None or "seed" not in first or "params" not in first:
        raise InvalidRequest(
            "Only a reply whose receipt names its seed and sampling values can be written again from it; regenerate this one.", field="message_id"
        )
    try:
        params = GenerationParams.model_validate({**first["params"], "seed": first["seed"]})
        adapters = tuple(AdapterChoice.model_validate(value) for value in first.get("adapters", ()))
    except (ValidationError, TypeError) as error:
        raise InvalidRequest("The receipt of this reply has values that are not known here, so it cannot be written again from it.", field="message_id") from error
    return Original(message.id, message.content, message.model, not earlier, first, params, adapters, kept)
