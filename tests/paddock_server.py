"""A real server in a process of its own, with its own folders, and what tests ask of it besides the page.

Knows the command line, the page's own routes and the engine's process. Knows no browser.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
STARTER = "starter/starter-Q8_0.gguf"
WORKER = "modules.services.worker"  # in the command line of an engine
START_LIMIT_S = 60
WAIT_LIMIT_S = 40
IDLE_S, BUSY_S = 0.03, 0.006  # of a slowed engine
LONG = {"params": {"ban_eos": True, "temperature": 0.7, "max_tokens": 700}}  # settings under which replies never end by themselves


def wait_for(question: Callable[[], Any], what: str, limit_s: float = WAIT_LIMIT_S) -> Any:
    """Ask until the answer is true; the answer."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"after {limit_s} s still not: {what}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ServerProcess:
    """`server.py` with flags of a test's choice, in a process of its own, in an environment without settings of this machine."""

    def __init__(self, folder: Path, *flags: str, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self.log_path = folder / "server.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
        command = [sys.executable, str(ROOT / "server.py"), "--state-dir", str(folder / "state"), *flags]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env={**clean, "OMP_NUM_THREADS": "1", **environ})

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def answers(self, url: str) -> bool:
        """Whether it answers at this address; fails when it has ended."""
        assert self.process.poll() is None, self.log
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}health").status_code == 200
        return False

    def children(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        """Stop it as a person would with Ctrl+C; it has ten seconds, and nothing of it may stay."""
        if self.process.poll() is not None:
            return
        children = self.children()
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            _, left = psutil.wait_procs(children, timeout=10)
            for child in left:
                child.kill()
        assert not left, f"processes outlived the server: {[child.cmdline() for child in left]}"


class PaddockServer(ServerProcess):
    """One running server. Replies of the starter model can be slowed, and held in the middle: see `slowed` and `held`."""

    def __init__(
        self, folder: Path, models_dir: Path, loras_dir: Path, *flags: str, model: str = STARTER, environ: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._pulse = threading.Lock()
        self._holding = False
        key = environ.get("PADDOCK_API_KEY", "") or dict(pairwise(flags)).get("--api-key", "")
        self._known = {"authorization": f"Bearer {key}"} if key else {}
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/"
        self.datasets_dir = folder / "datasets"
        for source, name in (("presets", "presets"), ("characters", "characters"), ("prompt_templates", "templates")):
            if not (folder / name).exists():  # a server that was here before has left its own
                shutil.copytree(ROOT / source, folder / name, ignore=shutil.ignore_patterns(".*", "own"))
        super().__init__(
            folder, "--port", str(self.port), "--models-dir", str(models_dir), "--loras-dir", str(loras_dir), "--presets-dir", str(folder / "presets"),
            "--datasets-dir", str(self.datasets_dir), "--templates-dir", str(folder / "templates"),
            "--characters-dir", str(folder / "characters"), "--verbose", "--no-template-check", *flags,  # what the engine counts is what a test asked for
            environ=environ,
        )  # fmt: skip
        self.http = httpx.Client(base_url=self.url, timeout=120)
        try:
            wait_for(lambda: self.answers(self.url), "the server answers", START_LIMIT_S)
            wait_for(lambda: self.loaded() == model, f"{model} is loaded", START_LIMIT_S)
        except BaseException:
            self.close()  # who has no server to close would leave it running
            raise

    # ---- routes ----------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def conversation(self, conversation_id: str) -> dict[str, Any]:
        return self.ask("GET", f"ui/conversations/{conversation_id}")

    def make_conversation(self, messages: tuple[tuple[str, str], ...] = (), *, title: str = "", settings: dict[str, Any] | None = None) -> str:
        """A conversation with (role, text) messages, as imported from a file; its id."""
        rows = [{"role": role, "content": text} for role, text in messages]
        return self.ask("POST", "ui/conversations/import", {"title": title, "settings": settings or {}, "messages": rows})["id"]

    def text(self, message_id: str) -> str:
        return self.ask("GET", f"ui/messages/{message_id}/text")["text"]

    def loaded(self) -> str:
        """Name of the loaded model, or an empty string."""
        return next(iter(self.http.get("health", headers=self._known).json()["loaded"]), "")

    def load(self, name: str = STARTER) -> None:
        """Have a model loaded, as an API client that names it would."""
        if self.loaded() != name:
            self.ask("POST", "v1/completions", {"model": name, "prompt": "a", "max_tokens": 1})

    def counters(self) -> dict[str, int]:
        """What the engine counts: steps, running and waiting replies, cancelled ones."""
        return self.ask("GET", "v1/internal/counters")

    # ---- the engine's process --------------------------------------------------------------------------------------

    def engine(self) -> psutil.Process:
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if WORKER in child.cmdline():
                    return child
        raise AssertionError("no engine runs")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The engine makes no step meanwhile, so that a reply surely is in its middle."""
        engine = self.engine()
        with self._pulse:
            self._holding = True
            engine.suspend()
        try:
            yield
        finally:
            with self._pulse, contextlib.suppress(psutil.NoSuchProcess):
                self._holding = False
                engine.resume()

    @contextlib.contextmanager
    def slowed(self) -> Iterator[Callable[[], None]]:
        """The engine runs a sixth of the time, as on a slow machine: a tiny model would have ended before a browser shows its first words.

        What this gives ends that at once, for who has nothing left to do but to wait for the end of a reply.
        """
        stop = threading.Event()
        pulses = threading.Thread(target=self._pulses, args=(stop,))
        pulses.start()
        try:
            yield stop.set
        finally:
            stop.set()
            pulses.join()

    def _pulses(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(psutil.NoSuchProcess, AssertionError):  # between two engines there is none
                engine = self.engine()
                while not stop.is_set() and engine.is_running():
                    for act, seconds in ((engine.suspend, IDLE_S), (engine.resume, BUSY_S)):
                        with self._pulse:
                            if not self._holding:
                                act()
                        time.sleep(seconds)
            time.sleep(IDLE_S)
