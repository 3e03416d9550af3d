"""Usage and a daily limit on a real server: what a program is told, and that a server killed without warning forgets little of it."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.live.conftest import client_of
from tests.paddock_server import PaddockServer, wait_for

LIMIT = 30


@pytest.fixture
def start(tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[object]:
    running: list[PaddockServer] = []

    def begin() -> PaddockServer:
        running.append(PaddockServer(tmp_path, models_dir, loras_dir, "--no-ui", "--daily-tokens", str(LIMIT)))
        return running[-1]

    yield begin
    for one in running:
        one.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a process there cannot be killed in this way")
def test_a_limit_holds_for_the_day_also_when_the_server_was_killed(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    server = start()
    client = client_of(server)
    answer = client.completions.create(model="", prompt="Once upon a time", max_tokens=LIMIT, extra_body={"ban_eos": True})
    assert answer.usage is not None
    told = server.ask("GET", "v1/internal/usage")
    assert (told["used_tokens"], told["limit_tokens"]) == (answer.usage.total_tokens, LIMIT)
    (row,) = told["rows"]
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (1, answer.usage.prompt_tokens, LIMIT)
    assert row["compute_s"] > 0
    with pytest.raises(openai.RateLimitError, match=f"Your limit of {LIMIT} tokens a day is reached") as caught:
        client.completions.create(model="", prompt="Once", max_tokens=1)
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 24 * 3600
    assert caught.value.type == "insufficient_quota"

    def written() -> bool:
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / "paddock.sqlite3")) as connection:
            return bool(connection.execute("SELECT COUNT(*) FROM usage").fetchone()[0])

    wait_for(written, "it is written")
    for child in [*server.children(), server.process]:
        child.kill()
    server.process.wait()
    again = start()
    assert again.ask("GET", "v1/internal/usage")["rows"] == [row]
    with pytest.raises(openai.RateLimitError, match="is reached"):
        client_of(again).chat.completions.create(model="", messages=[{"role": "user", "content": "Hi"}])
