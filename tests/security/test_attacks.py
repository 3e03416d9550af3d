"""What an attacker sends to a running server, and what leaves it: names as paths, Gradio's own routes, foreign sites, guesses at the key, secrets, the network."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from tests.paddock_server import STARTER, free_port, wait_for
from tests.security.conftest import CANARY, GATED, KEY, OUTSIDE, PAGE_TOKEN, SECRETS, Fortress

NAMES = (
    "../outside/secret", "..\\outside\\secret", "/etc/passwd", "C:secret", "con", "x\0y", "%2e%2e/outside/secret", "a" * 300, "link", "link.jsonl",
    "starter/../../outside/secret.gguf",
)  # fmt: skip
NOT_NOW = frozenset({"/ui/restart", "/v1/internal/restart", "/ui/fit/measure"})  # they end the server, or keep the processor busy
DEFECTS = frozenset({500, 501, 504})
METHODS = ("get", "post", "put", "patch", "delete")


# ---- names ---------------------------------------------------------------------------------------------------------


def filled(schema: dict[str, Any], parts: dict[str, Any], name: str) -> Any:
    """A value of a schema in which every text is the name."""
    if "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        schema = next((row for row in schema["anyOf"] if row.get("type") != "null"), {})
        return filled(schema, parts, name)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [""])[0])
    kind = schema.get("type")
    if kind == "object":
        return {key: filled(inner, parts, name) for key, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [filled(schema.get("items", {}), parts, name)]
    return {"integer": 1, "number": 1.0, "boolean": True}.get(str(kind), name)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every verb that takes a text from a client."""
    for path, verbs in document["paths"].items():
        for method in METHODS:
            takes = verbs.get(method, {})
            if path not in NOT_NOW and not path.endswith("/events") and (takes.get("parameters") or takes.get("requestBody")):
                yield method, path, takes


def request(method: str, path: str, takes: dict[str, Any], parts: dict[str, Any], name: str) -> dict[str, Any]:
    """One request in which every text is the name."""
    query = {}
    for parameter in takes.get("parameters", ()):
        value = filled(parameter["schema"], parts, name)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(str(value), safe=""))
        elif parameter["in"] == "query":
            query[parameter["name"]] = value
    content = takes.get("requestBody", {}).get("content", {})
    body = filled(content["application/json"]["schema"], parts, name) if "application/json" in content else None
    return {"method": method.upper(), "url": path.lstrip("/"), "params": query, "content": json.dumps(body) if body is not None else b"x"}


def fingerprint(folder: Path) -> str:
    """What lies in a folder."""
    rows = [(str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b"") for path in sorted(folder.rglob("*"))]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_no_name_of_any_route_leads_outside(fortress: Fortress) -> None:
    """Every route of our own description, with every text of its request a hostile name."""
    http, before = fortress.server.http, fingerprint(fortress.outside)
    around = sorted(path.name for path in fortress.folder.iterdir())
    document = http.get("v1/openapi.json").json()
    parts = document["components"]["schemas"]
    found = list(operations(document))
    assert len(found) > 120
    complaints = []
    for name in (*NAMES, str(fortress.outside / "secret.yaml")):
        for method, path, takes in found:
            asked = request(method, path, takes, parts, name)
            answer = http.request(**asked, headers={"content-type": "application/json"})
            if OUTSIDE in answer.text or "root:x:" in answer.text:
                complaints.append(f"{method} {path} with {name[:40]!r} shows a file of somebody else")
            if answer.status_code in DEFECTS:
                complaints.append(f"{method} {path} with {name[:40]!r}: {answer.status_code} {answer.text[:200]}")
    assert complaints == []
    assert fingerprint(fortress.outside) == before
    assert sorted(path.name for path in fortress.folder.iterdir()) == around
    assert fortress.answers()


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._marker), "w")


def test_nothing_of_a_stranger_is_unpickled(fortress: Fortress, starter_dir: Path) -> None:
    http, marker = fortress.server.http, fortress.folder / "unpickled"
    poison = pickle.dumps(Evil(marker))
    model, adapter = fortress.models / "pickled", fortress.folder / "loras" / "pickled"
    shutil.copytree(starter_dir, model, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "starter", "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    for path in (model / "pytorch_model.bin", model / "training_args.bin", adapter / "adapter_model.bin", fortress.models / "evil.pt", fortress.folder / "datasets" / "evil.pkl"):
        path.write_bytes(poison)
    ask = {"prompt": "a", "max_tokens": 1}
    refused = [
        http.post("v1/completions", json={**ask, "model": "pickled"}), http.post("v1/completions", json={**ask, "model": "evil.pt"}),
        http.post("v1/completions", json={**ask, "model": STARTER, "adapters": [{"name": "pickled", "scale": 1}]}),
        http.get("ui/datasets/look", params={"name": "evil.pkl"}), http.post("ui/datasets/preview", json={"name": "evil.pkl", "format": "text", "columns": {}}),
    ]  # fmt: skip
    assert all(answer.status_code >= 400 or answer.json().get("problem") for answer in refused), [answer.text[:200] for answer in refused]
    assert "holds its weights as pickle files, which can run code; get the version with *.safetensors." in refused[0].json()["error"]["message"]
    assert not marker.exists()
    shutil.rmtree(model)
    assert fortress.answers()


# ---- Gradio's own routes -------------------------------------------------------------------------------------------


def test_gradio_gives_no_file_of_this_machine_and_fetches_nothing(fortress: Fortress) -> None:
    http, secret = fortress.server.http, fortress.outside / "secret.yaml"
    paths = [
        "/etc/passwd", str(secret), str(fortress.folder / "state" / "paddock.db"), str(Path(__file__).parents[2] / "server.py"), "server.py", "..%2foutside%2fsecret.yaml",
        f"file://{secret}", "//evil.example/share/x", "https://example.org/x", "http://127.0.0.1:1/x",
    ]  # fmt: skip
    for path in paths:
        for prefix in ("gradio_api/file=", "gradio_api/file/", "file=", "gradio_api/stream/", "gradio_api/proxy="):
            answer = http.get(f"{prefix}{path}")
            assert answer.status_code in (400, 403, 404, 405, 421, 422), (prefix, path, answer.status_code)
            assert OUTSIDE not in answer.text and "root:" not in answer.text
    for route in ("vibe-code", "runs", "run-history/x", "component_server", "process_recording", "deep_link", "dev/reload", "monitoring"):
        assert http.get(f"gradio_api/{route}").status_code == 404, route
    for route in ("docs", "redoc", "openapi.json", "monitoring", "gradio_api/monitoring"):
        assert http.get(route).status_code == 404, route
    assert http.get("gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_an_uploaded_page_is_no_page_of_this_server(fortress: Fortress) -> None:
    http = fortress.server.http
    script = b"<script>parent.pwned = 1</script>"
    answer = http.post("gradio_api/upload", files={"files": ("evil.html", script, "text/html")})
    if answer.status_code != 200:  # not taking it is as good
        assert answer.status_code in (403, 404)
        return
    given = http.get(f"gradio_api/file={answer.json()[0]}")
    assert given.status_code in (403, 404) or (
        "attachment" in given.headers.get("content-disposition", "") and not given.headers["content-type"].startswith("text/html")
    )
    assert "default-src 'self'" in given.headers["content-security-policy"]


VALUES: tuple[Any, ...] = (
    "../outside/secret", {"path": "/etc/passwd", "url": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}, [["x" * 10_000]],
)  # fmt: skip


def called(http: httpx.Client, number: int, values: list[Any], event: Any) -> dict[str, Any]:
    """What a handler of the page says to a client that made its request by hand."""
    session = f"attack{number}"
    body = {"fn_index": number, "data": values, "session_hash": session, "event_data": event, "trigger_id": None}
    joined = http.post("gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        assert joined.status_code < 500, joined.text[:300]
        return joined.json()
    with http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as events:
        for line in events.iter_lines():
            told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if told.get("msg") in ("process_completed", "unexpected_error"):
                return dict(told)
    return {}


def test_handlers_of_the_page_take_nothing_on_trust(fortress: Fortress) -> None:
    """Gradio lets every handler be called by its number, with arguments that no control would give."""
    http, before = fortress.server.http, fingerprint(fortress.outside)
    handlers = {re.sub(r"_\d+$", "", row["api_name"]): row for row in http.get("config").json()["dependencies"]}  # one of each function
    assert len(handlers) > 20
    for value in VALUES:
        for handler in handlers.values():
            answer = json.dumps(called(http, handler["id"], [value] * len(handler["inputs"]), {"name": value, "value": value, "index": value}))
            assert OUTSIDE not in answer and "root:x:" not in answer and "Traceback" not in answer, (handler["api_name"], answer[:300])
    assert fingerprint(fortress.outside) == before
    assert "Unexpected error in the page" not in fortress.server.log and "/modules/ui/" not in fortress.server.log
    assert {path.name for path in (fortress.folder / "presets").glob("*.yaml")} >= {"Balanced.yaml", "Creative.yaml"}
    assert fortress.answers()


# ---- foreign sites, hosts, guesses ---------------------------------------------------------------------------------


def raw(fortress: Fortress, text: bytes) -> bytes:
    """What the server answers to bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", fortress.server.port), timeout=20) as line:
        answer = b""
        with contextlib.suppress(OSError):  # it need not read all of it, and may be gone before the last byte was sent
            line.sendall(text)
            line.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while piece := line.recv(65_536):
                answer += piece
    return answer


def test_strange_requests_are_refused_before_anything_is_done(fortress: Fortress) -> None:
    for head, code in (
        (b"GET /config HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"4"),
        (b"GET /config HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET /config HTTP/1.1\r\n\r\n", b"4"),
        (b"GET http://evil.example/config HTTP/1.1\r\nHost: a@evil\r\n\r\n", b"421"),
        (b"POST /ui/bin/x/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ui/bin HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"POST /ui/bin/x/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"4"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"4"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"4"),
    ):
        answer = raw(fortress, head)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 " + code), (head[:80], answer[:80])
        assert answer.count(b"HTTP/1.1 ") <= 1, (head[:80], answer[-300:])


def test_another_site_can_neither_write_nor_upload_nor_read(fortress: Fortress) -> None:
    http = fortress.server.http
    before = len(http.get("ui/conversations").json()["conversations"])
    for origin in ("https://evil.example", "null", f"http://localhost:{free_port()}", "http://192.168.1.5"):
        for path, more in (
            ("ui/conversations", {"content": "{}", "headers": {"content-type": "text/plain"}}), ("gradio_api/upload", {"files": {"files": ("a.txt", b"x")}}),
            ("gradio_api/queue/join", {"json": {"fn_index": 0, "data": [], "session_hash": "a"}}), ("v1/chat/completions", {"json": {"messages": []}}), ("login", {"data": {"key": KEY}}),
        ):  # fmt: skip
            answer = http.post(path, **{**more, "headers": {**more.get("headers", {}), "origin": origin}})
            assert answer.status_code == 403, (origin, path)
            assert not any(name.startswith("access-control-") for name in answer.headers)
        preflight = http.options("v1/chat/completions", headers={"origin": origin, "access-control-request-method": "POST"})
        assert preflight.status_code == 403 and "access-control-allow-origin" not in preflight.headers
    for path in ("config", "gradio_api/info", "ui/conversations"):
        answer = http.get(path, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
    assert len(http.get("ui/conversations").json()["conversations"]) == before


def test_guesses_at_the_key_are_slowed_and_the_key_is_not(fortress: Fortress) -> None:
    with httpx.Client(base_url=fortress.server.url) as guesser:
        guesses = [{"authorization": "Bearer x"}, {"x-api-key": "y"}] * 6
        codes = [guesser.get("v1/models", headers={**guess, "x-forwarded-for": f"10.0.0.{n}"}).status_code for n, guess in enumerate(guesses)]
        assert codes[-2:] == [429, 429] and set(codes) == {401, 429}
        assert guesser.get("v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        assert guesser.get("v1/models", params={"key": KEY, "api_key": KEY}).status_code == 401  # it would stand in logs of proxies


# ---- what leaves the server ----------------------------------------------------------------------------------------


def use_all_secrets(fortress: Fortress) -> None:
    """Go through everything that takes a secret, in the right and in the wrong way."""
    http, url = fortress.server.http, f"http://127.0.0.1:{free_port()}"
    assert http.put("ui/hub/token", json={"token": f"hf_{CANARY}with a space"}).status_code == 400
    assert http.put("ui/hub/token", json={"token": f"hf_{CANARY}unknown"}).status_code >= 400
    assert http.put("ui/hub/token", json={"token": PAGE_TOKEN}).status_code == 200
    server = {"name": "far", "urls": [url], "key": f"remote-{CANARY}", "kind": "auto", "aliases": {"a": ["b"]}}
    assert http.post("ui/remote/test", json=server).status_code == 200
    assert http.post("ui/remote/add", json=server).status_code == 200
    assert http.post("ui/remote/add", json={**server, "name": "wrong", "urls": [f"http://user:{CANARY}@host"]}).status_code == 400
    http.post("v1/chat/completions", json={"model": "remote/far/a", "messages": [{"role": "user", "content": "Hi"}]})
    with httpx.Client(base_url=fortress.server.url) as other:
        other.post("login", data={"key": KEY})
        other.post("login", data={"key": f"wrong-{CANARY}"})
        other.get("v1/models", headers={"authorization": f"Bearer wrong-{CANARY}"})
        other.get("v1/models", params={"api_key": KEY})
    assert fortress.answers()


def download_with_the_token(fortress: Fortress) -> Iterator[psutil.Process]:
    """Fetch the gated model; every process that is there meanwhile."""
    begun = fortress.server.http.post("ui/hub/download", json={"repo": GATED, "files": ["model.safetensors", "config.json"], "kind": "folder", "name": "gated"})
    assert begun.status_code == 200, begun.text
    while True:
        yield from fortress.server.children()
        (job,) = (job for job in fortress.server.ask("GET", "ui/jobs")["jobs"] if job["kind"] == "download")
        if job["status"] not in ("queued", "running"):
            assert job["status"] == "done", job
            return


def shown(http: httpx.Client) -> Iterator[tuple[str, str]]:
    """Everything that a client can read without naming something."""
    document = http.get("v1/openapi.json").json()
    plain = [path for path, verbs in document["paths"].items() if "{" not in path and "get" in verbs and not path.endswith("/events")]
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/startup-events", "/login", *plain):
        yield path, http.get(path.lstrip("/")).text


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_secrets_are_in_no_log_no_answer_no_child_and_no_file_that_others_can_read(fortress: Fortress) -> None:
    use_all_secrets(fortress)
    seen = set()
    for child in download_with_the_token(fortress):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # it has ended
            command, environ = " ".join(child.cmdline()), Path(f"/proc/{child.pid}/environ").read_bytes()
            assert CANARY not in command and CANARY.encode() not in environ, command
            assert not any(name.encode() + b"=" in environ for name in SECRETS), command
            seen |= {word for word in ("services.worker", "job_worker") if word in command}
    assert seen == {"services.worker", "job_worker"}
    assert any(PAGE_TOKEN in str(request.headers) for request in fortress.hub.gets("hub")), "the token was not used"
    assert CANARY not in fortress.server.log
    assert [path for path, text in shown(fortress.server.http) if CANARY in text] == []
    holding = [path for path in (fortress.folder / "state").rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert sorted(path.name for path in holding) == ["hub_token", "remote_servers.json"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*holding, fortress.folder / "state"])


def test_server_and_engines_speak_to_nobody_outside(fortress: Fortress) -> None:
    assert fortress.answers()
    assert fortress.server.http.get("").status_code == 200
    wait_for(lambda: any(event == "socket.bind" for event, _, _ in fortress.network.entries()), "the log sees the server")
    assert fortress.network.foreign() == []


# ---- exposed by default --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(psutil.Process, "net_connections"), reason="cannot list sockets")
def test_it_listens_on_this_machine_only(fortress: Fortress) -> None:
    processes = [psutil.Process(fortress.server.process.pid), *fortress.server.children()]
    listening = [row.laddr for process in processes for row in process.net_connections("inet") if row.status == psutil.CONN_LISTEN]
    assert [(row.ip, row.port) for row in listening] == [("127.0.0.1", fortress.server.port)]
