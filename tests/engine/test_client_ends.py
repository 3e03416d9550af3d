from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from modules.core.errors import (
    EngineCrashed,
    LoadFailed,
    NoModelLoaded,
    OutOfMemory,
)
from modules.core.model import Adapter, AdapterChoice
from modules.engine.client import EngineClient
from tests.engine.client_steps import COMMAND, ENDLESS, ids_of, text
from tests.fakes import solo

pytestmark = pytest.mark.processes

# ---- ends of the process -------------------------------------------------------------------------------------------


async def test_kill_9_ends_generations_with_a_sentence_and_keeps_the_text_so_far(start):
    reasons = []
    client = await start({"on_exit": reasons.append}, step_s=0.01)
    generation = await client.submit(text("a", ENDLESS))
    waiting_for_answer = asyncio.create_task(client.score(list(range(50))))
    got: list[int] = []
    killed_s = 0.0
    with pytest.raises(EngineCrashed, match="Tiny ended unexpectedly .killed by signal 9, SIGKILL.*text so far is kept"):
        async for delta in generation:
            got += delta.token_ids
            if len(got) >= 5 and not killed_s:
                killed_s = time.monotonic()
                os.kill(client.pid, signal.SIGKILL)
    assert time.monotonic() - killed_s < 1
    assert got == solo([256, 97], len(got))
    assert not client.alive
    assert len(reasons) == 1
    with pytest.raises(EngineCrashed):
        await client.submit(text("b"))
    await asyncio.gather(waiting_for_answer, return_exceptions=True)


async def test_a_stopped_process_is_killed_when_it_gives_no_sign_of_life(start):
    client = await start({"heartbeat_timeout_s": 1.5}, step_s=0.01)
    generation = await client.submit(text("a", ENDLESS))
    await generation.__anext__()
    os.kill(client.pid, signal.SIGSTOP)
    begun_s = time.monotonic()
    with pytest.raises(EngineCrashed, match="no sign of life for 1.5 s"):
        await ids_of(generation)
    assert time.monotonic() - begun_s < 4


async def test_a_hanging_step_is_killed_though_the_process_still_beats(start):
    client = await start({"step_timeout_s": 1.0})
    with pytest.raises(EngineCrashed, match="a step took longer than 1 s"):
        await ids_of(await client.submit(text("hang!")))


async def test_closing_says_that_the_model_was_unloaded(start):
    reasons = []
    client = await start({"on_exit": reasons.append}, step_s=0.01)
    generation = await client.submit(text("a", ENDLESS))
    await generation.__anext__()
    await client.close()
    with pytest.raises(NoModelLoaded, match="unloaded"):
        await ids_of(generation)
    assert reasons == []
    assert client._child.returncode == 0


async def test_closing_a_hung_process_does_not_take_longer_than_the_grace(start):
    client = await start()
    await client.submit(text("hang!"))
    begun_s = time.monotonic()
    await client.close(grace_s=0.5)
    assert time.monotonic() - begun_s < 3
    assert not client.alive


def test_a_child_ends_when_its_parent_is_killed(root):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.02)
    parent.stdout.close()


PARENT = """
import asyncio, sys, time
from modules.engine.client import EngineClient
async def main():
    client = await EngineClient.start("x", "", {}, command=(sys.executable, "-m", "tests.engine.fake_child"))
    print(client.pid, flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = f"/proc/{pid}/stat"
    if os.path.exists(status):  # noqa: PTH110 - a dead child of a dead parent may wait as a zombie for init
        with open(status) as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    return True


# ---- loading -------------------------------------------------------------------------------------------------------


async def test_a_load_that_fails_says_why_in_the_childs_words():
    with pytest.raises(OutOfMemory, match="Tiny needs 10 GB") as caught:
        await EngineClient.start("x", "", {"fail": True}, name="Tiny", command=COMMAND)
    assert caught.value.details["needed"] == 10
    with pytest.raises(LoadFailed, match="KeyError: 'layer 7'"):
        await EngineClient.start("x", "", {"surprise": True}, name="Tiny", command=COMMAND)


async def test_a_crash_while_loading_names_the_signal_and_the_last_words(tmp_path):
    log_path = tmp_path / "logs" / "engine.log"
    with pytest.raises(LoadFailed, match=r"signal 6, SIGABRT.*Its last words: “.*GGML_ASSERT\(n_layer > 0\) failed”"):
        await EngineClient.start("x", "", {"signal": int(signal.SIGABRT)}, name="Tiny", command=COMMAND, log_path=log_path)
    assert "a library prints to standard output" in log_path.read_text()


async def test_a_load_has_a_time_limit():
    with pytest.raises(LoadFailed, match="longer than 1.5 s, the limit"):
        await EngineClient.start("x", "", {"slow": True}, name="Tiny", command=COMMAND, load_timeout_s=1.5)


async def test_a_child_that_speaks_nonsense_is_ended():
    command = (sys.executable, "-c", "print('hello there'); import time; time.sleep(100)")
    with pytest.raises(LoadFailed, match="it sent nonsense"):
        await EngineClient.start("x", "", {}, name="Tiny", command=command)


async def test_adapters_are_all_or_nothing_and_running_replies_go_on(start):
    client = await start(step_s=0.005)
    await client.set_adapters([Adapter(path="good", scale=1)])
    assert client.card.adapters == (AdapterChoice(name="good"),)
    assert await ids_of(await client.submit(text("b"))) == [65] * 20
    with pytest.raises(OutOfMemory, match="No room for the adapter"):
        await client.set_adapters([Adapter(path="bad", scale=-1)])
    assert client.card.adapters == (AdapterChoice(name="good"),)
    assert await ids_of(await client.submit(text("c"))) == [65] * 20
