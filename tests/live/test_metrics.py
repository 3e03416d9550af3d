"""Metrics of a running server, read strictly: they need the key, hold hostile names, and say what requests just did."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from modules.core.generation import figures
from tests.exposition import Samples, labelled, read_exposition
from tests.paddock_server import ROOT, STARTER, PaddockServer

KEY = "a-key-of-this-test"
HOSTILE = 'we"ird {le="1"} 5 # TYPE ünï.gguf'
TALK = {"messages": [{"role": "user", "content": "What is a LoRA?"}], "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    """A server with a key, and a model with a bad name."""
    models = tmp_path_factory.mktemp("hostile") / "models"
    models.mkdir()
    shutil.copy(starter_gguf, models / HOSTILE)
    running = PaddockServer(tmp_path_factory.mktemp("guarded"), models, loras_dir, "--no-ui", "--model", HOSTILE, "--api-key", KEY, model=HOSTILE)
    running.http.headers["authorization"] = f"Bearer {KEY}"
    yield running
    running.close()


def scraped(server: PaddockServer) -> Samples:
    answer = server.http.get("metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read_exposition(answer.text)


def test_who_has_no_key_reads_no_metrics(guarded: PaddockServer) -> None:
    for path in ("metrics", "v1/internal/requests", "api/tags", "v1/docs"):
        assert httpx.get(f"{guarded.url}{path}").status_code == 401
    assert guarded.http.get("metrics", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert guarded.http.get("metrics", headers={"host": "evil.example"}).status_code == 421


def test_what_requests_did_is_counted(guarded: PaddockServer) -> None:
    before = scraped(guarded)
    whole = guarded.ask("POST", "v1/chat/completions", TALK)["usage"]
    again = guarded.ask("POST", "v1/chat/completions", TALK)["usage"]
    assert guarded.http.post("v1/completions", json={"prompt": "x " * 9000}).status_code == 400
    assert guarded.http.get("v1/nowhere/at/all").status_code == 404
    after = scraped(guarded)

    def grown(name: str, **labels: str) -> float:
        key = labelled(name, **labels)
        return after[key] - before.get(key, 0)

    of_model = {"model": HOSTILE}
    assert grown("paddock_engine_decode_tokens_total", **of_model) == whole["completion_tokens"] + again["completion_tokens"]
    assert grown("paddock_engine_reused_tokens_total", **of_model) == again["prompt_tokens_details"]["cached_tokens"] == whole["prompt_tokens"] - 1
    assert grown("paddock_engine_prefill_tokens_total", **of_model) == whole["prompt_tokens"] + 1
    assert grown("paddock_requests_total", **of_model, outcome="length") == 2
    assert grown("paddock_requests_refused_total", kind="ContextOverflow") == 1
    for name in ("time_to_first_token", "time_per_output_token", "queue_time", "prefill_time", "longest_gap"):
        assert grown(f"paddock_{name}_seconds_count", **of_model) == 2
    assert grown("paddock_prefill_time_seconds_sum", **of_model) > 0
    assert grown("paddock_http_requests_total", route="/v1/chat/completions", status="200") == 2
    assert grown("paddock_http_requests_total", route="/v1/completions", status="400") == 1
    assert grown("paddock_http_requests_total", route="none", status="404") == 1
    assert after[labelled("paddock_engine_running", **of_model)] == after[labelled("paddock_engine_waiting", **of_model)] == 0
    assert after[labelled("paddock_engine_cached_tokens", **of_model)] > 0
    assert after[labelled("paddock_engine_resident_memory_bytes", **of_model)] > 10 << 20
    assert after[labelled("process_resident_memory_bytes")] > 10 << 20
    assert after[labelled("paddock_engine_load_memory_bytes", **of_model)] > 1 << 20
    assert [after[labelled("paddock_models", state=state)] for state in ("loaded", "asleep", "loading")] == [1, 0, 0]
    assert grown("paddock_uptime_seconds") > 0
    assert after[labelled("paddock_jobs", kind="download", status="running")] == 0
    documented = set(re.findall(r"`((?:paddock|process)_\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    assert documented - {"paddock_engine_graphics_memory_bytes"} <= {name.removesuffix("_bucket") for name, _ in after}
    assert {name for name, _ in after} >= {f"paddock_engine_{one.name}{'_total' if one.kind == 'counter' else ''}" for one in figures()}


def test_requests_that_ended_are_listed_with_their_times(guarded: PaddockServer) -> None:
    usage = guarded.ask("POST", "v1/chat/completions", TALK)["usage"]
    newest = guarded.http.get("v1/internal/requests", params={"model": HOSTILE}).json()["requests"][0]
    assert (newest["model"], newest["outcome"]) == (HOSTILE, "length")
    assert (newest["prompt_tokens"], newest["completion_tokens"]) == (usage["prompt_tokens"], 12)
    assert newest["timings"] == usage["timings"]
    assert newest["first_token_ms"] >= usage["timings"]["queue_ms"] + usage["timings"]["prompt_ms"]
    assert guarded.http.get("v1/internal/requests", params={"model": "no such"}).json() == {"now": [], "requests": []}


# ---- what a second turn reuses -------------------------------------------------------------------------------------


def chat(client: openai.OpenAI, messages: list[dict[str, str]], **more: Any) -> tuple[str, Any]:
    """Text and usage of an answer, streamed or whole."""
    asked = {"model": STARTER, "messages": messages, "temperature": 0, "max_tokens": 10, "extra_body": {"ban_eos": True}, **more}
    if not more.get("stream"):
        answer = client.chat.completions.create(**asked)
        return answer.choices[0].message.content, answer.usage
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks[-1].usage


def complete(client: openai.OpenAI, prompt: str, **more: Any) -> tuple[str, Any]:
    asked = {"model": STARTER, "prompt": prompt, "temperature": 0, "max_tokens": 10, "extra_body": {"ban_eos": True}, **more}
    if not more.get("stream"):
        answer = client.completions.create(**asked)
        return answer.choices[0].text, answer.usage
    chunks = list(client.completions.create(**asked, stream_options={"include_usage": True}))
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices), chunks[-1].usage


def check(first: Any, second: Any) -> None:
    """The second turn reused the first one's prompt at least, and says so in both ways."""
    cached = second.prompt_tokens_details.cached_tokens
    assert first.prompt_tokens <= cached < second.prompt_tokens
    assert (second.timings["cache_n"], second.timings["prompt_n"]) == (cached, second.prompt_tokens - cached)
    assert second.timings["predicted_n"] == second.completion_tokens == 10
    assert second.timings["predicted_ms"] >= second.timings["longest_gap_ms"] > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_second_turn_of_a_chat_says_what_it_reused(client: openai.OpenAI, stream: bool) -> None:
    messages = [{"role": "user", "content": f"Say something about metrics, {'streamed' if stream else 'whole'}."}]
    text, first = chat(client, messages, stream=stream)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And more."}]
    check(first, chat(client, messages, stream=stream)[1])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_second_turn_of_a_text_says_what_it_reused(client: openai.OpenAI, stream: bool) -> None:
    prompt = f"Once upon a time, {'streamed' if stream else 'whole'}, there was"
    text, first = complete(client, prompt, stream=stream)
    check(first, complete(client, f"{prompt}{text} and then", stream=stream)[1])
