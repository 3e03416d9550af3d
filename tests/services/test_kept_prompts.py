"""Prompts as they are kept with replies: whole when they come back, and small because those of a conversation share their texts."""

from __future__ import annotations

import base64
import hashlib

from modules.core.generation import ChatPrompt
from modules.core.messages import Image, Message
from modules.core.model import TemplateSource
from modules.services.kept_prompts import LEFT_OUT_LIMIT, KeptPrompt, named, packed, unpacked
from modules.store.records import StoredPrompt


def said(count: int) -> tuple[Message, ...]:
    return (Message(role="system", content="Be brief."), *(Message(role="assistant" if place % 2 else "user", content=f"Number {place}.") for place in range(count)))


def test_a_prompt_comes_back_as_it_was_without_what_was_left_out() -> None:
    picture = Image(kind="png", data=base64.b64encode(b"pixels").decode(), at=3)
    asked = Message(role="user", content="Look: half a pair \ud800", images=(picture,), pinned=True)
    template = TemplateSource(text="{{ messages }}", origin="Angles")
    prompt = ChatPrompt(messages=(*said(40), asked), template=template, template_variables={"enable_thinking": False, "tone": "half a pair \ud800"}, continue_final_message=True)
    form, texts = packed(KeptPrompt(prompt), (1, 2))
    key = hashlib.sha256(b"pixels").hexdigest()
    assert form["images"] == [key]
    found = unpacked(StoredPrompt(form, texts, {key: b"pixels"}))
    assert found is not None
    assert found.prompt == prompt.model_copy(update={"messages": (prompt.messages[0], *prompt.messages[3:])})
    assert (found.left_out_count, found.left_out[0]) == (2, {"role": "user", "start": "Number 0."})
    assert unpacked(StoredPrompt(form, texts, {})) is None, "the image is gone"


def test_what_was_left_out_before_is_named_first() -> None:
    unread = tuple(named("user", f"Unread {place}.") for place in range(LEFT_OUT_LIMIT))
    prompt = ChatPrompt(messages=said(4))
    some = unpacked(StoredPrompt(*packed(KeptPrompt(prompt, unread[:3], 3), (1,)), {}))
    assert some == KeptPrompt(prompt.model_copy(update={"messages": (prompt.messages[0], *prompt.messages[2:])}), (*unread[:3], named("user", "Number 0.")), 4)
    many = unpacked(StoredPrompt(*packed(KeptPrompt(prompt, unread, 300), (1,)), {}))
    assert many is not None
    assert (many.left_out, many.left_out_count) == (unread, 301)


def test_the_prompts_of_a_conversation_share_their_texts() -> None:
    texts: dict[str, str] = {}
    for count in range(1, 400, 2):
        texts |= packed(KeptPrompt(ChatPrompt(messages=said(count))), range(1, max(1, count - 200)))[1]
    once = sum(len(message.model_dump_json()) for message in said(400))
    assert sum(map(len, texts.values())) < 5 * once, "it would be 30 times where each prompt had its own"
