"""The disk of an engine's process: where its files are while it lives, and that nothing of them is left however it ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from modules.core.generation import GenerationRequest, TextPrompt
from tests.engine.client_steps import GREEDY, ids_of, text, until

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="looks at files through /proc")]


def open_files(pid: int, folder: Path) -> int:
    """Files of a folder that a process has open, with a name or without."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(link.readlink()).startswith(f"{folder}/")
        except OSError:  # closed meanwhile
            continue
    return found


@pytest.mark.parametrize("end", ["killed", "unloaded"])
async def test_files_have_no_names_and_end_with_the_process(start, tmp_path: Path, end: str) -> None:
    folder = tmp_path / "spill"
    client = await start({"spill_folder": str(folder)}, slots=1, disk_gb=0.1)
    for letter in "ab":
        await ids_of(await client.submit(text(letter * 300)))

    async def written() -> bool:
        return (await client.counters()).disk_saves == 1

    await until(written)
    counters = await client.counters()
    assert (counters.disk_tokens, counters.disk_bytes) == (320, 1280)
    assert open_files(client.pid, folder) == 1
    assert list(folder.iterdir()) == []
    if end == "killed":
        os.kill(client.pid, signal.SIGKILL)
        await client.ended()
    else:
        await client.close()
    assert list(folder.iterdir()) == []
    again = await start({"spill_folder": str(folder)}, slots=1, disk_gb=0.1)
    generation = await again.submit(text("a" * 300))
    await ids_of(generation)
    assert generation.usage.reused_tokens == 0


async def test_without_a_folder_or_with_none_of_it_nothing_is_written(start, tmp_path: Path) -> None:
    for setup, options in (({}, {"disk_gb": 1}), ({"spill_folder": str(tmp_path / "spill")}, {"disk_gb": 0})):
        client = await start(setup, slots=1, **options)
        for letter in "aba":
            await ids_of(await client.submit(text(letter * 300)))
        assert (await client.counters()).disk_bytes == 0
    assert not (tmp_path / "spill").exists()


async def test_a_request_can_stay_in_main_memory(start, tmp_path: Path) -> None:
    client = await start({"spill_folder": str(tmp_path / "spill")}, slots=1, disk_gb=0.1)
    private = GenerationRequest(prompt=TextPrompt(text="a" * 300), params=GREEDY, keep_on_disk=False)
    await ids_of(await client.submit(private))
    for letter in "bc":
        await ids_of(await client.submit(text(letter * 300)))

    async def written() -> bool:
        return (await client.counters()).disk_saves == 1

    await until(written)
    assert open_files(client.pid, tmp_path / "spill") == 1  # the second one's: the first was only pushed out
