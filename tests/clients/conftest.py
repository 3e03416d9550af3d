"""One Paddock with a key, and clients of other makers, each run as a small program of its own in its own environment (installer/clients.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from installer.clients import ClientPlace, has_node
from installer.steps import Place
from tests.conftest import ROOT
from tests.paddock_server import STARTER, PaddockServer

HERE = ROOT / "tests" / "clients"
KEY = "the key of these tests"
LIMIT_S = 280  # alone each takes seconds; a machine at work makes them minutes
# Nothing of this machine's own settings, and nothing asked of the outside
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false", "ANONYMIZED_TELEMETRY": "False",
    "PYTHONDONTWRITEBYTECODE": "", "NO_COLOR": "1",
}  # fmt: skip
OTHERS = ("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "PADDOCK_", "AZURE_", "LLM_")

Facts = dict[str, Any]
Run = Callable[..., Facts]


@pytest.fixture(scope="session")
def places() -> ClientPlace:
    """The clients, which `python3 launch.py test` installs."""
    place = ClientPlace(Place(ROOT))
    assert place.python.exists(), f"{place.venv} is not there: `python3 launch.py test -- tests/clients` makes it"
    return place


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path) -> Iterator[PaddockServer]:
    """The starter model, as a file and as a folder, behind a key."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(starter_dir, models / "starter")
    folder = tmp_path_factory.mktemp("server")
    flags = ("--no-ui", "--model", STARTER, "--option", "slots=4", "--api-key", KEY)
    running = PaddockServer(folder, models, tmp_path_factory.mktemp("loras"), *flags)
    running.http.headers["authorization"] = f"Bearer {KEY}"
    yield running
    running.close()


@pytest.fixture
def run(server: PaddockServer, places: ClientPlace, tmp_path: Path) -> Run:
    """Runs a script; what it found, or its traceback."""

    def start(script: str, model: str = STARTER, **more: str) -> Facts:
        javascript = script.endswith(".mjs")
        if javascript and not has_node():
            pytest.skip("no node and npm on this machine: the clients in JavaScript are not tried")
        program = [shutil.which("node") or "node", str(places.scripts / script)] if javascript else [str(places.python), str(HERE / "scripts" / script)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        env |= {**QUIET, "PADDOCK_URL": server.url, "PADDOCK_KEY": KEY, "PADDOCK_MODEL": model, "LLM_USER_PATH": str(tmp_path), **more}
        done = subprocess.run(program, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, f"{script}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return json.loads(done.stdout.rstrip().rpartition("\n")[2])

    return start
