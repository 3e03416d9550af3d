"""Real processes: killed without a word at random moments, and two at one file. Nothing is lost, nothing is half, nothing is fetched twice."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.hub.download import DownloadArgs
from modules.hub.inventory import PARTIAL_FOLDER, sweep
from tests.hub.hub_server import HubServer

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
RATE = 1 << 20


def child(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.hub.download_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "0"})


class Jobs:
    """Starts jobs in processes of their own, one at a time."""

    def __init__(self) -> None:
        self._server = child()

    def start(self, args: DownloadArgs, folder: Path) -> int:
        assert self._server.stdin
        self._server.stdin.write(f"{args.model_dump_json()}\t{folder}\n")
        self._server.stdin.flush()
        return self._number()

    def status(self) -> int:
        return self._number()

    def _number(self) -> int:
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate(timeout=10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork")
def test_twenty_kills_lose_nothing(hub: HubServer, tmp_path: Path) -> None:
    chance = random.Random(11)
    parts = {f"M-Q8_0-0000{number}-of-00002.gguf": chance.randbytes(700_000) for number in (1, 2)}
    hub.add("me/tiny", parts)
    hub.fault("slow", "^/lfs/", count=-1, value=RATE)
    args = DownloadArgs(repo="me/tiny", files=tuple(parts), endpoint=hub.endpoint, models_dir=tmp_path / "models", loras_dir=tmp_path / "loras")
    job, target, total = tmp_path / "job", tmp_path / "models" / "me__tiny", sum(map(len, parts.values()))
    job.mkdir()
    (tmp_path / "models").mkdir()
    jobs = Jobs()
    for _ in range(KILLS):
        process = jobs.start(args, job)
        enough, deadline = hub.sent() + chance.randrange(1, total // KILLS), time.monotonic() + 10
        while hub.sent() < enough and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert jobs.status() == -signal.SIGKILL, "it ended before it was killed"
        assert not target.exists()
    jobs.start(args, job)
    assert jobs.status() == 0
    jobs.close()
    assert {path.name: path.read_bytes() for path in target.glob("*.gguf")} == parts
    assert sorted(path.name for path in target.iterdir()) == sorted([*parts, "paddock.json"])
    assert sweep(tmp_path / "models", 0) == 0
    assert list((tmp_path / "models" / PARTIAL_FOLDER).iterdir()) == []
    for name in parts:
        starts = [request.start for request in hub.gets("cdn", name)]
        assert starts == sorted(starts)  # never from the beginning again
        assert starts[-1] > 0
    assert hub.sent() < 1.6 * total  # what was under way at each kill, no more


def test_two_processes_fetch_one_file_once(hub: HubServer, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(600_000)
    hub.add("me/tiny", {"m.gguf": data})
    hub.fault("slow", "^/lfs/", count=-1, value=RATE)
    arguments = (hub.endpoint, str(tmp_path / "m.gguf"), "m.gguf", str(len(data)), hashlib.sha256(data).hexdigest())
    both = [child(*arguments) for _ in range(2)]
    moved = sorted(int(process.communicate(timeout=30)[0]) for process in both)
    assert moved == [0, len(data)]
    assert len(hub.gets("cdn")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
