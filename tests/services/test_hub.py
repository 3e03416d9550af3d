"""The hub for the front ends: what is asked and when, the token, choices known as installed, downloads as jobs."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.core.errors import HubError, InvalidRequest, NotFound
from modules.core.job import JobSnapshot
from modules.core.settings import Settings
from modules.services.hub import HubService
from modules.services.jobs import JobService
from tests.hub.hub_server import HubServer

pytestmark = pytest.mark.processes

TOKEN = "hf_secret_of_this_test"
CARD = b"---\r\nlicense: mit\r\n---\r\n# Pony\n"
WEIGHTS = bytes(range(256)) * 40


@dataclass
class Desk:
    """A service with its jobs over a hub of the test's own."""

    hub: HubServer
    service: HubService
    jobs: JobService
    settings: Settings

    async def ended(self, job: JobSnapshot) -> JobSnapshot:
        async for snapshot in self.jobs.watch("me", job.id):
            job = snapshot
        return job


@pytest.fixture
def hub() -> Iterator[HubServer]:
    running = HubServer().start()
    running.add("meadow/pony", {"README.md": CARD, "pony-Q8_0.gguf": WEIGHTS, "pony-Q4_0.gguf": WEIGHTS[:5000]}, info={"tags": ["gguf", "license:mit"]})
    running.add("meadow/walled", {"pony-Q8_0.gguf": WEIGHTS}, gated=True)
    running.tokens[TOKEN] = ("meadow/walled",)
    yield running
    running.stop()


@pytest.fixture
async def desk(hub: HubServer, tmp_path: Path) -> AsyncIterator[Desk]:
    settings = Settings(state_dir=tmp_path / "state", models_dir=tmp_path / "models", loras_dir=tmp_path / "loras", hub_endpoint=hub.endpoint, token_to_mirror=True)
    for folder in (settings.state_dir, settings.models_dir, settings.loras_dir):
        folder.mkdir()
    made: list[HubService] = []
    jobs = JobService(settings.state_dir, secret_of=lambda _, name: made[0].secret(name))
    made.append(HubService(settings, jobs))
    await jobs.start()
    yield Desk(hub, made[0], jobs, settings)
    await jobs.close()


def other(desk: Desk, **changes: object) -> HubService:
    """A service with other settings."""
    return HubService(desk.settings.model_copy(update=changes), desk.jobs)


async def test_nothing_is_asked_before_a_person_asks(desk: Desk) -> None:
    state = desk.service.state()
    assert (state.endpoint, state.offline, state.has_token) == (desk.hub.endpoint, False, False)
    await asyncio.sleep(0.1)
    assert desk.hub.seen == []


async def test_search_and_open(desk: Desk) -> None:
    assert [row.repo for row in await desk.service.search(" pony ")] == ["meadow/pony"]
    assert await desk.service.search("pony", {"author": "forest"}) == ()
    opened = await desk.service.open("meadow/pony:Q4_0")
    assert opened.choices.choices[opened.picked].label == "pony-Q4_0"
    assert opened.card == "# Pony\n"
    assert opened.repository.licence == "mit"
    assert opened.installed == frozenset()
    with pytest.raises(NotFound, match="it has Q4_0, Q8_0"):
        await desk.service.open("meadow/pony:Q2_K")
    with pytest.raises(InvalidRequest, match=r"are not fetched"):
        await desk.service.open("https://evil.example/meadow/pony")


async def test_a_file_that_is_named_is_a_choice_of_its_own(desk: Desk) -> None:
    opened = await desk.service.open(f"{desk.hub.endpoint}/meadow/pony/blob/main/README.md")
    assert (opened.picked, opened.choices.choices[0].label, opened.choices.choices[0].kind) == (0, "README.md", "file")


async def test_a_download_is_a_job_and_then_installed(desk: Desk) -> None:
    opened = await desk.service.open("meadow/pony")
    wanted = {"repo": "meadow/pony", "revision": opened.repository.commit, "files": ["pony-Q8_0.gguf"], "kind": "gguf"}
    done = await desk.ended(await desk.service.download("me", wanted))
    assert (done.status, done.title) == ("done", "Download meadow/pony")
    assert (desk.settings.models_dir / "meadow__pony" / "pony-Q8_0.gguf").read_bytes() == WEIGHTS
    assert (await desk.service.open("meadow/pony")).installed == {"pony-Q8_0"}


async def test_a_second_version_is_kept_beside_the_first(desk: Desk) -> None:
    wanted = {"repo": "meadow/pony", "files": ["pony-Q8_0.gguf"], "kind": "gguf"}
    first = await desk.ended(await desk.service.download("me", wanted))
    desk.hub.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS[::-1]}, commit="b" * 40)
    second = await desk.ended(await desk.service.download("me", {**wanted, "revision": "b" * 40}))
    assert second.status == "done", second.error
    assert first.result is not None
    assert second.result is not None
    assert second.result["name"] == f"meadow__pony-{'b' * 12}/pony-Q8_0.gguf"
    assert Path(first.result["path"]).read_bytes() == WEIGHTS


async def test_a_wrong_request_names_what_is_wrong(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match="files"):
        await desk.service.download("me", {"repo": "meadow/pony", "files": []})
    with pytest.raises(InvalidRequest, match="not safe"):
        await desk.service.download("me", {"repo": "meadow/pony", "files": ["../../evil.gguf"], "kind": "gguf"})
    with pytest.raises(InvalidRequest, match="any program"):
        await desk.service.download("me", {"repo": "meadow/pony", "files": ["model.bin"], "kind": "folder", "named": ["model.bin"]})  # only the command line names it
    assert await desk.jobs.list("me") == ()


async def test_the_token_opens_gated_models_and_lies_nowhere_else(desk: Desk) -> None:
    wanted = {"repo": "meadow/walled", "files": ["pony-Q8_0.gguf"], "kind": "gguf"}
    with pytest.raises(HubError, match="licence|access") as caught:
        await desk.service.open("meadow/walled")
    assert caught.value.details["url"] == f"{desk.hub.endpoint}/meadow/walled"
    with pytest.raises(HubError):
        await desk.service.set_token("hf_wrong")
    assert not desk.service.state().has_token
    assert await desk.service.set_token(f" {TOKEN}\n")
    done = await desk.ended(await desk.service.download("me", wanted))
    assert done.status == "done", done.error
    holding = [path for path in desk.settings.state_dir.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == [desk.settings.state_dir / "hub_token"]
    if os.name == "posix":
        assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert await desk.service.set_token("") == ""
    assert not desk.service.state().has_token


async def test_a_mirror_gets_the_token_only_when_told(desk: Desk) -> None:
    await desk.service.set_token(TOKEN)
    desk.hub.forget()
    with pytest.raises(HubError):
        await other(desk, token_to_mirror=False).open("meadow/walled")
    assert not [seen for seen in desk.hub.seen if "authorization" in seen.headers]


async def test_offline_asks_nothing(desk: Desk) -> None:
    offline = other(desk, offline=True)
    for work in (offline.search("pony"), offline.open("meadow/pony"), offline.download("me", {"repo": "meadow/pony", "files": ["a.gguf"]})):
        with pytest.raises(HubError, match="Offline mode is on"):
            await work
    assert desk.hub.seen == []
