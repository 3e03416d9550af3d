"""Requests made up from our own OpenAPI description, right and wrong ones: an answer or a sentence, never a defect, a hang or a dead engine."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode

from tests.paddock_server import PaddockServer, wait_for

CASES = int(os.environ.get("PADDOCK_CASES", "0"))  # of a long run over the whole description, for instance 10,000
KEY = "the key of these requests"
WITH_KEY = (("authorization", f"Bearer {KEY}"),)
TIMEOUT_S = 20
DOCUMENTED = frozenset({502, 503, 507})  # no model, no memory, an engine that died
# Path, method, right or wrong requests and how many
OPERATIONS = (
    ("/v1/chat/completions", "POST", GenerationMode.POSITIVE, 40),
    ("/v1/chat/completions", "POST", GenerationMode.NEGATIVE, 50),
    ("/v1/completions", "POST", GenerationMode.POSITIVE, 40),
    ("/v1/completions", "POST", GenerationMode.NEGATIVE, 50),
    ("/v1/messages", "POST", GenerationMode.POSITIVE, 25),
    ("/v1/messages", "POST", GenerationMode.NEGATIVE, 25),
    ("/v1/messages/count_tokens", "POST", GenerationMode.POSITIVE, 10),
    ("/v1/responses", "POST", GenerationMode.POSITIVE, 25),
    ("/v1/responses", "POST", GenerationMode.NEGATIVE, 25),
    ("/v1/embeddings", "POST", GenerationMode.POSITIVE, 20),
    ("/v1/embeddings", "POST", GenerationMode.NEGATIVE, 20),
    ("/v1/internal/encode", "POST", GenerationMode.POSITIVE, 5),
    ("/v1/internal/decode", "POST", GenerationMode.POSITIVE, 10),
    ("/v1/internal/logits", "POST", GenerationMode.POSITIVE, 5),
    ("/v1/models", "GET", GenerationMode.POSITIVE, 1),
    ("/v1/models/{name}", "GET", GenerationMode.POSITIVE, 10),
    ("/v1/internal/counters", "GET", GenerationMode.POSITIVE, 5),
    ("/v1/internal/counters", "GET", GenerationMode.NEGATIVE, 5),
    ("/v1/internal/requests", "GET", GenerationMode.POSITIVE, 5),
    ("/v1/internal/chat-prompt", "POST", GenerationMode.POSITIVE, 15),
    ("/v1/internal/chat-prompt", "POST", GenerationMode.NEGATIVE, 15),
    ("/v1/internal/model/info", "GET", GenerationMode.POSITIVE, 5),
    ("/v1/internal/model/load", "POST", GenerationMode.NEGATIVE, 10),
    ("/v1/internal/stop-generation", "POST", GenerationMode.NEGATIVE, 5),
    ("/v1/internal/lora/load", "POST", GenerationMode.POSITIVE, 5),
    ("/v1/internal/adapters", "PUT", GenerationMode.NEGATIVE, 10),
    ("/v1/internal/jobs/train", "POST", GenerationMode.NEGATIVE, 10),
    ("/v1/internal/jobs/perplexity", "POST", GenerationMode.NEGATIVE, 10),
    ("/v1/internal/jobs/{job_id}", "GET", GenerationMode.POSITIVE, 5),
    ("/api/chat", "POST", GenerationMode.POSITIVE, 20),
    ("/api/chat", "POST", GenerationMode.NEGATIVE, 20),
    ("/api/generate", "POST", GenerationMode.POSITIVE, 20),
    ("/api/generate", "POST", GenerationMode.NEGATIVE, 20),
    ("/api/embed", "POST", GenerationMode.POSITIVE, 10),
    ("/api/show", "POST", GenerationMode.POSITIVE, 10),
    ("/v1/internal/usage", "GET", GenerationMode.POSITIVE, 5),
    ("/v1/internal/usage", "GET", GenerationMode.NEGATIVE, 5),
)
# What the long run leaves out: it would end the server, take the model away, begin long work, or is a page
LEFT_OUT = (
    ("/v1/internal/restart", "POST", None), ("/v1/internal/model/unload", "POST", None), ("/v1/internal/model/load", "POST", GenerationMode.POSITIVE),
    *((f"/v1/internal/jobs/{kind}", "POST", GenerationMode.POSITIVE) for kind in (
        "download", "train", "examine", "perplexity", "verify", "convert_adapter", "merge_adapter",
    )), ("/login", "GET", None), ("/login", "POST", None),
)  # fmt: skip
WRITING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/api/chat", "/api/generate"})
WRITING_WEIGHT = 8  # they take most of the cases
NEVER = ("keep_alive", "fit")  # would unload the model, and have the machine measured
CHOSEN = ("model", "preset", "prompt_template")  # names that do not exist; mostly left out, or nothing would get any further


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    """A server whose longest reply is short."""
    models = tmp_path_factory.mktemp("one") / "models"
    (models / "starter").mkdir(parents=True)
    shutil.copy(starter_gguf, models / "starter")
    flags = ("--no-ui", "--model", "starter/starter-Q8_0.gguf", "--option", "context_length=256", "--option", "slots=8", "--api-key", KEY)
    running = PaddockServer(tmp_path_factory.mktemp("asked"), models, loras_dir, *flags)
    running.http.headers.update(WITH_KEY)
    yield running
    running.close()


@pytest.fixture(scope="module")
def schema(asked: PaddockServer) -> Any:
    return schemathesis.openapi.from_url(f"{asked.url}v1/openapi.json", headers=dict(WITH_KEY))


def reaching(case: Case) -> Case:
    """The same request, in two of three cases without names that end it early."""
    if isinstance(case.body, dict):
        for name in CHOSEN:
            if isinstance(case.body.get(name), str) and len(case.body[name]) % 3 != 1:
                del case.body[name]
    for asked in (case.body, case.query):
        for name in NEVER if isinstance(asked, dict) else ():
            asked.pop(name, None)
    return case


def check(status: int, content_type: str, text: str) -> None:
    """An answer, or an error as a sentence."""
    assert status < 500 or status in DOCUMENTED, f"{status}: {text[:1000]}"
    if status >= 400:
        error = json.loads(text)["error"]
        if isinstance(error, str):  # as Ollama has it
            assert error.endswith((".", "…")), error
            return
        assert error["message"].endswith((".", "…")) and error["message"][0] not in "{[", error
        assert error["type"]
    elif content_type.startswith("text/event-stream"):
        for event in text.split("\n\n")[:-1]:  # the tool reads no more than the first hundred
            assert event == "data: [DONE]" or event.startswith(": waiting, place ") or json.loads(event.partition("data: ")[2])
    elif content_type.startswith("application/x-ndjson"):
        assert [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    else:
        json.loads(text)


def answers(operation: Any, mode: GenerationMode, count: int) -> list[int]:
    """Make up requests; the statuses of the answers."""

    @given(case=operation.as_strategy(generation_mode=mode).map(reaching))
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: Case) -> None:
        answer = case.call(timeout=TIMEOUT_S, headers=dict(WITH_KEY))
        statuses.append(answer.status_code)
        check(answer.status_code, answer.headers.get("content-type", [""])[0], answer.text)

    statuses: list[int] = []
    ask()
    return statuses


@pytest.mark.parametrize(("path", "method", "mode", "count"), OPERATIONS, ids=[f"{mode.value} {path}" for path, _, mode, _ in OPERATIONS])
def test_every_made_up_request_gets_an_answer(
    asked: PaddockServer, schema: Any, path: str, method: str, mode: GenerationMode, count: int
) -> None:
    operation = schema[path][method]
    engine = asked.engine().pid
    statuses, needs_a_good_one = answers(operation, mode, count), mode.is_positive and not operation.path_parameters
    for _ in range(3):  # by chance twenty may all ask for too much
        if needs_a_good_one and 200 not in statuses:
            statuses += answers(operation, mode, count)
    assert 200 in statuses or not needs_a_good_one, f"no request was good: {statuses}"
    assert asked.engine().pid == engine, "an engine died"
    assert asked.process.poll() is None and "Defect while answering" not in asked.log
    wait_for(lambda: asked.counters()["running"] + asked.counters()["waiting"] == 0, "nothing is left running")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"prompt": "\\ud800", "echo": true, "max_tokens": 2}', 200, "?"),
        (b'{"prompt": "\\ud800", "echo": true, "max_tokens": 2, "stream": true}', 200, "[DONE]"),
        (b'{"prompt": "x", "model": "\\ud800"}', 404, "There is no model “?”"),
        (b'{"prompt": [1' + b"0" * 30 + b"]}", 400, "is not in the vocabulary"),
        (b'{"prompt": "x", "temperature": NaN}', 400, "temperature: "),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 400, "Send JSON in UTF-8."),
        (b"[" * 10_000, 400, "Send JSON in UTF-8."),
        (b"[" * 100_000, 413, "lists and objects or more"),
        (b"\xff", 400, "Send JSON in UTF-8."),
        (b"", 400, "body: "),
    ],
)
def test_bodies_that_no_description_leads_to(asked: PaddockServer, body: bytes, status: int, words: str) -> None:
    answer = asked.http.post("v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and words in answer.text, answer.text
    check(status, answer.headers["content-type"], answer.text)


@pytest.mark.parametrize("depth", [20, 300])
def test_values_for_the_template_that_are_nested_deeply(asked: PaddockServer, depth: int) -> None:
    deep = json.loads("[" * depth + "]" * depth)
    called = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"deep": deep}}}]}
    messages = [{"role": "user", "content": "Hello"}, called, {"role": "user", "content": "So?"}]
    answer = asked.http.post("v1/chat/completions", json={"messages": messages, "chat_template_kwargs": {"deep": deep}, "max_tokens": 2})
    assert answer.status_code == (200 if depth < 100 else 400), answer.text
    assert depth < 100 or answer.json()["error"]["message"].endswith("Nest its values less deeply.")


def test_the_description_knows_every_error(schema: Any) -> None:
    for path, method, _, _ in OPERATIONS:
        responses = schema[path][method].definition.raw["responses"]
        assert {"default", "400", "404", "429", "502", "503", "507"} <= set(responses)
        assert "HTTPValidationError" not in json.dumps(responses), "the framework's own shape of errors is not ours"


def long_run(schema: Any) -> Iterator[tuple[Any, GenerationMode, int]]:
    """Every operation of the description that may be asked, in both modes where it takes anything; how much of the cases each gets."""
    for found in schema.get_all_operations():
        operation = found.ok()
        fields, takes = operation.body or operation.query, operation.body or operation.query or operation.path_parameters
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if fields else (GenerationMode.POSITIVE,):  # every text is a good path
            place = (operation.path, operation.method.upper())
            if not {(*place, None), (*place, mode)} & set(LEFT_OUT):
                yield operation, mode, WRITING_WEIGHT if operation.path in WRITING else 1 if takes else 0


@pytest.mark.skipif(not CASES, reason="a long run: set PADDOCK_CASES, for instance to 10000")
@pytest.mark.timeout(600 + 2 * CASES)
def test_a_long_run_over_the_whole_description(asked: PaddockServer, schema: Any) -> None:
    asking = list(long_run(schema))
    share = CASES / sum(weight for *_, weight in asking)
    engine, statuses, problems, begun_s = asked.engine().pid, Counter[int](), [], time.monotonic()
    for operation, mode, weight in asking:
        sys.stdout.write(f"{time.monotonic() - begun_s:5.0f} s {statuses.total():6} cases, now {mode.value} {operation.label}\n")
        sys.stdout.flush()
        try:
            statuses.update(answers(operation, mode, max(1, round(share * weight))))
        except Exception as problem:  # noqa: BLE001 - told below: one bad operation must not hide the others
            problems.append(f"{mode.value} {operation.label}: {problem!r}"[:3000])
            sys.stdout.write(f"{problems[-1]}\n")
        if asked.engine().pid != engine:
            problems.append(f"{mode.value} {operation.label}: the engine died")
            engine = asked.engine().pid
    wait_for(lambda: asked.counters()["running"] + asked.counters()["waiting"] == 0, "nothing is left running")
    sys.stdout.write(f"{sum(statuses.values())} cases over {len(asking)} kinds of request in {time.monotonic() - begun_s:.0f} s: {dict(sorted(statuses.items()))}\n")
    assert not problems, "\n\n".join(problems)
    assert asked.process.poll() is None and "Defect while answering" not in asked.log
