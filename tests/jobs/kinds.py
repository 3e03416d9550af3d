"""Kinds of work made for tests, and the process that runs them: what a colleague's kind would do, and what it should not.

Run as `-m tests.jobs.kinds DIRECTORY` it is the worker, as `-m tests.jobs.kinds server DIRECTORY …` a server that submits and can be killed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr

from modules.core.errors import HubError
from modules.core.files import write_atomic
from modules.core.job import Cancelled, JobContext, JobKind
from modules.services.job_worker import main
from modules.services.jobs import JobService

COMMAND = (sys.executable, "-m", "tests.jobs.kinds")
SECRET = "hf_verysecretvalue"


RAISED: Mapping[str, BaseException] = {
    "AppError": HubError("The hub said no. Ask again tomorrow."),
    "group": ExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("more", [HubError("One of many said no.")])]),
    "CancelledError": asyncio.CancelledError(),
    "MemoryError": MemoryError(),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "full": OSError(errno.ENOSPC, "No space left on device", "/somewhere"),
    "ValueError": ValueError("odd\nand long"),
}


class CountArgs(BaseModel, extra="forbid"):
    n: int = Field(20, ge=1, le=1_000_000, description="How far to count.")
    step_s: float = Field(0.01, ge=0, le=60, description="Seconds for each step.")
    label: str = Field("", description="What it is about.")


class RaiseArgs(BaseModel, extra="forbid"):
    what: str = Field("ValueError", description="Which exception.")


def count(args: CountArgs, context: JobContext) -> Mapping[str, Any]:
    """Counts on from where it stopped, as the directory says."""
    path = context.directory / "count.json"
    done = json.loads(path.read_text())["done"] if path.exists() else 0
    context.log(f"from {done}")
    while done < args.n:
        time.sleep(args.step_s)
        done += 1
        write_atomic(path, json.dumps({"done": done}))
        context.progress(done, args.n, "steps", loss=1 / done)
    return {"counted": done}


def flood(args: CountArgs, context: JobContext) -> Mapping[str, Any]:
    """Reports as fast as it can."""
    for i in range(args.n):
        context.progress(i + 1, args.n, "steps", loss=float("nan"))
    return {"reports": args.n}


def stubborn(args: CountArgs, context: JobContext) -> Mapping[str, Any]:
    """Takes no notice, and has a helper process that takes none either."""
    helper = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
    write_atomic(context.directory / "helper", str(helper.pid))
    for i in range(args.n):
        time.sleep(args.step_s)
        try:
            context.progress(i, args.n, "steps")
        except Cancelled:
            context.log("no")
    return {}


def wrap(args: CountArgs, context: JobContext) -> Mapping[str, Any]:
    """A library that turns what stops it into an error of its own."""
    try:
        return count(args, context)
    except Cancelled as error:
        raise RuntimeError("callback failed") from error


def fail(args: RaiseArgs, context: JobContext) -> Mapping[str, Any]:
    """Raises whatever it is told to."""
    context.progress(1, 2, "steps")
    context.log(f"the key is {context.secrets.get('HF_TOKEN', 'not here')}")
    match args.what:
        case "secret":
            raise HubError(f"Refused: {context.secrets['HF_TOKEN']}.")
        case "SystemExit":
            sys.exit(3)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "thread":
            threading.Thread(target=time.sleep, args=(60,)).start()
            return {"path": Path("/x"), "env": {name: value for name, value in os.environ.items() if "TOKEN" in name or "OFFLINE" in name}}
    raise RAISED[args.what]


def fill(args: CountArgs, context: JobContext) -> Mapping[str, Any]:
    """Fills the disk it is on, goes on for a while, and ends as usual or by the error."""
    path = context.directory / "big"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            if args.label == "raise":
                raise
    for i in range(args.n):
        time.sleep(args.step_s)
        context.progress(i + 1, args.n, "steps", **dict.fromkeys("abcdef", "x" * 200))
    return {"full": True}


TEST_KINDS = (
    JobKind("count", "Count", CountArgs, count, "network", subject="label"),
    JobKind("compute", "Compute", CountArgs, count, "compute"),
    JobKind("flood", "Flood", CountArgs, flood, "network"),
    JobKind("stubborn", "Resist", CountArgs, stubborn, "network"),
    JobKind("wrap", "Wrap", CountArgs, wrap, "network"),
    JobKind("fail", "Fail", RaiseArgs, fail, "network", secrets=("HF_TOKEN",)),
    JobKind("fill", "Fill", CountArgs, fill, "network"),
)


class SecretArgs(BaseModel):
    """What the contract must refuse."""

    key: SecretStr


async def serve(state_dir: Path, submissions: list[list[Any]]) -> None:
    """A server: submits, says the ids, and lives until it is killed."""
    service = JobService(state_dir, TEST_KINDS, command=COMMAND)
    await service.start()
    ids = [(await service.submit("ann", kind, args)).id for kind, args in submissions]
    sys.stdout.write(json.dumps(ids) + "\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await service.close()


if __name__ == "__main__":
    if sys.argv[1] == "server":
        asyncio.run(serve(Path(sys.argv[2]), json.loads(sys.argv[3])))
    else:
        main(TEST_KINDS)
