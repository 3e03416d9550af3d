"""What this machine can do, measured once for each loader in a child process and kept in the state folder until the machine or a back end changes.

Measuring happens in the background, one loader at a time and only while no model is at work; nobody waits for it. Knows no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.core.files import read_object, write_atomic
from modules.core.process import child_environment, how_it_ended
from modules.core.settings import PROJECT_ROOT
from modules.loaders.machine import available_bytes, library_stamp, processor_name, usable_cores
from modules.loaders.measured import Measured, read_measured

log = logging.getLogger(__name__)

FILE = "machine.json"
VERSION = 10  # of what is measured: a new number measures anew
LOADERS = ("llama.cpp", "transformers")
PACKAGES = ("llama-cpp-python", "torch", "transformers", "numpy")
FILE_LIMIT_BYTES = 1 << 20
CHILD_LIMIT_S = 600.0
LOOK_S = 1.0  # between two looks whether models are at work
NEEDED_BYTES = 2 << 30
COMMAND = (sys.executable, "-m", "modules.services.machine_probe")


class MachineSpeed:
    """Keeps what was measured; measures what is asked for and not known. One event loop calls it."""

    def __init__(self, state_dir: Path, is_quiet: Callable[[], bool]) -> None:
        self._path = state_dir / FILE
        self._is_quiet = is_quiet
        self._lock = asyncio.Lock()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}  # loader → why; not tried again by itself
        self._closing = False

    def known(self, loader: str) -> Measured | None:
        """What was measured of a loader on this machine as it is now."""
        stored = self._read()
        return read_measured(stored.get(loader)) if stored.get("key") == machine_key() else None

    def measuring(self, loader: str) -> bool:
        """Whether it will be known soon."""
        return loader in self._running

    def problem(self, loader: str) -> str:
        """Why it is not known, as a sentence; empty without a reason."""
        return self._failed.get(loader, "")

    def want(self, loader: str, *, again: bool = False) -> None:
        """Begin to measure in the background unless it is known, being measured, or has failed; `again` in any case."""
        if loader not in LOADERS or self._closing or loader in self._running or (not again and (loader in self._failed or self.known(loader))):
            return
        self._failed.pop(loader, None)
        self._running[loader] = asyncio.get_running_loop().create_task(self._measure(loader))

    async def cancel(self) -> None:
        """Stop measuring; what was measured before stays."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop for good."""
        self._closing = True
        await self.cancel()

    async def settled(self) -> None:
        """Return when nothing is being measured any more."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _measure(self, loader: str) -> None:
        try:
            async with self._lock:
                while not self._is_quiet():
                    await asyncio.sleep(LOOK_S)
                await self._run(loader)
        except asyncio.CancelledError:
            self._failed[loader] = "Measuring this machine was stopped."
            raise
        except (OSError, ValueError, TimeoutError) as error:
            self._failed[loader] = f"This machine could not be measured: {error}"
            log.warning("%s", self._failed[loader])
        finally:
            self._running.pop(loader, None)

    async def _run(self, loader: str) -> None:
        if available_bytes() < NEEDED_BYTES:
            raise ValueError(f"that takes {NEEDED_BYTES >> 30} GB of free memory for half a minute; unload a model and measure again.")
        starting = asyncio.ensure_future(_start(loader))
        try:
            child = await asyncio.shield(starting)
        except asyncio.CancelledError:  # a child that is half started would be lost with what it started
            child = await starting
            _kill(child)
            await child.wait()
            raise
        try:
            output, errors = await asyncio.wait_for(child.communicate(), CHILD_LIMIT_S)
        finally:
            _kill(child)
            await child.wait()
        if child.returncode:
            last = errors.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
            raise ValueError(f"the measuring process ended ({how_it_ended(child.returncode)}) {last[0][:300]}")
        found = Measured.model_validate_json(output)
        await asyncio.to_thread(self._store, loader, found)

    def _read(self) -> dict[str, Any]:
        return read_object(self._path, FILE_LIMIT_BYTES)

    def _store(self, loader: str, found: Measured) -> None:
        stored, key = self._read(), machine_key()
        kept = {name: stored[name] for name in LOADERS if name in stored} if stored.get("key") == key else {}
        write_atomic(self._path, json.dumps({"key": key, **kept, loader: found.model_dump(mode="json")}), mode=0o600)


async def _start(loader: str) -> asyncio.subprocess.Process:
    """The measuring process, in a session of its own."""
    return await asyncio.create_subprocess_exec(
        *COMMAND, loader, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=PROJECT_ROOT, env=child_environment(os.environ), start_new_session=True,
    )  # fmt: skip


def _kill(child: asyncio.subprocess.Process) -> None:
    """End it with the process that writes its models: as long as one of them holds the pipe, the other's end is not told."""
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)


def machine_key() -> dict[str, Any]:
    """What the figures depend on; as JSON gives it back."""
    packages = [_version(name) for name in PACKAGES]
    return {"version": VERSION, "cores": usable_cores(), "processor": processor_name(), "packages": packages, "library": library_stamp()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
