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
from tests.paddock_server import STARTER, PaddockServer, wait_for

LIMIT = 30
TEXT = "Once upon a time there was a heron"
COMPUTED = (  # every route that has a model compute something besides a reply of many tokens
    ("v1/completions", {"prompt": TEXT, "max_tokens": 1}),
    ("v1/internal/logits", {"prompt": TEXT + " who"}),
    ("v1/internal/logits", {"prompt": TEXT + " whose", "use_samplers": True}),
    ("v1/embeddings", {"input": TEXT}),
    ("api/embed", {"model": STARTER, "input": [TEXT, "an otter"]}),
    ("api/embeddings", {"model": STARTER, "prompt": TEXT}),
    ("api/generate", {"model": STARTER, "prompt": TEXT, "stream": False, "options": {"num_predict": 1}}),
    ("api/chat", {"model": STARTER, "messages": [{"role": "user", "content": TEXT}], "stream": False, "options": {"num_predict": 1}}),
    ("v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": TEXT}]}),
    ("v1/responses", {"input": TEXT, "max_output_tokens": 16}),
    ("ui/notebook/next", {"text": TEXT + " that", "count": 3}),
    ("ui/notebook/likelihood", {"text": TEXT + " there"}),
)


@pytest.fixture
def start(tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[object]:
    running: list[PaddockServer] = []

    def begin(limit: int = LIMIT, *flags: str) -> PaddockServer:
        running.append(PaddockServer(tmp_path, models_dir, loras_dir, "--daily-tokens", str(limit), *(flags or ("--no-ui",))))
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


def test_whatever_a_model_computes_is_counted_and_refused_beyond_the_limit(start) -> None:  # type: ignore[no-untyped-def]
    server = start(2000, "--ui")
    used = 0
    for path, body in COMPUTED:
        answer = server.http.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        before, used = used, server.ask("GET", "v1/internal/usage")["used_tokens"]
        assert used > before, path
    while used < 2000:
        with contextlib.suppress(openai.RateLimitError):  # the last of them may be ended on its way
            client_of(server).completions.create(model="", prompt=TEXT, max_tokens=400, extra_body={"ban_eos": True})
        before, used = used, server.ask("GET", "v1/internal/usage")["used_tokens"]
        assert used > before
    for path, body in COMPUTED:
        refused = server.http.post(path, json=body)
        assert refused.status_code == 429 and "Your limit of 2,000 tokens a day is reached" in refused.text, (path, refused.text)
        assert 0 < int(refused.headers["retry-after"]) <= 24 * 3600, path
    for path in ("v1/internal/encode", "v1/internal/token-count"):  # no model computes there
        assert server.ask("POST", path, {"text": TEXT})["length"] > 5


def test_a_look_at_the_next_token_costs_as_much_as_one_token_written(start) -> None:  # type: ignore[no-untyped-def]
    server = start(2000)
    costs = []
    for path in ("v1/completions", "v1/internal/logits"):
        before = server.ask("GET", "v1/internal/usage")["used_tokens"]
        server.ask("POST", path, {"prompt": f"{path[3]} {TEXT}", "max_tokens": 1})
        costs.append(server.ask("GET", "v1/internal/usage")["used_tokens"] - before)
    assert costs[0] == costs[1] > 5
