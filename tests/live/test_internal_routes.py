"""What API clients do beyond asking a model: load and unload, adapters, jobs, the prompt of a conversation, stopping. Shapes of TextGen's clients included."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.services.jobs import JOB_KINDS
from tests.e2e.adapter_files import write_adapter
from tests.hub.hub_server import HubServer
from tests.paddock_server import STARTER, PaddockServer, wait_for

OTHER = "other.gguf"
TALK: dict[str, Any] = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a LoRA?"}], "temperature": 0, "max_tokens": 12}
ENDLESS: dict[str, Any] = {"prompt": "Once", "ban_eos": True, "max_tokens": 4000, "stream": True}
WEIGHTS = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    running = HubServer().start()
    running.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path, starter_dir: Path, hub: HubServer) -> Iterator[PaddockServer]:
    """A server of its own: two models, an adapter, a hub."""
    folder = tmp_path_factory.mktemp("managed")
    models, loras = folder / "models", folder / "loras"
    (models / "starter").mkdir(parents=True)
    shutil.copy(starter_gguf, models / "starter")
    shutil.copy(starter_gguf, models / OTHER)
    write_adapter(loras / "odd", starter_dir, rank=4)
    running = PaddockServer(folder, models, loras, "--no-ui", "--model", STARTER, "--option", "slots=4", "--hub-endpoint", hub.endpoint)
    yield running
    running.close()


def info(server: PaddockServer, **asked: str) -> dict[str, Any]:
    return dict(server.http.get("v1/internal/model/info", params=asked).raise_for_status().json())


def refused(server: PaddockServer, path: str, body: Any, status: int) -> str:
    answer = server.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_the_prompt_of_a_conversation_is_the_one_that_is_answered(managed: PaddockServer) -> None:
    seen = managed.ask("POST", "v1/internal/chat-prompt", TALK)
    assert "Be brief." in seen["prompt"] and seen["length"] == len(seen["token_ids"]) == len(seen["tokens"])
    assert "".join(token["text"] for token in seen["tokens"]) == seen["prompt"]
    assert {token["message"] for token in seen["tokens"]} == {None, 0, 1}
    assert (seen["template"]["origin"], seen["template"]["name"], seen["model"]) == ("GGUF metadata", "", STARTER)
    answer = managed.ask("POST", "v1/chat/completions", TALK)
    assert answer["usage"]["prompt_tokens"] == seen["length"]
    again = managed.ask("POST", "v1/completions", {"prompt": seen["token_ids"], "temperature": 0, "max_tokens": 12})
    assert again["choices"][0]["text"] == answer["choices"][0]["message"]["content"]
    chosen = managed.ask("POST", "v1/internal/chat-prompt", {**TALK, "prompt_template": "ChatML"})
    assert chosen["prompt"].startswith("<s><|im_start|>system") and chosen["template"]["name"] == "ChatML"
    assert "prompt template" in refused(managed, "v1/internal/chat-prompt", {**TALK, "prompt_template": "none such"}, 404)


def test_a_character_speaks_where_one_is_named(managed: PaddockServer) -> None:
    asked = {"messages": [{"role": "user", "content": "Who are you?"}], "character": "Example", "max_tokens": 5}
    seen = managed.ask("POST", "v1/internal/chat-prompt", asked)["prompt"]
    assert "Mira Voss keeps the lighthouse" in seen and "{{char}}" not in seen
    told = managed.ask("POST", "v1/internal/chat-prompt", {**asked, "mode": "chat-instruct", "chat_instruct_command": "Go on as {{char}}: {{prompt}}"})["prompt"]
    assert "Go on as Mira Voss: " in told and "User: Who are you?" in told
    assert managed.ask("POST", "v1/chat/completions", asked)["usage"]["prompt_tokens"] > 100
    assert "none such" in refused(managed, "v1/chat/completions", {**asked, "character": "none such"}, 404)


def test_samplers_act_on_the_next_tokens_when_asked(managed: PaddockServer) -> None:
    plain = managed.ask("POST", "v1/internal/logits", {"prompt": "A LoRA is", "top_logits": 5})["logits"]
    cut = managed.ask("POST", "v1/internal/logits", {"prompt": "A LoRA is", "top_logits": 5, "use_samplers": True, "top_k": 2, "seed": -1, "tfs": 1})["logits"]
    assert list(cut) == list(plain)[:2] and sum(cut.values()) == pytest.approx(1)


@pytest.mark.parametrize("by_id", [True, False], ids=["by its id", "all"])
def test_what_is_written_is_stopped(managed: PaddockServer, by_id: bool) -> None:
    with managed.http.stream("POST", "v1/completions", json=ENDLESS) as answer:
        lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
        first = next(lines)
        (row,) = managed.ask("GET", "v1/internal/requests")["now"]
        assert (row["id"], row["model"], row["status"], row["place"]) == (first["id"], STARTER, "running", None)
        assert "none-of-ours" in refused(managed, "v1/internal/stop-generation", {"id": "none-of-ours"}, 404)
        stopped = managed.http.post("v1/internal/stop-generation", json={"id": first["id"]} if by_id else None)
        assert stopped.json() == "OK"
        assert [piece["choices"][0]["finish_reason"] for piece in lines][-1] == "stop"
    assert managed.ask("GET", "v1/internal/requests")["now"] == []
    wait_for(lambda: managed.counters()["running"] == 0, "its slot is free")


DIALECTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("v1/messages", {"messages": TALK["messages"][1:], "max_tokens": 900, "ban_eos": True, "stream": True}, "message"),
    ("v1/responses", {"input": "Once", "max_output_tokens": 900, "ban_eos": True, "stream": True}, "response"),
)


@pytest.mark.parametrize(("path", "body", "name"), DIALECTS, ids=[path for path, _, _ in DIALECTS])
def test_answers_of_other_dialects_are_stopped_by_their_ids(managed: PaddockServer, path: str, body: dict[str, Any], name: str) -> None:
    with managed.http.stream("POST", path, json=body) as answer:
        lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
        answer_id = next(lines)[name]["id"]
        assert [row["id"] for row in managed.ask("GET", "v1/internal/requests")["now"]] == [answer_id]
        assert managed.ask("POST", "v1/internal/stop-generation", {"id": answer_id}) == "OK"
        assert list(lines)[-1]["type"] in ("message_stop", "response.completed")


def test_adapters_are_put_on_and_taken_off(managed: PaddockServer) -> None:
    assert managed.ask("GET", "v1/internal/lora/list") == {"lora_names": ["odd"]}
    assert managed.ask("POST", "v1/internal/lora/load", {"lora_names": ["odd"], "scales": [0.5]}) == "OK"
    assert info(managed)["lora_names"] == ["odd"]
    assert managed.ask("GET", "v1/internal/adapters")["in_use"] == [{"name": "odd", "scale": 0.5}]
    assert managed.ask("POST", "v1/internal/lora/unload") == "OK"
    assert info(managed)["lora_names"] == []
    assert managed.ask("PUT", "v1/internal/adapters", {"adapters": [{"name": "odd"}]})["in_use"] == [{"name": "odd", "scale": 1.0}]
    assert managed.ask("PUT", "v1/internal/adapters", {"adapters": []})["in_use"] == []
    assert "none such" in refused(managed, "v1/internal/lora/load", {"lora_names": ["none such"]}, 404)
    assert "each adapter once" in refused(managed, "v1/internal/lora/load", {"lora_names": ["odd", "odd"]}, 400)
    assert "scale" in refused(managed, "v1/internal/lora/load", {"lora_names": ["odd"], "scales": [9]}, 400)


def test_a_model_is_loaded_with_options_and_unloaded(managed: PaddockServer) -> None:
    assert managed.ask("GET", "v1/internal/model/list") == {"model_names": [OTHER, STARTER]}
    wanted = {"model_name": OTHER, "args": {"loader": "llamacpp", "n_ctx": 512, "slots": 2, "flash_attn": True, "no_mmap": True}, "settings": {"instruction_template": "ChatML"}}
    assert managed.ask("POST", "v1/internal/model/load", wanted) == "OK"
    try:
        found = info(managed)
        assert (found["model_name"], found["loader"], found["template"], found["loaded"]) == (OTHER, "llama.cpp", "ChatML", [OTHER])
        assert (found["options"]["context_length"], found["options"]["slots"], found["options"]["flash_attention"], found["options"]["mmap"]) == (512, 2, "on", "off")
        assert found["engine"]["context_length"] == 512 and found["loading"] is None and found["memory"]["total_bytes"] > 0
        assert found["model"]["architecture"] and found["library"]["used_s"] > 0 and found["sha256"] is None and found["fit"] is None
        assert "path" not in found["model"]
        assert "n_ctxx" in refused(managed, "v1/internal/model/load", {"model_name": OTHER, "args": {"n_ctxx": 1}}, 400)
        assert "no loader" in refused(managed, "v1/internal/model/load", {"model_name": OTHER, "args": {"loader": "ExLlamaV3"}}, 404)
        assert "There is no model" in refused(managed, "v1/internal/model/load", {"model_name": "none such"}, 404)
        assert info(managed)["options"]["context_length"] == 512  # what was refused changed nothing
        assert managed.ask("POST", "v1/internal/model/unload") == "OK"
        nothing = info(managed)
        assert (nothing["model_name"], nothing["lora_names"], nothing["loaded"], nothing["model"]) == ("None", [], [], None)
        assert info(managed, model=OTHER)["options"]["context_length"] == 512  # as the next load would be
        assert "is not loaded" in refused(managed, "v1/internal/model/unload", {"model_name": OTHER}, 404)
        assert managed.ask("POST", "v1/internal/model/load", {"model_name": OTHER, "instruction_template": ""}) == "OK"
        again = info(managed)
        assert (again["options"]["context_length"], again["template"]) == (512, "")
    finally:
        managed.ask("POST", "v1/internal/model/load", {"model_name": STARTER})
    assert managed.ask("GET", "v1/internal/health") == {"status": "ok"}


def test_a_load_is_seen_while_it_goes_on(managed: PaddockServer) -> None:
    managed.ask("POST", "v1/internal/model/unload")
    with ThreadPoolExecutor(1) as other:
        loading = other.submit(managed.ask, "POST", "v1/internal/model/load", {"model_name": STARTER, "args": {"slots": 4}})
        engine = wait_for(lambda: next(iter(managed.children()), None), "the engine's process has begun")
        engine.suspend()  # no load ends meanwhile
        try:
            seen = info(managed)
        finally:
            engine.resume()
        assert loading.result() == "OK"
    assert seen["loading"]["name"] == STARTER and seen["loading"]["stage"] and seen["loaded"] == []
    assert info(managed)["loading"] is None


def test_the_loaders_tell_their_options(managed: PaddockServer) -> None:
    rows = {row["name"]: row for row in managed.ask("GET", "v1/internal/loaders")["loaders"]}
    assert set(rows) == {"llama.cpp", "transformers"}
    assert rows["llama.cpp"]["options"]["properties"]["gpu_layers"]["description"]
    assert [row["name"] for row in managed.http.get("v1/internal/loaders", params={"model": STARTER}).json()["loaders"]] == ["llama.cpp"]


def test_jobs_are_begun_followed_and_ended(managed: PaddockServer, hub: HubServer) -> None:
    kinds = managed.ask("GET", "v1/internal/jobs/kinds")["kinds"]
    assert [kind["name"] for kind in kinds] == [kind.name for kind in JOB_KINDS], "each kind can be begun by a route of its own"
    described = managed.ask("GET", "v1/openapi.json")["paths"]
    assert all(f"/v1/internal/jobs/{kind['name']}" in described and kind["args"]["properties"] for kind in kinds)
    wanted = {"repo": "meadow/pony", "files": ["pony-Q8_0.gguf"]}
    (job,) = managed.ask("POST", "v1/internal/jobs/download", wanted)["jobs"]
    with managed.http.stream("GET", f"v1/internal/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert seen[-1]["status"] == "done" and {row["id"] for row in seen} == {job["id"]}
    assert managed.ask("GET", f"v1/internal/jobs/{job['id']}")["log"] is not None
    assert managed.ask("GET", "v1/internal/jobs")["jobs"][0]["kind"] == "download"
    hub.fault("slow", "Q8_0|lfs", count=-1, value=50_000)
    (job,) = managed.ask("POST", "v1/internal/jobs/download", {**wanted, "name": "second"})["jobs"]
    managed.ask("POST", f"v1/internal/jobs/{job['id']}/pause")
    wait_for(lambda: managed.ask("GET", f"v1/internal/jobs/{job['id']}")["status"] == "interrupted", "it has paused")
    managed.ask("POST", f"v1/internal/jobs/{job['id']}/resume")
    managed.ask("POST", f"v1/internal/jobs/{job['id']}/cancel")
    wait_for(lambda: managed.ask("GET", f"v1/internal/jobs/{job['id']}")["status"] == "cancelled", "it was cancelled")
    assert managed.ask("DELETE", f"v1/internal/jobs/{job['id']}") == {"ok": True}
    assert httpx.get(f"{managed.url}v1/internal/jobs/{job['id']}/events").status_code == 404
    (job,) = managed.ask("POST", "v1/internal/jobs/verify", {"name": STARTER})["jobs"]
    wait_for(lambda: managed.ask("GET", f"v1/internal/jobs/{job['id']}")["status"] == "done", "it is verified")
    assert "There is no" in refused(managed, "v1/internal/jobs/verify", {"name": "none such"}, 404)
    assert "name" in refused(managed, "v1/internal/jobs/train", {"base": "x"}, 400)
    run = {"name": "new", "base": STARTER, "dataset": {"name": "none", "format": "text"}}
    assert "cannot be trained" in refused(managed, "v1/internal/jobs/train", run, 400)
    assert "There is no model" in refused(managed, "v1/internal/jobs/perplexity", {"models": ["none such"]}, 404)
    assert managed.ask("GET", "v1/internal/jobs/perplexity/table") == {"rows": []}


def test_whether_a_model_fits_is_told_when_asked(managed: PaddockServer) -> None:
    assert info(managed, model=OTHER, fit="true")["fit"]["sentence"]
