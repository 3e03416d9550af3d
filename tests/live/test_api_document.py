"""Every example of docs/api.md, run as a reader would run it, against a server with the demo model and what else the examples name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.api.description_page import SHOWN
from tests.e2e.adapter_files import write_adapter
from tests.hub.hub_server import HubServer
from tests.paddock_server import ROOT, STARTER, PaddockServer

DOCUMENT = ROOT / "docs" / "api.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7860"
EXAMPLES = tuple((TEXT[: found.start()].count("\n") + 1, found[1], found[2]) for found in re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
LIMIT_S = 60


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path, starter_dir: Path) -> Iterator[PaddockServer]:
    folder = tmp_path_factory.mktemp("told")
    (folder / "models" / "starter").mkdir(parents=True)
    shutil.copy(starter_gguf, folder / "models" / "starter")
    write_adapter(folder / "loras" / "my-adapter", starter_dir, rank=2)
    (folder / ".curlrc").write_text("fail-with-body\nno-progress-meter\n")
    hub = HubServer().start()
    hub.add("Qwen/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q8_0.gguf": bytes(range(256)) * 1000})
    running = PaddockServer(folder, folder / "models", folder / "loras", "--no-ui", "--model", STARTER, "--hub-endpoint", hub.endpoint)
    yield running
    running.close()
    hub.stop()


@pytest.mark.parametrize(("line", "language", "code"), EXAMPLES, ids=[f"line {line}" for line, _, _ in EXAMPLES])
def test_an_example_runs(told: PaddockServer, tmp_path: Path, line: int, language: str, code: str) -> None:
    if language == "bash" and (os.name == "nt" or not shutil.which("curl")):
        pytest.skip("needs a shell and curl")
    commands = {"bash": ["bash", "-e", "-o", "pipefail", "-c"], "python": [sys.executable, "-W", "error::SyntaxWarning", "-c"]}
    assert language in commands, f"docs/api.md, line {line}: an example is bash or python, and runs; this is {language or 'unnamed'}"
    assert ADDRESS in code, f"docs/api.md, line {line}: the example asks no server"
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy") and not name.startswith(("OPENAI", "ANTHROPIC"))}
    here = {**clean, "CURL_HOME": str(told.log_path.parent), "PYTHONPATH": ""}
    done = subprocess.run([*commands[language], code.replace(ADDRESS, told.url.rstrip("/"))], capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path, env=here)
    assert done.returncode == 0, f"docs/api.md, line {line}:\n{code}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), f"docs/api.md, line {line}: it shows nothing"
    assert '"error":' not in done.stdout.replace('"error":""', "").replace('"error":null', ""), done.stdout


def test_every_route_is_told_of(told: PaddockServer) -> None:
    described: dict[str, Any] = told.ask("GET", "v1/openapi.json")["paths"]
    named = [re.sub(r"\{(job_id|name)\}", lambda found: {"job_id": "ID", "name": "NAME"}[found[1]], path.replace("{name:path}", "NAME")) for path in described if path.startswith(SHOWN)]
    short = TEXT.replace("…/", "/v1/internal/jobs/ID/").replace("/v1/internal/lora/list`, `load` (`lora_names`: beside those in use) and `unload`", "/v1/internal/lora/list /v1/internal/lora/load /v1/internal/lora/unload")
    kinds = {f"/v1/internal/jobs/{kind['name']}" for kind in told.ask("GET", "v1/internal/jobs/kinds")["kinds"]}
    assert [path for path in named if path not in short and path not in kinds] == []
    assert all(f"`{kind.rpartition('/')[2]}`" in TEXT for kind in kinds)


def test_what_the_page_says_to_look_at_is_there(told: PaddockServer) -> None:
    page = told.http.get("v1/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"] and "/v1/internal/model/load" in page.text
    links = re.findall(r"\]\(([\w-]+\.md)?(?:#([\w-]+))?\)", TEXT)
    headings = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    assert all((DOCUMENT.parent / file).is_file() for file, _ in links if file)
    assert {anchor for file, anchor in links if anchor and not file} <= headings
