"""Downloading side by side: Paddock's fetcher, with its verification, and `hf download`, which verifies nothing, from the same hub on this machine.

    python benchmarks/download.py                 one file of 300 MB and a folder of eight files
    python benchmarks/download.py --mb 1000 --rounds 7

Every round runs each contestant once, in turn, into an empty folder; what counts is the ratio within a round. Both are whole processes, as a
person starts them, and the hub is the one of the tests: what is measured is the client, not a network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.hub.hub_server import HubServer  # noqa: E402

SMALL_FILES = 8
REPOS = ("bench/one-file", "bench/folder")


def paddock(hub: HubServer, repo: str, folder: Path) -> list[str]:
    """Our command line."""
    return [
        sys.executable, str(ROOT / "server.py"), "download", repo, "--hub-endpoint", hub.endpoint, "--models-dir", str(folder / "models"),
        "--loras-dir", str(folder / "loras"), "--state-dir", str(folder / "state"),
    ]  # fmt: skip


def official(hub: HubServer, repo: str, folder: Path) -> list[str]:
    """The hub's own command line."""
    return [str(Path(sys.executable).parent / "hf"), "download", repo, "--local-dir", str(folder / "models" / "it")]


def seconds(command: list[str], hub: HubServer, expected: dict[str, str], folder: Path) -> float:
    """One whole download, checked."""
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder / "home")}
    environ.pop("HF_HUB_OFFLINE", None)
    begun_s = time.perf_counter()
    subprocess.run(command, env=environ, check=True, capture_output=True)
    spent_s = time.perf_counter() - begun_s
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "models").rglob("*") if path.is_file()}
    assert set(expected.values()) <= found, "the download is not what the hub holds"
    return spent_s


def compare(hub: HubServer, repo: str, rounds: int) -> None:
    """All rounds of one repository, then its rows."""
    files = {path: file.sha256 for path, file in hub.repos[repo].files.items()}
    total = sum(len(file.data) for file in hub.repos[repo].files.values())
    contestants: dict[str, Callable[[HubServer, str, Path], list[str]]] = {"hf download": official, "Paddock, verified": paddock}
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):  # the first does not count
        for name, command in contestants.items():
            folder = Path(tempfile.mkdtemp())
            for inner in ("models", "loras"):
                (folder / inner).mkdir()
            taken = seconds(command(hub, repo, folder), hub, files, folder)
            shutil.rmtree(folder)
            if number:
                spent[name].append(taken)
    base = spent["hf download"]
    print(f"{repo}: {len(files)} files, {total / 1e6:.0f} MB, {rounds} interleaved rounds")
    for name, values in spent.items():
        ratios = [first / value for first, value in zip(base, values, strict=True)]
        print(f"  {name:20} {total / 1e6 / statistics.median(values):8.1f} MB/s   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    hub = HubServer().start()
    try:
        data = os.urandom(options.mb * 1_000_000)
        hub.add(REPOS[0], {"model-Q8_0.gguf": data})
        part = len(data) // SMALL_FILES
        shards = {f"model-{number + 1:05d}-of-{SMALL_FILES:05d}.gguf": data[number * part : (number + 1) * part] for number in range(SMALL_FILES)}
        hub.add(REPOS[1], shards)
        for repo in REPOS:
            compare(hub, repo, options.rounds)
    finally:
        hub.stop()


if __name__ == "__main__":
    main()
