"""Processes that download. `python -m tests.hub.download_child ENDPOINT TARGET PATH SIZE SHA256` fetches one file.

`python -m tests.hub.download_child` reads a line `ARGS<tab>JOBFOLDER` for each job, starts a process of its own for it, writes its id and,
when it has ended, its exit status: twenty processes are started without importing everything twenty times.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from modules.hub.download import DownloadArgs, download
from modules.hub.fetcher import Fetcher
from modules.hub.repository import RemoteFile
from modules.hub.transport import Access, Transport
from tests.hub.conftest import Context, quick_policy
from tests.hub.hub_server import COMMIT


async def fetch_one(endpoint: str, target: str, path: str, size: str, sha256: str) -> int:
    policy = quick_policy()
    async with Transport(Access(endpoint), policy.limits) as wire:
        file = RemoteFile(path, int(size), sha256)
        return await Fetcher(wire, "me/tiny", COMMIT, policy).fetch(file, Path(target), lambda have: None)


def serve() -> None:
    import huggingface_hub.hf_api  # noqa: F401  # what a download imports, once for all

    for line in sys.stdin:
        args, folder = line.rstrip("\n").split("\t")
        process = os.fork()
        if process == 0:
            download(DownloadArgs.model_validate_json(args), Context(Path(folder)), quick_policy())
            os._exit(0)
        say(process)
        say(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(str(asyncio.run(fetch_one(*sys.argv[1:]))))
    else:
        serve()
