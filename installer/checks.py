"""What `launch.py test` runs, in order, and the browser it needs.

A whole run asks a second time, alone, for the few tests that failed: what passes then is named in the summary as unsteady.
Knows the tools' command lines and where a Chromium may lie. Knows nothing of the tests' contents.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer.clients import ensure_clients
from installer.machine import package_manager
from installer.steps import Place

# The first one is the others without their windows, and takes a fifth less of the processor
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER_FILES = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
# Package manager → commands that install a browser and one font (without a font every text is 0 pixels wide)
INSTALL_BROWSER = (
    ("apt-get", ("apt-get -q update", "apt-get -q install -y --no-install-recommends chromium fonts-dejavu-core",
                 "apt-get -q install -y --no-install-recommends chromium-headless-shell")),
    ("dnf", ("dnf install -y chromium dejavu-sans-fonts",)),
    ("pacman", ("pacman -S --noconfirm chromium ttf-dejavu",)),
    ("zypper", ("zypper --non-interactive install chromium dejavu-fonts",)),
    ("apk", ("apk add chromium font-dejavu",)),
    ("brew", ("brew install --cask google-chrome",)),
)
CLIENTS = "clients"  # the stage that needs the clients of other makers
APART = ("contracts", "live", "security", CLIENTS, "e2e")  # folders of tests each in a stage of its own; each worker has servers of its own
# A worker for each core; a file's tests share their fixtures; the order of files is that of tests/conftest.py
BY_FILES = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
WITHOUT_PLUG_IN = ("-p", "no:schemathesis")  # it takes each worker a second to start
PARALLEL = (*BY_FILES, *WITHOUT_PLUG_IN)
MAKING_UP_REQUESTS = ("live",)  # stages that use it
PROCESSES = "processes"  # the marker of tests that start processes again and again: a stage of its own
TORCH = "torch"  # the marker of tests that load torch and its family (tests/conftest.py): another
NO_TESTS = 5  # pytest's exit status when nothing was collected or selected
SOME_FAILED = 1  # and when tests ran and some failed
UNSTEADY = 4  # up to so many failures are run again: a busy machine upsets one test or two, a defect comes back


@dataclass(frozen=True)
class Stage:
    """One tool to run: its name in the summary and its command line."""

    name: str
    command: tuple[str, ...]
    failures: Path | None = None
    """Where pytest writes which tests failed; none: nothing is run again."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `word` is ok, FAILED, SKIPPED or none (no test selected)."""

    name: str
    word: str
    seconds: float
    note: str = ""


def find_chromium(which: Callable[[str], str | None] = shutil.which) -> str:
    """Path of a Chromium, Chrome or Edge of this system, or an empty string. `PADDOCK_CHROMIUM` names one."""
    named = os.environ.get("PADDOCK_CHROMIUM", "")
    if named:
        return named
    found = next((path for path in map(which, BROWSERS) if path), "")
    return found or next((path for path in BROWSER_FILES if Path(path).exists()), "")


def browser_commands(manager: str, *, root: bool, sudo: bool) -> list[list[str]]:
    """The commands that install a browser; empty when the right to run them is missing."""
    commands = [command.split() for command in dict(INSTALL_BROWSER).get(manager, ())]
    if manager == "brew" or root:
        return commands
    return [["sudo", "-n", *command] for command in commands] if sudo else []


def ensure_chromium() -> str:
    """Path of a browser, installed by the system's package manager when there was none and that is allowed."""
    found = find_chromium()
    if found:
        return found
    manager = package_manager()
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in browser_commands(manager, root=root, sudo=shutil.which("sudo") is not None):
        print(f"      {' '.join(command)}", flush=True)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            print("\n".join((done.stdout + done.stderr).splitlines()[-5:]), flush=True)
            break
    return find_chromium()


def browser_advice() -> str:
    """The sentence for a machine without a browser."""
    manager = package_manager()
    commands = dict(INSTALL_BROWSER).get(manager, ())
    rights = "" if manager == "brew" else "sudo "
    how = " && ".join(rights + command for command in commands) or "install Chromium or Chrome"
    return f"no Chromium on this machine: {how}, or set PADDOCK_CHROMIUM to the path of one"


def stages(place: Place, arguments: Sequence[str]) -> list[Stage]:
    """What runs, in order. Arguments are for pytest: given any, only the pytest stages run."""
    python = str(place.python)
    tests = place.root / "tests"
    pytest = (python, "-m", "pytest", "-q")
    caches = place.root / ".pytest_cache"
    rules = [
        Stage("ruff", (python, "-m", "ruff", "check", ".")),
        Stage("import-linter", (python, "-c", "from importlinter.cli import lint_imports_command as run; run()")),
        Stage("mypy", (python, "-m", "mypy")),
    ]
    apart = [f"--ignore={tests / name}" for name in APART]
    found = [
        Stage("unit", (*pytest, *PARALLEL, "-m", f"not {PROCESSES} and not {TORCH}", *apart, str(tests), *arguments)),
        Stage(PROCESSES, (*pytest, *PARALLEL, "-m", PROCESSES, *apart, str(tests), *arguments)),
        Stage(TORCH, (*pytest, *PARALLEL, "-m", f"{TORCH} and not {PROCESSES}", *apart, str(tests), *arguments)),
    ]
    for name in APART:
        if any((tests / name).glob("**/test_*.py")):
            found.append(Stage(name, (*pytest, *(BY_FILES if name in MAKING_UP_REQUESTS else PARALLEL), str(tests / name), *arguments)))
    return found if arguments else rules + [noting_failures(stage, caches / stage.name) for stage in found]


def noting_failures(stage: Stage, cache: Path) -> Stage:
    """The same stage, with pytest's memory of what failed in a folder of its own that begins empty."""
    return Stage(stage.name, (*stage.command, "-o", f"cache_dir={cache}", "--cache-clear"), cache / "v" / "cache" / "lastfailed")


def failed_tests(stage: Stage) -> list[str]:
    """The tests that failed in a run of the stage, by pytest's own record."""
    try:
        return sorted(json.loads(stage.failures.read_text(encoding="utf-8"))) if stage.failures else []
    except (OSError, ValueError):
        return []


def again(stage: Stage) -> tuple[str, ...]:
    """The command that runs only what failed, in one process: nothing else disturbs it."""
    command = tuple(word for word in stage.command if word != "--cache-clear")
    return (*command, "--last-failed", "--last-failed-no-failures", "none", "-n", "0")


def run_stage(stage: Stage, place: Place, chromium: str, *, required: bool) -> Outcome:
    """Run one stage with its output shown; a stage that needs the missing browser is skipped, or failed where required."""
    print(f"\n== {stage.name}", flush=True)
    if stage.name == "e2e" and not chromium:
        advice = browser_advice()
        print(f"NOT RUN: {advice}", flush=True)
        return Outcome(stage.name, "FAILED" if required else "SKIPPED", 0.0, advice)
    env = {**os.environ, "PADDOCK_CHROMIUM": chromium, "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    status = subprocess.run(stage.command, cwd=place.root, env=env, check=False).returncode
    note = ""
    failed = failed_tests(stage) if status == SOME_FAILED else []
    if failed and len(failed) <= UNSTEADY:
        print(f"\n== {stage.name}, once more: {', '.join(failed)}", flush=True)
        status = subprocess.run(again(stage), cwd=place.root, env=env, check=False).returncode
        note = f"unsteady (failed, then passed alone): {', '.join(failed)}"
    seconds = time.monotonic() - started
    if status == 0:
        return Outcome(stage.name, "ok", seconds, note)
    if status == NO_TESTS and "pytest" in stage.command:
        return Outcome(stage.name, "none", seconds, "no test selected")
    return Outcome(stage.name, "FAILED", seconds, f"exit status {status}")


def run_with_clients(stage: Stage, place: Place, chromium: str, *, required: bool) -> Outcome:
    """Run the stage with the clients of other makers, which are installed first; where that fails, so does this stage, and no other."""
    lacking = ensure_clients(place, lambda text: print(text, flush=True))
    if not lacking:
        return run_stage(stage, place, chromium, required=required)
    print(f"\n== {stage.name}\nNOT RUN: {lacking}", flush=True)
    return Outcome(stage.name, "FAILED", 0.0, lacking.splitlines()[-1])


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 when nothing failed and at least one stage ran to its end."""
    words = {outcome.word for outcome in outcomes}
    return 0 if "ok" in words and "FAILED" not in words else 1


def summary(outcomes: Sequence[Outcome]) -> str:
    """The table at the end."""
    rows = [f"{item.name:<14} {item.word:<8} {item.seconds:7.1f} s  {item.note}".rstrip() for item in outcomes]
    total = sum(item.seconds for item in outcomes)
    return "\n".join(["", *rows, f"{'total':<14} {'':<8} {total:7.1f} s"])


def run_checks(place: Place, arguments: Sequence[str]) -> int:
    """Run every stage, also after one failed; returns the exit status. In CI (`CI` is set) a missing browser fails."""
    todo = stages(place, arguments)
    chromium = ensure_chromium() if any(stage.name == "e2e" for stage in todo) else find_chromium()
    required = os.environ.get("CI", "").lower() not in ("", "0", "false")
    outcomes = [(run_with_clients if stage.name == CLIENTS else run_stage)(stage, place, chromium, required=required) for stage in todo]
    print(summary(outcomes), flush=True)
    sys.stdout.flush()
    return exit_status(outcomes)
