"""Who writes the beginning-of-sequence token: one rule for chats, one for plain text.

In a chat the template decides. Its text is tokenized without special tokens of the tokenizer's own, as transformers does it, and a
BOS that stands twice at the front is made one (a template that writes it, around a text that begins with it). Our own prompt
templates write `{{ bos_token }}`; `for_model` gives them the model's BOS only where its tokenizer puts one before plain text, because
some models (Qwen) name a BOS and were trained without. Plain text gets a BOS by the tokenizer's rule unless it begins with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.core.model import TemplateSource


def needs_bos(text: str, bos_token: str) -> bool:
    """Whether plain text may still be given the tokenizer's own BOS (`add_special=True`); never ask this for a chat."""
    return not (bos_token and text.startswith(bos_token))


def single_bos(text: str, bos_token: str) -> str:
    """A rendered chat with a BOS repeated at its front reduced to one."""
    if not bos_token:
        return text
    body = text
    while body.startswith(bos_token):
        body = body.removeprefix(bos_token)
    return bos_token + body if body != text else text


def for_model(source: TemplateSource, *, bos_token: str, eos_token: str, adds_bos: bool) -> TemplateSource:
    """A prompt template of ours with the special tokens of a model."""
    return source.model_copy(update={"bos_token": bos_token if adds_bos else "", "eos_token": eos_token})
