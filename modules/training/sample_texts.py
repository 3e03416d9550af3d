"""Texts that the model writes on the way from the same few prompts, so that a person sees what it has learned by now. Greedy: the same weights write the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.training.material import Material
from modules.training.samples import Sample, TextSample
from modules.training.writing import Writer

MOST_PROMPTS = 3  # taken from the held-out data where the person gave none
BEGINNING_TOKENS = 16  # of a plain text
SHOWN_CHARACTERS = 2000


class SampleTexts:
    """See above."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._options = material.args.options
        samples = material.data.held_out or material.data.train
        self._plain = bool(samples) and isinstance(samples[0], TextSample)
        given = self._options.sample_prompts or material.args.prompts
        self._prompts: tuple[str | Sample, ...] = tuple(given) if given else tuple(samples[:MOST_PROMPTS])

    def write(self, model: Any, check: Callable[[], None]) -> Iterator[tuple[str, str]]:
        """Each prompt and what follows it; `check` is called for each token and may raise."""
        writer = Writer(model, self._material.tokenizer, None if self._plain else self._material.args.template)
        model.eval()
        try:
            for prompt in self._prompts:
                try:
                    shown, ids = self._asked(writer, prompt)
                except InvalidRequest:  # the template refuses this chat: another one may do
                    continue
                room = (writer.context_length or 1 << 30) - self._options.sample_tokens
                if ids and len(ids) <= room:
                    written = writer.write(ids, self._options.sample_tokens, check, chat=not self._plain)
                    yield shown[:SHOWN_CHARACTERS], written.text[:SHOWN_CHARACTERS]
        finally:
            model.train()

    def _asked(self, writer: Writer, prompt: str | Sample) -> tuple[str, list[int]]:
        """A prompt as shown and as ids."""
        if isinstance(prompt, str):
            plain = self._plain or self._material.args.template is None
            return prompt, writer.text_ids(prompt) if plain else writer.chat_ids((Message(role="user", content=prompt),))
        if isinstance(prompt, TextSample):
            ids = writer.text_ids(prompt.text)
            ids = ids[: min(BEGINNING_TOKENS, max(1, len(ids) // 2))]
            return str(self._material.tokenizer.decode(ids, skip_special_tokens=True)), ids
        messages = prompt.messages
        last = max((place for place, message in enumerate(messages) if message.role == "assistant"), default=len(messages))
        asked = messages[:last]
        shown = next((message.content for message in reversed(asked) if message.role == "user"), "")
        return shown, writer.chat_ids(asked, getattr(prompt, "tools", ())) if asked else []
