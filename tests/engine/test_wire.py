from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import ERROR_CLASSES, AppError, Busy
from modules.core.generation import (
    ChatPrompt,
    Delta,
    EngineCounters,
    GenerationRequest,
    Started,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Usage,
    figures,
)
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.core.params import GenerationParams
from modules.engine import wire


def through(message: dict) -> dict:
    """As the other side receives it."""
    frame = wire.to_frame(message)
    assert wire.body_length(frame[:4]) == len(frame) - 4
    return wire.from_body(frame[4:])


ids = st.integers(0, 2**31 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
plain_logprobs = st.builds(TokenLogprob, ids, st.text(), numbers)
logprobs = st.builds(TokenLogprob, ids, st.text(), numbers, st.lists(plain_logprobs, max_size=3).map(tuple))
usages = st.builds(Usage, ids, ids, ids, numbers, numbers, numbers, ids, ids, numbers, ids)
running = st.builds(Delta, st.text(), st.lists(ids).map(tuple), st.lists(logprobs, max_size=3).map(tuple))
last = st.builds(
    Delta,
    st.text(),
    st.lists(ids).map(tuple),
    st.lists(logprobs, max_size=3).map(tuple),
    st.sampled_from(["stop", "length", "cancelled"]),
    st.none() | st.text(min_size=1),
    usages,
    end_id=st.none() | ids,
)


@given(running | last)
def test_deltas_come_back(delta):
    assert wire.wire_to_delta(through({"value": wire.delta_to_wire(delta)})["value"]) == delta


def test_started_and_counters_come_back():
    started = Started(10, 4, 2, 2**64 - 1, "<think>", (0, 1), "ab", "GGUF metadata", "cd", "hermes", (1, 5, 7))
    counters = EngineCounters(*range(len(figures())))
    assert wire.wire_to_started(through(wire.started_to_wire(started))) == started
    assert wire.wire_to_counters(through(wire.counters_to_wire(counters))) == counters


@pytest.mark.parametrize("kind", ERROR_CLASSES)
def test_errors_come_back_as_what_they_are(kind):
    error = wire.wire_to_error(through(wire.error_to_wire(kind("A sentence.", limit=3, field="prompt"))))
    assert type(error) is kind
    assert (error.message, error.details) == ("A sentence.", {"limit": 3, "field": "prompt"})


def test_details_that_are_no_json_still_cross():
    error = wire.wire_to_error(through(wire.error_to_wire(Busy("Busy.", where={1, 2} and object))))
    assert isinstance(error, Busy)
    assert wire.wire_to_error({"kind": "SomethingNew", "message": "Hm."}).kind == AppError.__name__


@pytest.mark.parametrize(
    "prompt",
    [
        ChatPrompt(
            messages=(Message(role="user", content="Grüße 😀"), Message(role="tool", content="", tool_call_id="1")),
            template=TemplateSource(text="{{ x }}", origin="somewhere", stop=("</s>",)),
            template_variables={"enable_thinking": False},
            tools=({"type": "function"},),
            continue_final_message=True,
            overflow="refuse",
        ),
        TextPrompt(text="Once", parse_special=False),
        TokenPrompt(token_ids=(1, 2, 3)),
    ],
)
def test_requests_come_back(prompt):
    params = GenerationParams(logit_bias={5: -100.0}, seed=2**64 - 1, stop=("a", "b"), sampler_order=("top_k", "temperature"))
    request = GenerationRequest(prompt=prompt, params=params, client="someone")
    assert GenerationRequest.model_validate(through(wire.model_to_wire(request))) == request


@given(st.builds(TextPrompt, text=st.text(), add_bos=st.booleans(), parse_special=st.booleans()), st.builds(GenerationParams, max_tokens=st.integers(0, 99), top_k=st.integers(0, 9), seed=st.none() | ids), st.booleans())
def test_what_is_left_out_on_the_way_is_what_it_is_by_itself(prompt, params, whole):
    request = GenerationRequest(prompt=prompt, params=params, whole=whole)
    told = wire.model_to_wire(request)
    assert GenerationRequest.model_validate(through(told)) == request
    assert len(told.get("params", {})) <= 3


def test_frames_have_a_limit():
    with pytest.raises(wire.FrameError):
        wire.body_length((wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(wire.FrameError):
        wire.body_length(b"\0\0")
    with pytest.raises(wire.FrameError):
        wire.to_frame({"text": "x" * wire.MAX_FRAME_BYTES})


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000])
def test_nonsense_is_refused(body):
    with pytest.raises(wire.FrameError):
        wire.from_body(body)
