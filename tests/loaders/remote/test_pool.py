"""Several addresses as one: who is asked, what happens when one fails at each moment of a reply, and what is never done."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest, RemoteError
from modules.loaders.remote.backend import FAULTS, Listed
from modules.loaders.remote.options import server_from
from modules.loaders.remote.pool import Pool
from modules.loaders.remote.requests import Ask
from tests.loaders.remote.pool_steps import ASK, CHAT, preferring, until, write
from tests.openai_upstream import Upstream, chunk, story


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
