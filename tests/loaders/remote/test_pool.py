"""Several addresses as one: who is asked, what happens when one fails at each moment of a reply, and what is never done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
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
from modules.core.generation import ChatPrompt, Delta, GenerationRequest
from modules.core.messages import Message
from modules.loaders.remote.backend import FAULTS, Backend, Listed, Times
from modules.loaders.remote.options import server_from
from modules.loaders.remote.pool import Pool
from modules.loaders.remote.refusals import refusal
from modules.loaders.remote.requests import Ask
from tests.openai_upstream import Upstream, chunk, story

QUICK = Times(check_interval_s=0.05, check_s=0.3, connect_s=1.0, silence_s=5.0)
ASK = Ask(GenerationRequest(prompt=ChatPrompt(messages=(Message(role="user", content="Hi"),))), "tale", 3)
CHAT = "/v1/chat/completions"


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def begin(*upstreams: Upstream, **more: object) -> Pool:
        pools.append(Pool(server_from({"name": "gpu", "urls": [upstream.url for upstream in upstreams], **more}), QUICK))
        return pools[-1]

    yield begin
    for pool in pools:
        await pool.close()


@pytest.fixture
async def one() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def two() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


async def write(pool: Pool, ask: Ask = ASK, deltas: list[Delta] | None = None) -> str:
    """The whole text of a reply."""
    found: list[Delta] = [] if deltas is None else deltas
    await pool.write(ask, found.append, lambda: None)
    assert found[-1].finish_reason == "stop"
    return "".join(delta.text for delta in found)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


def preferring(pool: Pool, upstream: Upstream) -> Backend:
    """Make all other addresses look busier."""
    for backend in pool.backends:
        backend.busy = 0 if backend.url == upstream.url else 1
    return next(backend for backend in pool.backends if backend.url == upstream.url)


# ---- one address ---------------------------------------------------------------------------------------------------


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


# ---- several addresses ---------------------------------------------------------------------------------------------


async def test_another_address_answers_when_one_is_gone(start, one, two):
    pool = start(one, two)
    await pool.check()
    await one.stop()
    preferring(pool, one)
    assert await write(pool) == "Once upon a time"
    assert len(two.asked(CHAT)) == 1


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502, 503, 504])
async def test_another_address_answers_when_one_refuses(start, one, two, status):
    pool = start(one, two)
    await pool.check()
    one.status = status
    preferring(pool, one)
    assert await write(pool) == "Once upon a time"
    assert (len(one.asked(CHAT)), len(two.asked(CHAT))) == (1, 1)


async def test_what_is_wrong_with_the_request_is_not_tried_elsewhere(start, one, two):
    pool = start(one, two)
    await pool.check()
    one.status = two.status = 400
    with pytest.raises(InvalidRequest):
        await write(pool)
    assert len(one.asked(CHAT) + two.asked(CHAT)) == 1


async def test_another_address_answers_when_one_breaks_before_its_first_word(start, one, two):
    pool, deltas = start(one, two), []
    await pool.check()
    one.breaks_after = 1  # after the role, which nobody has seen
    preferring(pool, one)
    assert await write(pool, deltas=deltas) == "Once upon a time"
    assert len(two.asked(CHAT)) == 1


async def test_nobody_answers_again_once_a_word_was_passed_on(start, one, two):
    pool = start(one, two)
    await pool.check()
    one.breaks_after = 2
    preferring(pool, one)
    with pytest.raises(RemoteError, match="lost in the middle"):
        await write(pool)
    assert two.asked(CHAT) == []


async def test_a_reply_that_nobody_sees_before_its_end_is_begun_again(start, one, two):
    pool = start(one, two)
    await pool.check()
    one.breaks_after = 3
    preferring(pool, one)
    whole = Ask(ASK.request.model_copy(update={"whole": True}), "tale", 3)
    assert await write(pool, whole) == "Once upon a time"
    assert len(two.asked(CHAT)) == 1


async def test_who_waits_at_a_hung_address_goes_to_another(start, one, two):
    pool = start(one, two)
    await pool.check()
    preferring(pool, one)
    one.hangs = True
    assert await write(pool) == "Once upon a time"
    assert pool.backends[0].state == "down"
    assert pool.backends[0].busy == 0
    one.hangs = False
    await until(lambda: pool.backends[0].state == "up")


async def test_a_reply_in_the_middle_of_which_an_address_hangs_ends_with_a_sentence(start, one, two):
    pool, deltas = start(one, two), []
    await pool.check()
    preferring(pool, one)
    one.pieces = [chunk("word ")] * 100_000
    writing = asyncio.create_task(write(pool, deltas=deltas))
    await until(lambda: len(deltas) > 3)
    one.hangs = True
    with pytest.raises(RemoteError, match="lost in the middle of the reply.*its checks fail: nothing came in time"):
        await writing
    assert two.asked(CHAT) == []
    one.hangs = False
    await until(lambda: one.gone > 0)


async def test_a_slow_list_of_models_ends_no_reply_that_goes_on(start, one):
    """An address that sends text lives, even where its checks are not answered."""
    pool, deltas = start(one), []
    one.pieces = [chunk("word ")] * 1000 + story()
    writing = asyncio.create_task(write(pool, deltas=deltas))
    await until(lambda: len(deltas) > 3)
    one.list_hangs = True
    assert (await writing).endswith("a time")


async def test_an_address_that_fails_twice_is_left_alone_for_a_while(start, one, two):
    pool = start(one, two)
    await pool.check()
    one.status = 500
    for _ in range(6):
        preferring(pool, one)
        await write(pool)
    assert len(one.asked(CHAT)) == FAULTS
    two.status = 500
    with pytest.raises(RemoteError, match=r"“gpu” could not answer at any of its addresses. .*failed \(500\).*failed \(500\)"):
        await write(pool)
    assert len(one.asked(CHAT)) > FAULTS  # rather than refuse


async def test_an_address_that_is_back_is_used_at_once(start, one, two):
    pool = start(one, two)
    await pool.look()
    await one.stop()
    await until(lambda: pool.backends[0].state == "down")
    pool.backends[0].failed()
    pool.backends[0].failed()
    await one.start()
    await until(lambda: pool.backends[0].state == "up")
    preferring(pool, one)
    await write(pool)
    assert len(one.asked(CHAT)) == 1


async def test_many_share_the_addresses(start, one, two):
    pool = start(one, two)
    one.pieces = two.pieces = [chunk("a")] * 50 + story()
    await asyncio.gather(*(write(pool) for _ in range(8)))
    assert len(one.asked(CHAT)) == len(two.asked(CHAT)) == 4


async def test_one_model_under_several_names(start):
    async with Upstream(["org/tale-8B"]) as one, Upstream(["tale:8b"], owner="library") as two:
        pool = start(one, two, aliases={"tale": ["org/tale-8B", "tale:8b"]})
        await pool.check()
        assert pool.models() == {"tale": 512}
        assert pool.kinds() == ("vllm", "ollama")
        for upstream, name in ((one, "org/tale-8B"), (two, "tale:8b")):
            preferring(pool, upstream)
            await write(pool)
            (body,) = upstream.asked(CHAT)
            assert body["model"] == name
        assert "min_p" in one.asked(CHAT)[0]
        assert "min_p" not in two.asked(CHAT)[0]


async def test_short_answers_fail_over_too(start, one, two):
    pool = start(one, two)
    await pool.check()
    one.status, two.answer = 500, {"tokens": [1, 2]}
    preferring(pool, one)
    assert await pool.ask("tale", "/tokenize", lambda kind, name: {"model": name}) == {"tokens": [1, 2]}


async def test_nobody_is_asked_while_nobody_needs_it(start, one):
    pool = start(one)
    await write(pool)
    await until(lambda: not any(backend.busy for backend in pool.backends))
    await asyncio.sleep(0.2)
    before = len(one.requests)
    await asyncio.sleep(0.3)
    assert len(one.requests) == before


# ---- choosing ------------------------------------------------------------------------------------------------------

ADDRESS = st.fixed_dictionaries({
    "state": st.sampled_from(["up", "down", "refused", "unknown"]), "busy": st.integers(0, 3), "alone": st.booleans(), "has": st.booleans(), "tried": st.booleans(),
})  # fmt: skip


@given(addresses=st.lists(ADDRESS, min_size=1, max_size=5))
def test_the_least_busy_address_that_can_is_chosen(addresses):
    pool = Pool(server_from({"name": "gpu", "urls": [f"http://gpu:{8000 + n}" for n in range(len(addresses))]}))
    for backend, facts in zip(pool.backends, addresses, strict=True):
        backend.state, backend.busy = facts["state"], facts["busy"]
        backend.models = {"tale": Listed()} if facts["has"] else {"other": Listed()}
        if facts["alone"]:
            backend.leave_alone(60)
    tried = [backend for backend, facts in zip(pool.backends, addresses, strict=True) if facts["tried"]]
    able = [(facts["alone"], facts["busy"]) for facts in addresses if facts["state"] == "up" and facts["has"] and not facts["tried"]]
    chosen = pool.pick("tale", tried)
    if not able:
        assert chosen is None
        return
    facts = addresses[pool.backends.index(chosen)]
    assert (facts["state"], facts["has"], facts["tried"]) == ("up", True, False)
    assert (facts["alone"], facts["busy"]) == min(able)
