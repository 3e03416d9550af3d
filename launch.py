#!/usr/bin/env python3
"""Starts Paddock; sets it up first where needed. Standard library only; Linux, macOS, Windows.

    python3 launch.py                     set up if needed, then serve; prints the address
    python3 launch.py -- --port 8000      what follows "--" goes to server.py
    python3 launch.py test                set up, add what the tests need, run all rules and tests
    python3 launch.py test -- -k sampler  what follows "--" goes to pytest (then only the tests run)
    python3 launch.py doctor              versions, GPU, memory, back ends
    python3 launch.py setup               only set up; looks at the machine anew

Knows the command line and how to start the server. How set-up works: the folder `installer`.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - before any import that needs it; old syntax on purpose
    sys.exit(f"Paddock needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}).\n"
             "Install a newer one (python.org, or the system's package manager) and start again with it, for example: "
             "python3.11 launch.py")

import argparse
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from installer.checks import run_checks
from installer.doctor import run_doctor
from installer.machine import KINDS, Accelerator, detect, forced
from installer.state import SetupError, pending, run_steps, setup_lock
from installer.steps import Place, remember, remembered, setup_steps


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for the launcher, and what follows the first "--"."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1:]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The launcher's own arguments."""
    text = __doc__ or ""
    usage = 'launch.py [start | setup | test | doctor] [--accelerator KIND] [--again] [-- what is for the server, as in "launch.py -- --port 8000"]'
    parser = argparse.ArgumentParser(prog="launch.py", usage=usage, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", default="start", choices=("start", "setup", "test", "doctor"))
    parser.add_argument("--accelerator", choices=KINDS, help="set up for this kind instead of what is found")
    parser.add_argument("--again", action="store_true", help="with setup: compile llama.cpp again")
    return parser.parse_args(arguments)


def choose(place: Place, options: argparse.Namespace) -> Accelerator:
    """The accelerator asked for, or the one chosen before (a start must not look for GPUs), or the one found."""
    if options.accelerator:
        return forced(options.accelerator)
    return (None if options.command == "setup" else remembered(place.state())) or detect()


def set_up(place: Place, options: argparse.Namespace) -> int:
    """Bring the environment up to date; returns how many steps ran. Nothing to do costs two small file reads.

    Raises:
        SetupError: a sentence that says what to do.
    """
    tests = options.command == "test"
    accelerator = choose(place, options)
    if not options.again and not pending(setup_steps(place, accelerator, tests=tests), place.state()):
        return 0
    with setup_lock(place.root / ".venv.lock", say):
        state = place.state()
        steps = setup_steps(place, accelerator, tests=tests, again=options.again)
        if options.again:
            state.done.pop("llama.cpp", None)
        if pending(steps, state):
            say(f"Setting up Paddock in {place.venv} (for {accelerator}). Ctrl+C stops; the next start goes on.")
        remember(state, accelerator)
        return run_steps(steps, state, say)


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, flush=True)


def serve(place: Place, arguments: Sequence[str]) -> int:
    """Become the server: its signals and exit status are ours. Windows has no exec, so there it is a child."""
    command = [str(place.python), str(place.root / "server.py"), *arguments]
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    with subprocess.Popen(command) as server:
        # Ctrl+C reaches the child by itself; the launcher only waits for it to end in good order
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return server.wait()


def interrupted(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends set-up the way Ctrl+C does: children first."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit status."""
    ours, theirs = split_arguments(arguments)
    options = parse(ours)
    place = Place(Path(__file__).resolve().parent)
    if options.command == "doctor":
        return run_doctor(place)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        ran = set_up(place, options)
        if options.command == "test":
            return run_checks(place, theirs)
        if options.command == "setup":
            say("Set-up is complete." if ran else "Set-up was complete already; nothing to do.")
            return 0
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return serve(place, theirs)
    except SetupError as error:
        say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped. Start again to go on where it stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
