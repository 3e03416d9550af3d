"""One run in several processes, on this machine and on others: the command that starts them, and the watch over those that run here.

The job's process makes no step itself: torchrun starts the ranks (`rank.py`), starts them again from the last checkpoint when one dies, at most twice,
and this process passes on how far they are and what a person wants. Knows no model.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from modules.core.errors import AppError, InvalidRequest, error_from
from modules.core.files import write_atomic
from modules.core.job import Cancelled, JobContext
from modules.core.process import how_it_ended
from modules.core.settings import PROJECT_ROOT
from modules.jobs.record import stop_reason
from modules.training.checkpoints import Checkpoints
from modules.training.options import TrainingOptions
from modules.training.spec import CHECKPOINTS, TrainArgs

RANK = "modules.training.rank"
NEWS, FAILURE, HALT, COMMANDS = "ranks.json", "ranks-error.json", "halt", "commands.json"
SAVED = "adapter"  # folder: what the ranks have learned, as plain PEFT reads it
RESTARTS = 2
LOOK_S = 0.25
STOP_S = 7.0  # for the last checkpoint, within the grace that a job has
KILL_S = 2.0
JOIN_S = 3600  # so long the first machine waits for the others
OWN_STORE = ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # without it ranks that start again find the addresses of those that died
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def learn_together(args: TrainArgs, context: JobContext) -> None:
    """Have all ranks make the steps that are left; returns when learning has ended, and the last checkpoint is whole.

    Raises:
        AppError: what a rank said, or that they died again and again.
        Cancelled: the person asked to stop.
    """
    options, directory = args.options, context.directory
    check_machines(options)
    if options.nodes > 1:
        commands = [shell_command(options, directory.name, node) for node in range(1, options.nodes)]
        write_atomic(directory / COMMANDS, json.dumps(commands))
        context.log(f"{options.nodes - 1} other machines are waited for. Start on each, in Paddock's folder, the command that the page shows.")
    for name in (NEWS, FAILURE, HALT):
        (directory / name).unlink(missing_ok=True)
    command = [sys.executable, *torchrun(options, directory.name, 0), "--job", str(directory)]
    agent = subprocess.Popen(command, cwd=PROJECT_ROOT, env=_environment(options), stdin=subprocess.DEVNULL)
    try:
        _attend(agent, args, context)
    except Cancelled:
        _stop(agent, directory)
        raise
    finally:
        end_all(agent.pid)
        agent.wait()
    _judge(agent.returncode, args, directory)


def torchrun(options: TrainingOptions, run: str, node: int) -> list[str]:
    """The arguments of Python that start a machine's ranks; the first machine is node 0."""
    alone = options.nodes == 1
    endpoint = "127.0.0.1:0" if alone else options.rendezvous
    host = endpoint.rpartition(":")[0].strip("[]")
    return [
        "-m", "torch.distributed.run", "--nnodes", str(options.nodes), "--nproc_per_node", str(options.processes), "--max_restarts", str(RESTARTS),
        "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", run, "--rdzv_conf", f"is_host={int(node == 0)},join_timeout={JOIN_S}",
        *(["--local_addr", host] if host in LOOPBACK else []), "-m", RANK,
    ]  # fmt: skip


def shell_command(options: TrainingOptions, run: str, node: int) -> str:
    """What a person starts on another machine. Which run it is comes from the first machine; base model and data lie at the same paths there."""
    return shlex.join(["=".join(OWN_STORE), ".venv/bin/python", *torchrun(options, run, node)])


def check_machines(options: TrainingOptions) -> None:
    """Refuse machines that could not meet.

    Raises:
        InvalidRequest: no address and port, or what only one machine can do.
    """
    if options.pissa and options.nodes > 1:
        raise InvalidRequest("pissa takes its beginning from a file of the first machine; use it on one machine, or turn it off.", field="pissa")
    host, _, port = options.rendezvous.rpartition(":")
    if options.nodes > 1 and not (host and port.isdigit() and 0 < int(port) < 1 << 16):
        raise InvalidRequest(f"“{options.rendezvous}” is no address:port; write for example 192.168.1.10:29500.", field="rendezvous")


def _environment(options: TrainingOptions) -> dict[str, str]:
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.processes)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, "PADDOCK_JOB_PROCESS": str(os.getpid()), "TORCH_CPP_LOG_LEVEL": "ERROR", **dict([OWN_STORE])}


def _attend(agent: subprocess.Popen[bytes], args: TrainArgs, context: JobContext) -> None:
    """Pass on the leader's news until the ranks end.

    Raises:
        Cancelled: the person asked to stop.
    """
    news: Mapping[str, Any] = {"done": 0, "total": None, "unit": "steps", "metrics": {"phase": _waiting(args.options)}}
    while agent.poll() is None and not (context.directory / FAILURE).exists():
        news = _read(context.directory / NEWS) or news
        context.progress(news["done"], news["total"], news["unit"], **news["metrics"])
        time.sleep(LOOK_S)


def _waiting(options: TrainingOptions) -> str:
    return f"Starting {options.processes} processes" if options.nodes == 1 else f"Waiting for {options.nodes - 1} other machines"


def _stop(agent: subprocess.Popen[bytes], directory: Path) -> None:
    """Let the leader write its last checkpoint, unless nobody wants it."""
    if stop_reason(directory) == "cancel":
        return
    with contextlib.suppress(OSError):
        write_atomic(directory / HALT, "")
    end_s = time.monotonic() + STOP_S
    while agent.poll() is None and not (directory / FAILURE).exists() and time.monotonic() < end_s:
        time.sleep(0.05)


def end_all(pid: int) -> None:
    """End a process and all it started, whatever sessions they made for themselves."""
    try:
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except psutil.Error:
        return
    for signalled in ("terminate", "kill"):
        for process in family:
            with contextlib.suppress(psutil.Error):
                getattr(process, signalled)()
        _, family = psutil.wait_procs(family, timeout=KILL_S)


def _judge(status: int, args: TrainArgs, directory: Path) -> None:
    """What it means that the ranks have ended."""
    failure = _read(directory / FAILURE)
    if failure:
        if failure["kind"] == "Cancelled":
            raise Cancelled("The run was asked to stop.")
        raise error_from(str(failure["kind"]), str(failure["message"]))
    if status != 0:
        newest = Checkpoints(directory / CHECKPOINTS, args.options.keep_checkpoints).newest()
        where = f"from the checkpoint of step {newest.step}" if newest else "from the beginning: there is no checkpoint yet"
        raise AppError(
            f"A process of this run ended in the middle of the work, {RESTARTS + 1} times in all ({how_it_ended(status)}). The log says more. "
            f"Correct that, then retry: it goes on {where}."
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
