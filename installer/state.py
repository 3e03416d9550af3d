"""What set-up has done so far: a small file in `.venv`, and a lock against two set-ups at once.

Knows fingerprints and steps, not what the steps do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class SetupError(Exception):
    """Set-up cannot go on; the message is a sentence that says what to do."""


@dataclass(frozen=True)
class Step:
    """One part of set-up. It is done when the state holds its `fingerprint`: what it was made from."""

    name: str
    fingerprint: str
    title: str
    run: Callable[[], None]


@dataclass
class SetupState:
    """Contents of `paddock-setup.json`: the accelerator chosen and the fingerprint of each finished step."""

    path: Path
    accelerator: dict[str, Any] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> SetupState:
        """The state at `path`; an empty one when it is missing or unreadable (then every step runs again)."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, dict(raw["accelerator"]), dict(raw["done"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def write(self) -> None:
        """Replace the file in one step: an interruption leaves the old state or the new one."""
        text = json.dumps({"accelerator": self.accelerator, "done": self.done}, indent=1)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.path)

    def is_done(self, step: Step) -> bool:
        """Whether the step was finished with the same inputs."""
        return self.done.get(step.name) == step.fingerprint


def fingerprint(*parts: str | Path) -> str:
    """Hash of texts and of the contents of files; line endings of a checkout do not matter."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes().replace(b"\r\n", b"\n") if isinstance(part, Path) else part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def pending(steps: Sequence[Step], state: SetupState) -> list[Step]:
    """The steps still to run, in order."""
    return [step for step in steps if not state.is_done(step)]


def run_steps(steps: Sequence[Step], state: SetupState, say: Callable[[str], None]) -> int:
    """Run what is pending and record each step when it is finished; returns how many ran.

    Raises:
        SetupError: a step failed; the ones before it stay recorded.
    """
    todo = pending(steps, state)
    for number, step in enumerate(todo, 1):
        say(f"[{number}/{len(todo)}] {step.title}")
        started = time.monotonic()
        state.done.pop(step.name, None)
        if state.path.parent.is_dir():  # an interrupted step is not done, whatever it was before
            state.write()
        step.run()
        state.done[step.name] = step.fingerprint
        state.write()
        say(f"      done in {time.monotonic() - started:.0f} s")
    return len(todo)


@contextlib.contextmanager
def setup_lock(path: Path, say: Callable[[str], None], wait_s: float = 3600.0) -> Iterator[None]:
    """Hold the lock file while set-up runs. The system frees it when the process ends, however it ends.

    Raises:
        SetupError: another set-up held it for longer than `wait_s`.
    """
    with path.open("a+", encoding="ascii") as file:
        deadline = time.monotonic() + wait_s
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                say("Another set-up of this folder is running; waiting for it.")
                told = True
            if time.monotonic() > deadline:
                raise SetupError(f"Another set-up has held {path} for {wait_s:.0f} s. End it, then start again.")
            time.sleep(0.5)
        yield


def _try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file, or say that somebody else has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
