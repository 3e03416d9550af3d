"""Real servers behind a real server: one killed, one hung while clients send, stopping that reaches the one who writes.

The backends are Paddock itself and, where `PADDOCK_LLAMA_SERVER` names a binary, llama.cpp's own server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.live.conftest import async_client_of, client_of
from tests.paddock_server import (
    START_LIMIT_S,
    STARTER,
    PaddockServer,
    free_port,
    wait_for,
)

pytestmark = pytest.mark.processes

CLIENTS = 4
LLAMA_SERVER = os.environ.get("PADDOCK_LLAMA_SERVER", "")
QUESTION: list[Any] = [{"role": "user", "content": "What is a LoRA?"}]
STORY = {"ban_eos": True, "temperature": 0.7}


class LlamaServer:
    """llama.cpp's own server over the starter model."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        log = (folder / f"llama-{self.port}.log").open("wb")
        command = [LLAMA_SERVER, "-m", str(model), "--port", str(self.port), "--alias", "starter", "-np", "4", "-c", "2048", "-t", "1", "--slots"]
        environ = {**os.environ, "LD_LIBRARY_PATH": str(Path(LLAMA_SERVER).parent)}
        self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)
        wait_for(self.ready, "llama-server answers", START_LIMIT_S)

    def ready(self) -> bool:
        assert self.process.poll() is None, "llama-server ended"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}health").status_code == 200
        return False

    def running(self) -> int:
        """Replies being written there."""
        return sum(bool(slot["is_processing"]) for slot in httpx.get(f"{self.url}slots").json())

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


Backend = PaddockServer | LlamaServer


@pytest.fixture
def backends(request: pytest.FixtureRequest, tmp_path: Path, models_dir: Path, loras_dir: Path, starter_gguf: Path) -> Iterator[list[Backend]]:
    """Two servers of one kind over the starter model."""
    if request.param == "llama-server" and not LLAMA_SERVER:
        pytest.skip("set PADDOCK_LLAMA_SERVER to llama.cpp's llama-server to test against it")
    running: list[Backend] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        if request.param == "llama-server":
            running.append(LlamaServer(tmp_path / name, starter_gguf))
        else:
            running.append(PaddockServer(tmp_path / name, models_dir, loras_dir, "--no-ui", "--option", "threads=1"))
    yield running
    for backend in running:
        backend.process.send_signal(signal.SIGCONT)
        backend.close()


@pytest.fixture
def front(tmp_path: Path, models_dir: Path, loras_dir: Path, backends: list[Backend]) -> Iterator[PaddockServer]:
    """A server without a model of its own, with both as one pool."""
    kept = [{"name": "pool", "urls": [backend.url for backend in backends]}]
    (tmp_path / "front" / "state").mkdir(parents=True)
    (tmp_path / "front" / "state" / "remote_servers.json").write_text(json.dumps(kept))
    running = PaddockServer(tmp_path / "front", models_dir, loras_dir, "--no-ui", "--model", "none", model="")
    yield running
    running.close()


@pytest.fixture
def model(backends: list[Backend]) -> str:
    return "remote/pool/" + (STARTER if isinstance(backends[0], PaddockServer) else "starter")


BOTH = pytest.mark.parametrize("backends", ["paddock", "llama-server"], indirect=True)


async def send(client: openai.AsyncOpenAI, model: str, until_s: float, *, stream: bool) -> list[str]:
    """Ask again and again; what each question came to: a text, "half: " and a sentence, or "failed: " and one."""
    found = []
    while time.monotonic() < until_s:
        text = ""
        try:
            if stream:
                answer = await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=40, temperature=0, stream=True)
                async for piece in answer:
                    text += (piece.choices[0].delta.content or "") if piece.choices else ""
            else:
                whole = await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=40, temperature=0)
                text = whole.choices[0].message.content or ""
            found.append(text)
        except openai.APIError as error:
            found.append(("half: " if text else "failed: ") + error.message)
    return found


async def send_while(front: PaddockServer, model: str, seconds: float, what: Any) -> list[str]:
    """Four clients send, two of them with streams; `what()` happens in their middle."""
    async with async_client_of(front) as client:
        await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=2)
        end_s = time.monotonic() + seconds
        tasks = [asyncio.create_task(send(client, model, end_s, stream=number % 2 == 0)) for number in range(CLIENTS)]
        await asyncio.sleep(seconds / 4)
        what()
        return [text for texts in await asyncio.gather(*tasks) for text in texts]


def check(found: list[str]) -> None:
    """All good texts are the same, none failed, and half ones say what happened."""
    failed = [text for text in found if text.startswith("failed: ")]
    half = [text for text in found if text.startswith("half: ")]
    good = [text for text in found if text not in failed and text not in half]
    assert failed == []
    assert len(half) <= CLIENTS / 2
    assert all("was lost in the middle of the reply; the text so far is kept" in text for text in half)
    assert len(good) > CLIENTS
    assert len(set(good)) == 1
    assert "LoRA" in good[0]


@BOTH
async def test_no_request_fails_when_one_is_killed(front: PaddockServer, model: str, backends: list[Backend]) -> None:
    check(await send_while(front, model, 6, backends[0].process.kill))


@BOTH
async def test_no_request_fails_when_one_hangs(front: PaddockServer, model: str, backends: list[Backend]) -> None:
    began_s = time.monotonic()
    found = await send_while(front, model, 12, lambda: backends[0].process.send_signal(signal.SIGSTOP))
    check(found)
    assert time.monotonic() - began_s < 40  # nobody waited for it until a time-out of minutes


@BOTH
def test_stopping_reaches_the_one_who_writes(front: PaddockServer, model: str, backends: list[Backend]) -> None:
    def running() -> int:
        return sum(backend.counters()["running"] if isinstance(backend, PaddockServer) else backend.running() for backend in backends)

    with client_of(front) as client:
        answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=900, stream=True, extra_body=STORY)
        for _, piece in zip(range(3), answer, strict=False):
            assert piece.choices
        answer.close()
    wait_for(lambda: running() == 0, "the backend has stopped")
    assert front.counters()["cancelled"] == 1
    if isinstance(backends[0], PaddockServer):
        assert sum(backend.counters()["cancelled"] for backend in backends if isinstance(backend, PaddockServer)) == 1
    wait_for(lambda: front.counters()["running"] == 0, "nothing runs any more")


@BOTH
def test_all_parameters_of_the_page_are_taken(front: PaddockServer, model: str, backends: list[Backend]) -> None:
    everything = {
        "top_k": 40, "min_p": 0.05, "typical_p": 0.95, "top_n_sigma": 2, "xtc_probability": 0.1, "dry_multiplier": 0.5, "dry_range": 64,
        "repetition_penalty": 1.1, "penalty_range": 64, "dynamic_temperature_range": 0.2, "logit_bias": {"5": 1.0}, "banned_tokens": [7],
        "sampler_order": ["top_k", "min_p", "temperature"], "seed": 2**40,
    }  # fmt: skip
    with client_of(front) as client:
        texts = []
        for _ in range(2):
            answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=12, stop=["zzz"], extra_body=everything)
            texts.append(answer.choices[0].message.content)
            assert answer.usage is not None
            assert answer.usage.completion_tokens > 0
            assert answer.usage.prompt_tokens > 5
        assert texts[0] == texts[1]
        text = client.completions.create(model=model, prompt="Once upon a", max_tokens=3, temperature=0, logprobs=2)
        assert text.choices[0].finish_reason == "length"
        assert text.choices[0].logprobs is not None
        assert len(text.choices[0].logprobs.top_logprobs[0]) == 2


@pytest.mark.parametrize("backends", ["paddock"], indirect=True)
def test_all_gone_is_a_sentence_and_not_a_wait(front: PaddockServer, model: str, backends: list[Backend]) -> None:
    with client_of(front) as client:
        client.chat.completions.create(model=model, messages=QUESTION, max_tokens=2)
        for backend in backends:
            backend.process.kill()
            backend.process.wait()
        began_s = time.monotonic()
        with pytest.raises(openai.APIStatusError, match="(?s)could not answer at any of its addresses.*does not answer.*does not answer") as refused:
            client.chat.completions.create(model=model, messages=QUESTION, max_tokens=2)
        assert refused.value.status_code == 502
        assert time.monotonic() - began_s < 20
        listed = {row.id: row for row in client.models.list()}
        assert listed[model].owned_by == ", ".join(f"localhost:{backend.port}" for backend in backends)




@BOTH
def test_a_reply_is_continued_and_not_sent_twice(front: PaddockServer, model: str, backends: list[Backend]) -> None:
    messages: list[Any] = [*QUESTION, {"role": "assistant", "content": "A LoRA is a small"}]
    with client_of(front) as client:
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0, extra_body={"continue_final_message": True})
    text = answer.choices[0].message.content or ""
    assert text.strip()
    assert "A LoRA is" not in text
