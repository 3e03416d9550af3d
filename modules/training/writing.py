"""Texts that the model under training writes as it stands: greedy, from a chat or from the beginning of a text, ended where the template ends a turn.

Knows one model, its tokenizer and a chat template; nothing of adapters. The caller puts the model into evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.bos import needs_bos, single_bos
from modules.prompts.ending import derive_ending
from modules.prompts.template import Template


@dataclass(frozen=True, slots=True)
class Written:
    """What was written after a prompt."""

    text: str
    token_ids: tuple[int, ...]
    is_cut: bool  # ended by the most tokens, not by the model


class Writer:
    """Writes with one model. Without a template it can only go on with texts."""

    def __init__(self, model: Any, tokenizer: Any, template: TemplateSource | None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._source = template
        self._template = Template(template) if template is not None else None

    def chat_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The prompt of a chat.

        Raises:
            InvalidRequest: there is no template, or it refuses the chat.
        """
        if self._template is None:
            raise InvalidRequest("There is no chat template to ask with. Choose a prompt template.", field="template")
        text = self._template.render(messages, tools=tools).text
        return self._ids(single_bos(text, self._tokenizer.bos_token or ""), special=False)

    def text_ids(self, text: str) -> list[int]:
        """The beginning of a text."""
        return self._ids(text, special=needs_bos(text, self._tokenizer.bos_token or ""))

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    @property
    def context_length(self) -> int | None:
        """Longest text of this model, where it says so."""
        found = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else None

    @cached_property
    def _stop(self) -> tuple[str, ...]:
        """What ends a turn though it is no end token of the model: a prompt template may end turns in words."""
        if self._template is None or self._source is None:
            return ()
        try:
            found = derive_ending(self._template.render, eos_token=self._source.eos_token, extra_stop=self._source.stop).stop
        except InvalidRequest:  # it takes these chats, but not the ones made up to learn from
            return self._source.stop
        return found

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        """The model's end tokens, the tokenizer's, and those stop strings that are one token."""
        own = self._model.generation_config.eos_token_id if self._model.generation_config is not None else None
        found = {*(own if isinstance(own, list | tuple) else [own]), self._tokenizer.eos_token_id}
        for text in self._stop:
            ids = self._ids(text, special=False)
            if len(ids) == 1:
                found.add(ids[0])
        return frozenset(int(token_id) for token_id in found if token_id is not None)

    def write(self, prompt_ids: Sequence[int], max_tokens: int, tick: Callable[[], None], *, chat: bool = True) -> Written:
        """Go on greedily after a prompt; `tick` hears of each token, and what it raises ends the writing."""
        import torch
        from transformers import GenerationConfig, StoppingCriteria

        stop = self._stop if chat else ()
        count = len(prompt_ids)

        class Watch(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                tick()
                ended = bool(stop) and any(text in writer._decoded(input_ids[0, count:].tolist()) for text in stop)
                return torch.full((input_ids.shape[0],), ended, device=input_ids.device, dtype=torch.bool)

        writer = self
        ids = torch.tensor([list(prompt_ids)], device=self._model.get_input_embeddings().weight.device)
        end_ids = sorted(self._end_ids)
        # the settings a model comes with (penalties, sampling) are not what its adapter is compared by
        config = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, num_beams=1, use_cache=True, repetition_penalty=1.0, no_repeat_ngram_size=0,
            eos_token_id=end_ids or None, pad_token_id=end_ids[0] if end_ids else 0,
        )  # fmt: skip
        with torch.no_grad():
            made = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, stopping_criteria=[Watch()])
        new = made[0, count:].tolist()
        ended = bool(new) and new[-1] in self._end_ids
        text = self._decoded(new[:-1] if ended else new)
        at = min((place for mark in stop if (place := text.find(mark)) >= 0), default=-1)
        return Written(text if at < 0 else text[:at], tuple(new), not ended and at < 0)

    def _decoded(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
