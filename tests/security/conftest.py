"""One server with page, key and secrets for all tests that attack it, and what it must not touch: files beside its folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub.hub_server import HubServer
from tests.paddock_server import STARTER, PaddockServer
from tests.security.network_log import NetworkLog

CANARY = "canary5f3a9c"  # in every secret; nobody else writes it
SECRETS = {
    "PADDOCK_API_KEY": f"sk-{CANARY}-api",
    "PADDOCK_HUB_TOKEN": f"hf_{CANARY}hub",
    "AWS_SECRET_ACCESS_KEY": f"aws-{CANARY}",
    "OPENAI_API_KEY": f"sk-{CANARY}-openai",
    "DATABASE_PASSWORD": f"pw-{CANARY}",
}
KEY = SECRETS["PADDOCK_API_KEY"]
PAGE_TOKEN = f"hf_{CANARY}page"
GATED = "owner/gated"
OUTSIDE = "what lies outside 81c2"  # the content of files that no name may lead to


@dataclass
class Fortress:
    """The server under attack, the folder around it, and whom it spoke to."""

    server: PaddockServer
    folder: Path
    models: Path
    network: NetworkLog
    hub: HubServer

    @property
    def outside(self) -> Path:
        """A folder that belongs to nobody here."""
        return self.folder / "outside"

    def answers(self) -> bool:
        """Whether the starter model still answers."""
        reply = self.server.http.post("v1/completions", json={"model": STARTER, "prompt": "Hello", "max_tokens": 3, "temperature": 0})
        return self.server.process.poll() is None and reply.status_code == 200 and bool(reply.json()["choices"][0]["text"])


def plant(folder: Path) -> None:
    """Files outside, and links that lead there from inside."""
    outside = folder / "outside"
    outside.mkdir()
    for name in ("secret", "secret.yaml", "secret.json", "secret.jsonl", "secret.gguf", "secret.png", "secret.gbnf", "config.json"):
        (outside / name).write_text(f'name: "{OUTSIDE}"\n', encoding="utf-8")
    for inside, name in (
        ("presets", "link.yaml"), ("presets/grammars", "link.gbnf"), ("characters", "link.yaml"), ("templates", "link.yaml"), ("datasets", "link.jsonl"),
    ):  # fmt: skip
        (folder / inside).mkdir(parents=True, exist_ok=True)
        (folder / inside / name).symlink_to(outside / f"secret{Path(name).suffix}")


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """A hub on this machine, with one model that only the token of a canary opens."""
    running = HubServer().start()
    running.add(GATED, {"model.safetensors": b"x" * 1000, "config.json": b"{}"}, gated="auto")
    running.tokens[PAGE_TOKEN] = (GATED,)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def fortress(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, hub: HubServer) -> Iterator[Fortress]:
    folder = tmp_path_factory.mktemp("fortress")
    models = folder / "models"
    shutil.copytree(starter_dir, models / "starter")
    (folder / "loras").mkdir()
    network = NetworkLog(folder / "watch")
    for name in ("presets", "characters", "templates"):
        source = "prompt_templates" if name == "templates" else name
        shutil.copytree(Path(__file__).parents[2] / source, folder / name, ignore=shutil.ignore_patterns(".*", "own"))
    plant(folder)
    flags = ("--model", STARTER, "--option", "context_length=512", "--load-timeout-s", "60", "--step-timeout-s", "30", "--hub-endpoint", hub.endpoint, "--token-to-mirror")
    server = PaddockServer(folder, models, folder / "loras", *flags, environ={**SECRETS, **network.environ})
    server.http.headers["authorization"] = f"Bearer {KEY}"
    yield Fortress(server, folder, models, network, hub)
    server.close()
