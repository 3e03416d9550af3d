"""Requests of ours as bodies of OpenAI's API, for one kind of server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt
from modules.core.messages import Message
from modules.core.tools import with_names
from modules.loaders.remote.kinds import sampling, spec_of
from modules.loaders.remote.options import Kind
from modules.loaders.remote.text_shape import shape_fields

LENGTH_WITHOUT_LIMIT = 2048  # asked for where a server wants a number and the person set none
SEED_LIMIT = 2**31  # what every server takes


@dataclass(frozen=True)
class Ask:
    """A request that any address of a pool may answer."""

    request: GenerationRequest
    model: str  # as the pool calls it
    seed: int  # below `SEED_LIMIT`
    context_length: int = 0  # 0: not known

    @property
    def is_chat(self) -> bool:
        """Whether messages are sent; otherwise text to be continued."""
        return isinstance(self.request.prompt, ChatPrompt)

    @property
    def path(self) -> str:
        """Where it is sent to."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def echo(self, kind: Kind) -> str:
        """What the reply may begin with although it was there before: newer llama-servers send a continued message from its beginning."""
        prompt = self.request.prompt
        if kind != "llama-server" or not isinstance(prompt, ChatPrompt) or not prompt.continue_final_message:
            return ""
        return prompt.messages[-1].content

    def body(self, kind: Kind, model: str) -> dict[str, Any]:
        """The body for a server of that kind, which calls the model `model`.

        Raises:
            InvalidRequest: this kind of server cannot do it.
        """
        prompt, params = self.request.prompt, self.request.params
        spec = spec_of(kind)
        body = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling(params, kind),
            **shape_fields(params, kind, is_chat=self.is_chat),
            "seed": self.seed,
        }
        if params.stop:
            body["stop"] = list(params.stop)
        length = params.max_tokens or (0 if self.is_chat or not spec.needs_length else self._length())
        if length:
            body["max_tokens"] = length
        if isinstance(prompt, ChatPrompt):
            body |= _chat(prompt, kind)
        else:
            body["prompt"] = _text(prompt, kind) if isinstance(prompt, TextPrompt) else list(prompt.token_ids)
        if params.logprobs is not None:
            if "logprobs" not in spec.takes:
                raise InvalidRequest(
                    f"{spec.title} is not known to report log-probabilities; leave logprobs out.",
                    field="logprobs",
                )
            count = (
                max(params.logprobs, 1) if kind == "llama-server" else params.logprobs
            )  # it reports nothing for 0
            body |= {"logprobs": True, "top_logprobs": count} if self.is_chat else {"logprobs": count}
        return body

    def _length(self) -> int:
        return min(LENGTH_WITHOUT_LIMIT, self.context_length // 2 or LENGTH_WITHOUT_LIMIT)


def _text(prompt: TextPrompt, kind: Kind) -> str:
    if not prompt.add_bos:
        raise InvalidRequest(
            f"{spec_of(kind).title} decides itself whether a text begins with the token for that; leave it turned on (add_bos).",
            field="add_bos",
        )
    return prompt.text


def _chat(prompt: ChatPrompt, kind: Kind) -> dict[str, Any]:
    spec = spec_of(kind)
    body: dict[str, Any] = {"messages": [_message(message) for message in with_names(prompt.messages)]}
    if prompt.continue_final_message:
        if spec.continues is None:
            raise InvalidRequest(
                f"{spec.title} cannot continue a reply; regenerate it, or use a model of this machine."
            )
        body |= spec.continues
    if prompt.template_variables:
        if not spec.template_variables:
            names = ", ".join(prompt.template_variables)
            raise InvalidRequest(
                f"{spec.title} takes no variables for its chat template ({names}); remove them from the conversation's settings."
            )
        body["chat_template_kwargs"] = dict(prompt.template_variables)
    return body | (_tools(prompt, kind) if prompt.tools else {})


def _tools(prompt: ChatPrompt, kind: Kind) -> dict[str, Any]:
    """The tools, and what must be called. Names among several are said by leaving the other tools out, which every server understands."""
    body: dict[str, Any] = {"tools": list(prompt.tools)}
    if prompt.must_call:
        if not spec_of(kind).forces_calls:
            raise InvalidRequest(f"{spec_of(kind).title} is not known to keep to a tool_choice that asks for a call; use auto.", field="tool_choice")
        body["tools"] = [tool for tool in prompt.tools if tool["function"]["name"] in prompt.must_call]
        one = {"type": "function", "function": {"name": prompt.must_call[0]}}
        body["tool_choice"] = one if len(prompt.must_call) == 1 else "required"
    if not prompt.several_calls:
        body["parallel_tool_calls"] = False
    return body


def _message(message: Message) -> dict[str, Any]:
    """A message; with images it is in parts."""
    body = message.for_template()
    if message.images:
        body["content"] = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": part.address}}
            for part in message.parts()
        ]
    return body
