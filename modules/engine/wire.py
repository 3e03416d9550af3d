"""The language between the web process and an engine's child: frames of JSON, and the values that travel in them.

A frame is a length of four bytes (big endian) and that many bytes of JSON. A command has `do` and `id`; the child answers with `re` and either
`value` or `error`, and tells of itself with `events`, `beat` and `progress`. Knows no pipe and no process. No pickle: a child
that misbehaves can send nonsense, never code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from modules.core.errors import AppError, InvalidRequest, error_from
from modules.core.generation import Delta, EngineCounters, Started, TokenLogprob, Usage

MAX_FRAME_BYTES = 64 << 20
HEADER_BYTES = 4
ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)
DECODER = json.JSONDecoder()

Message = dict[str, Any]


class FrameError(ValueError):
    """What arrived is no frame; the connection cannot go on."""


def to_frame(message: Mapping[str, Any]) -> bytes:
    """A message as bytes, header included.

    Raises:
        FrameError: larger than a frame may be.
    """
    body = ENCODER.encode(message).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"A message of {len(body)} bytes is larger than the limit of {MAX_FRAME_BYTES}.")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes | bytearray) -> int:
    """The length that a header announces.

    Raises:
        FrameError: larger than a frame may be.
    """
    length = int.from_bytes(header, "big")
    if len(header) != HEADER_BYTES or length > MAX_FRAME_BYTES:
        raise FrameError(f"A frame of {length} bytes was announced; the limit is {MAX_FRAME_BYTES}.")
    return length


def from_body(body: bytes) -> Message:
    """The message in the body of a frame.

    Raises:
        FrameError: no JSON object.
    """
    try:
        text = body.decode("ascii")
        message, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"A frame holds no JSON: {error}.") from error
    if end < len(text) or not isinstance(message, dict):
        raise FrameError("A frame holds no JSON object, or more than one.")
    return message


# ---- values --------------------------------------------------------------------------------------------------------


def model_to_wire(model: BaseModel) -> Message:
    """A request, or a part of one, as plain values, without those that are as they are by themselves: most of sixty parameters.

    Raises:
        InvalidRequest: its values are nested too deeply.
    """
    try:
        return model.model_dump(mode="json", exclude_defaults=True)
    except ValueError as error:
        raise InvalidRequest(f"The request cannot be sent to the model: {error}. Nest its values less deeply.") from error


def error_to_wire(error: AppError) -> Message:
    """An error as plain values."""
    return {"kind": error.kind, "message": error.message, "details": error.details}


def wire_to_error(value: Mapping[str, Any]) -> AppError:
    """The error that was sent."""
    return error_from(str(value["kind"]), str(value["message"]), value.get("details"))


def logprob_to_wire(entry: TokenLogprob) -> list[Any]:
    """Id, text, log-probability and alternatives; the bytes only where the text does not say them."""
    value = [entry.token_id, entry.text, entry.logprob, [logprob_to_wire(other) for other in entry.top]]
    return [*value, entry.part.hex()] if entry.part else value


def wire_to_logprob(value: list[Any]) -> TokenLogprob:
    """The entry that was sent."""
    token_id, text, logprob, top, *part = value
    return TokenLogprob(token_id, text, logprob, tuple(wire_to_logprob(other) for other in top), bytes.fromhex(part[0]) if part else b"")


def usage_to_wire(usage: Usage) -> list[Any]:
    """The fields in their order."""
    return [getattr(usage, name) for name in Usage.__slots__]


def delta_to_wire(delta: Delta) -> Message:
    """A delta without its empty fields: most hold a few letters and an id."""
    message: Message = {"text": delta.text, "ids": delta.token_ids}
    if delta.logprobs:
        message["logprobs"] = [logprob_to_wire(entry) for entry in delta.logprobs]
    if delta.prompt_logprobs:
        message["prompt"] = [logprob_to_wire(entry) for entry in delta.prompt_logprobs]
    if delta.finish_reason is not None:
        message["finish"] = delta.finish_reason
        message["stop"] = delta.stop_string
        message["usage"] = usage_to_wire(delta.usage or Usage())
        if delta.end_id is not None:
            message["end"] = delta.end_id
    return message


def wire_to_delta(value: Mapping[str, Any]) -> Delta:
    """The delta that was sent."""
    if len(value) == 2:
        return Delta(value["text"], tuple(value["ids"]))
    return Delta(
        text=value["text"],
        token_ids=tuple(value["ids"]),
        logprobs=tuple(wire_to_logprob(entry) for entry in value.get("logprobs", ())),
        finish_reason=value.get("finish"),
        stop_string=value.get("stop"),
        usage=Usage(*value["usage"]) if "usage" in value else None,
        prompt_logprobs=tuple(wire_to_logprob(entry) for entry in value.get("prompt", ())),
        end_id=value.get("end"),
    )


def started_to_wire(started: Started) -> Message:
    """The fields by name."""
    return {name: getattr(started, name) for name in Started.__slots__}


def wire_to_started(value: Mapping[str, Any]) -> Started:
    """The start that was sent."""
    return Started(**{**value, "dropped": tuple(value.get("dropped", ())), "prompt_ids": tuple(value.get("prompt_ids", ()))})


def counters_to_wire(counters: EngineCounters) -> Message:
    """The fields by name."""
    return {name: getattr(counters, name) for name in EngineCounters.__slots__}


def wire_to_counters(value: Mapping[str, Any]) -> EngineCounters:
    """The counters that were sent."""
    return EngineCounters(**value)
