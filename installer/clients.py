"""The clients of other makers that the tests run: a second environment for those in Python, npm's folder for those in JavaScript.

The second environment has its own packages first and Paddock's behind them, so nothing that a client wants changes what Paddock runs on, and
torch is not there twice. Knows pip, npm and the two folders; knows no client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from installer.progress import run_logged
from installer.state import SetupError, SetupState, Step, fingerprint, pending, run_steps, setup_lock
from installer.steps import Place

NO_NETWORK = ("connection", "timed out", "name resolution", "getaddrinfo", "enotfound", "eai_again", "econnrefused", "etimedout", "proxy", "ssl")
PATHS = "import sysconfig; print(sysconfig.get_path('purelib'))"


class ClientPlace:
    """Where the clients are, in a checkout."""

    def __init__(self, place: Place) -> None:
        self.paddock = place
        self.venv = place.root / ".venv-clients"
        self.python = self.venv / place.python.relative_to(place.venv)
        self.requirements = place.root / "requirements-clients.txt"
        self.scripts = place.root / "tests" / "clients" / "js"
        self.packages = self.scripts / "node_modules"
        self.log = self.venv / "paddock-setup.log"

    def state(self) -> SetupState:
        """What is done; nothing of what was deleted since."""
        state = SetupState.read(self.venv / "paddock-setup.json")
        there = {"python": self.python.exists(), "npm": self.packages.is_dir()}
        state.done = {name: value for name, value in state.done.items() if there.get(name)}
        return state


def has_node() -> bool:
    """Whether JavaScript runs here. Paddock needs none; without it its JavaScript clients are not tried."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def client_steps(clients: ClientPlace) -> list[Step]:
    """What makes them, in order."""
    paddock = clients.paddock
    version = "{}.{}".format(*sys.version_info[:2])
    made_from = fingerprint(version, clients.requirements, paddock.requirements)
    steps = [Step("python", made_from, "clients of other makers, for the tests", lambda: make_environment(clients))]
    if has_node():
        steps.append(Step("npm", fingerprint(clients.scripts / "package-lock.json"), "clients in JavaScript", lambda: install_packages(clients)))
    return steps


def ensure_clients(place: Place, say: Callable[[str], None]) -> str:
    """Make what is missing; a sentence that says why not, or nothing."""
    clients = ClientPlace(place)
    if not pending(client_steps(clients), clients.state()):
        return ""
    try:
        with setup_lock(place.root / ".venv.lock", say):
            run_steps(client_steps(clients), clients.state(), say)
    except SetupError as error:
        return str(error)
    return ""


def make_environment(clients: ClientPlace) -> None:
    """The second environment, from nothing. Its packages come as they are pinned: Paddock's pip asks for nothing beyond them.

    Raises:
        SetupError: it was not made; says why.
    """
    python = str(clients.paddock.python)
    _must(clients, "environment for clients", [python, "-m", "venv", "--clear", "--without-pip", str(clients.venv)])
    pip = [python, "-m", "pip", "--python", str(clients.python), "--disable-pip-version-check", "--no-input"]
    _must(clients, clients.requirements.name, [*pip, "install", "--no-deps", "-r", str(clients.requirements)])
    behind(clients)


def behind(clients: ClientPlace) -> None:
    """Put the packages of Paddock's environment behind those of the clients."""
    both = (clients.python, clients.paddock.python)
    own, theirs = (subprocess.run([str(path), "-c", PATHS], capture_output=True, text=True, check=True).stdout.strip() for path in both)
    (Path(own) / "paddock.pth").write_text(theirs + "\n", encoding="utf-8")


def install_packages(clients: ClientPlace) -> None:
    """What package-lock.json names.

    Raises:
        SetupError: it was not installed; says why.
    """
    npm = shutil.which("npm") or "npm"
    quiet = {**os.environ, "npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
    _must(clients, "package-lock.json", [npm, "ci", "--ignore-scripts", "--prefix", str(clients.scripts)], quiet)


def _must(clients: ClientPlace, title: str, command: Sequence[str], env: dict[str, str] | None = None) -> None:
    clients.venv.mkdir(exist_ok=True)
    log = clients.paddock.log if "venv" in command else clients.log  # making the environment empties its folder
    status, tail = run_logged(command, title, log, env)
    if status == 0:
        return
    lines = [line for line in tail.splitlines() if line.strip()][-6:]
    away = any(word in tail.lower() for word in NO_NETWORK)
    cure = "The package index was not reached: check the network and start again." if away else "Look at the lines above and start again."
    raise SetupError("\n".join([*lines, f"{title} was not installed, so Paddock is not tried with the clients of other makers. {cure}"]))
