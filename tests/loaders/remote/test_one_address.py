"""One address: a reply, every refusal as a sentence, what breaks, and that stopping reaches the server."""

from __future__ import annotations

import asyncio
from socket import IPPROTO_TCP, TCP_NODELAY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import (
    AppError,
    Busy,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    RemoteError,
)
from modules.core.generation import Delta
from modules.loaders.remote.refusals import refusal
from modules.loaders.remote.requests import Ask
from tests.loaders.remote.pool_steps import ASK, CHAT, until, write
from tests.openai_upstream import chunk, story


async def test_a_reply_with_its_cost_and_the_key(start, one):
    pool = start(one, key="sk-canary")
    deltas: list[Delta] = []
    assert await write(pool, deltas=deltas) == "Once upon a time"
    assert deltas[-1].usage.prompt_tokens == 7
    assert {headers["authorization"] for _, headers, _ in one.requests} == {"Bearer sk-canary"}
    (look,) = await pool.look()
    assert (look.state, look.kind, look.models, look.busy) == ("up", "vllm", ("tale",), 0)
    assert pool.models() == {"tale": 512}


async def test_nothing_of_the_environment_leads_requests_elsewhere(start, one, two, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, two.url)
    assert await write(start(one)) == "Once upon a time"
    assert two.requests == []


async def test_a_redirect_is_not_followed(start, one, two):
    pool = start(one)
    await pool.check()
    one.status, one.headers = 307, f"location: {two.url}{CHAT}\r\n"
    with pytest.raises(RemoteError, match="redirect"):
        await write(pool)
    assert two.requests == []


@pytest.mark.parametrize(("status", "body", "kind", "words"), [
    (401, {}, RemoteError, "right key"),
    (403, {"error": "not you"}, RemoteError, "not you"),
    (404, {"detail": "no such model"}, NotFound, "no such model"),
    (429, {"error": {"message": "slow down"}}, Busy, "slow down"),
    (500, b"<html>oops</html>", RemoteError, "its own log"),
    (503, {"error": {"message": "Loading model"}}, RemoteError, "Loading model"),
    (400, {"error": {"message": "maximum context length is 512"}}, ContextOverflow, "shorten"),
    (400, {"error": {"message": "temperature must be positive"}}, InvalidRequest, "temperature must be positive"),
    (422, b"[" * 100_000, InvalidRequest, "refuses the request"),
])  # fmt: skip
async def test_refusals_are_sentences_with_the_cure(start, one, status, body, kind, words):
    pool = start(one)
    await pool.check()
    one.status, one.error = status, body
    with pytest.raises(AppError, match=words) as refused:
        await write(pool)
    assert type(refused.value) is kind
    assert f"127.0.0.1:{one.port}" in refused.value.message
    assert "oops" not in refused.value.message


@given(status=st.integers(300, 599), raw=st.binary(max_size=200), model=st.text(max_size=20), wait=st.none() | st.text(max_size=8))
def test_every_refusal_is_a_sentence(status, raw, model, wait):
    refused = refusal("gpu:8000", status, raw, model, wait)
    assert refused.error.message.startswith(("gpu:8000 ", "The text is longer"))
    assert not (refused.fault and not refused.elsewhere)
    assert 0 <= refused.wait_s <= 30


async def test_a_server_that_is_not_there(start, one):
    pool = start(one)
    await one.stop()
    with pytest.raises(RemoteError, match=r"does not answer \(127\.0\.0\.1:\d+: it cannot be reached"):
        await write(pool)
    await one.start()
    assert await write(pool) == "Once upon a time"  # without a wait or a click


async def test_what_is_no_model_server_says_so(start, one):
    one.models, one.answer = [], {}
    one.list_status = 404
    (look,) = await start(one).look()
    assert (look.state, look.detail) == ("down", "it answered 404")
    one.list_status = 401
    (look,) = await start(one).look()
    assert (look.state, look.detail) == ("refused", "it refuses the key (401)")


async def test_a_model_that_is_not_listed_is_not_asked_for(start, one):
    pool = start(one)
    with pytest.raises(NotFound, match="has no model “other”. It has: tale"):
        await pool.write(Ask(ASK.request, "other", 3), lambda delta: None, lambda: None)
    assert one.asked(CHAT) == []


async def test_a_reply_that_breaks_off_keeps_its_text(start, one):
    pool, deltas = start(one), []
    one.breaks_after = 3
    with pytest.raises(RemoteError, match="lost in the middle of the reply; the text so far is kept"):
        await write(pool, deltas=deltas)
    assert "".join(delta.text for delta in deltas) == "Once upon"
    assert len(one.asked(CHAT)) == 1


async def test_a_connection_is_used_again_and_nothing_waits_in_it(start, one):
    pool = start(one)
    one.keeps = True
    for _ in range(6):
        assert await write(pool) == "Once upon a time"
    assert one.connections <= 2  # a check may run beside a reply
    connection, *_ = (await pool.backends[0].client())._transport._inner._pool.connections
    socket = connection._connection._network_stream.get_extra_info("socket")
    assert socket.getsockopt(IPPROTO_TCP, TCP_NODELAY)


async def test_an_end_without_an_end_mark_is_an_end(start, one):
    one.pieces = [*story(), b"data: [DONE]\n\n", b"data: rubbish\n\n"]
    assert await write(start(one)) == "Once upon a time"


async def test_rubbish_in_a_stream_is_told(start, one):
    one.pieces = [chunk("a"), b"data: rubbish\n\n"]
    with pytest.raises(RemoteError, match="no JSON"):
        await write(start(one))


async def test_stopping_reaches_the_server(start, one):
    pool, deltas = start(one), []
    one.pieces = [chunk("word ")] * 100_000
    writing = asyncio.create_task(pool.write(ASK, deltas.append, lambda: None))
    await until(lambda: len(deltas) > 3)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await until(lambda: one.running == 0)
    assert one.gone == 1
    assert pool.backends[0].busy == 0


async def test_stopping_reaches_a_server_that_has_written_nothing(start, one):
    pool = start(one)
    one.waits = True
    writing = asyncio.create_task(write(pool))
    await until(lambda: one.running == 1)
    writing.cancel()
    await until(lambda: one.running == 0)
    assert one.gone == 1
