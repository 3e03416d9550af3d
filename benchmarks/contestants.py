"""Who is measured in benchmarks/engine.py: servers in processes of their own, all asked through the same API with the same sampling.

Knows how each is started and told what all are told: context, slots, threads, batch. Knows no measure.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

import psutil

from benchmarks.llama_server import BENCH, built_program, cached_program
from benchmarks.streams import Stream
from modules.loaders.model_info import read_info

ROOT = Path(__file__).resolve().parents[1]
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
START_LIMIT_S, STOP_LIMIT_S, ASK_LIMIT_S = 600.0, 10.0, 5.0
PYTHON_SERVER_NEEDS = ("starlette-context", "sse-starlette", "pydantic-settings", "python-dotenv")
FIRST_WORD = 300  # of the ids that prompts are made of: special tokens and bytes stand before
WORKER = "modules.services.worker"  # in the command line of our engine


class StartError(RuntimeError):
    """A contestant did not come up."""


@dataclass(frozen=True)
class Model:
    """A file or folder, and what of it prompts need to be made."""

    name: str
    path: Path
    vocab_size: int

    @classmethod
    def at(cls, name: str, path: Path) -> Model:
        """What its header says."""
        return cls(name, path, read_info(path, path.parent).vocab_size)

    def prompt(self, tokens: int, seed: str) -> list[int]:
        """So many tokens; another seed, other tokens from the first one on."""
        chance = random.Random(seed)
        return [chance.randrange(min(FIRST_WORD, self.vocab_size // 2), self.vocab_size) for _ in range(tokens)]


@dataclass(frozen=True)
class Flags:
    """What every server is told alike; empty leaves everything to the server."""

    slots: int = 1
    context: int = 2048  # of each slot
    threads: int = 1
    batch: int = 512


class Server:
    """A process with an OpenAI-compatible API."""

    takes_ids = True

    def __init__(self, name: str, command: Sequence[str], port: int, folder: Path, ready: Callable[[dict[str, Any]], bool], path: str = "/health") -> None:
        self.name, self.port, self._folder = name, port, folder
        self.model = ""
        self.body: dict[str, Any] = dict(SAMPLING)
        self.log_path = folder / "log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environ)
        self._wait(path, ready)

    def _wait(self, path: str, ready: Callable[[dict[str, Any]], bool]) -> None:
        end_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end_s:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, ValueError):
                if ready(self.get(path)):
                    return
            time.sleep(0.1)
        self.close()
        raise StartError(f"{self.name} did not come up. Its last words:\n{self.log_path.read_text(errors='replace')[-3000:]}")

    def get(self, path: str, body: Any = None) -> Any:
        """Ask one of its routes.

        Raises:
            OSError: it does not answer, or with an error.
        """
        request = urllib.request.Request(f"http://localhost:{self.port}{path}", None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=ASK_LIMIT_S) as answer:
            return json.load(answer)

    def stream(self, prompt: Any, tokens: int, seed: int = 1, **more: Any) -> Stream:
        """A request that is still to be sent: so many tokens, whatever the model would like. `messages` asks for a chat."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "seed": seed, "stream": True, "stream_options": {"include_usage": True}}
        path = "/v1/completions"
        if "messages" in more:
            del body["prompt"]
            path = "/v1/chat/completions"
        return Stream(self.port, path, body | self.body | more)

    def processes(self) -> list[psutil.Process]:
        """It and everything below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(self.process.pid)
            return [whole, *whole.children(recursive=True)]
        return []

    def engine(self) -> psutil.Process:
        """Our engine's process.

        Raises:
            LookupError: there is none.
        """
        for process in self.processes():
            if WORKER in process.cmdline():
                return process
        raise LookupError("no engine runs")

    def cpu_s(self) -> float:
        """Processor time that all of it has used."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """End it and everything below it."""
        processes = self.processes()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_LIMIT_S)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


@dataclass
class Yard:
    """Where contestants live: their folders, and an end for all of them."""

    folder: Path
    plain: bool = False  # whether llama-server is compiled as its makers do, in every part
    servers: list[Server] = field(default_factory=list)
    count: int = 0

    def place(self) -> tuple[Path, int]:
        """An empty folder and a free port."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir(parents=True)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return folder, int(listener.getsockname()[1])

    def paddock(self, model: Model, flags: Flags | None, **options: Any) -> Server:
        """Our server, page and all; without flags as it is started by somebody who says only the model."""
        folder, port = self.place()
        given = {} if flags is None else {"slots": flags.slots, "context_length": flags.context, "threads": flags.threads, "batch_tokens": flags.batch}
        if flags is not None and model.path.is_file():
            given["threads_batch"] = flags.threads
        (folder / "loras").mkdir()
        shutil.copytree(ROOT / "presets", folder / "presets")
        command = [
            sys.executable, str(ROOT / "server.py"), "--no-template-check", "--port", str(port), "--state-dir", str(folder / "state"), "--models-dir", str(model.path.parent),
            "--loras-dir", str(folder / "loras"), "--presets-dir", str(folder / "presets"), "--datasets-dir", str(folder / "datasets"), "--offline",
            "--model", model.path.name, *(part for name, value in (given | options).items() for part in ("--option", f"{name}={value}")),
        ]  # fmt: skip
        server = self._kept(Server("Paddock", command, port, folder, lambda answer: model.path.name in answer["loaded"]))
        server.model = model.path.name
        server.body["ban_eos"] = True
        return server

    def llama_server(self, model: Model, flags: Flags | None, *more: str) -> Server:
        """llama.cpp's own server; with its own defaults also compiled as its makers do, else with the flags of our library."""
        folder, port = self.place()
        told: list[Any] = [] if flags is None else [
            "-np", flags.slots, "-c", flags.context * flags.slots, "-t", flags.threads, "-tb", flags.threads, "-b", flags.batch, "-ub", flags.batch,
        ]  # fmt: skip
        command = [str(built_program(plain=self.plain or flags is None)), "-m", str(model.path), "--port", str(port), *map(str, told), *more]
        server = self._kept(Server("llama-server", command, port, folder, lambda answer: answer.get("status") == "ok"))
        server.body |= {"ignore_eos": True, "cache_prompt": True}
        return server

    def python_server(self, model: Model, flags: Flags) -> Server | None:
        """`python -m llama_cpp.server`; None, with a sentence on standard error, where what it needs cannot be had."""
        folder, port = self.place()
        packages = _python_server_packages()
        if packages is None:
            return None
        command = [
            sys.executable, "-c", f"import sys; sys.path.append({str(packages)!r}); import runpy; runpy.run_module('llama_cpp.server', run_name='__main__')",
            "--model", str(model.path), "--port", str(port), "--n_ctx", str(flags.context), "--n_threads", str(flags.threads),
            "--n_threads_batch", str(flags.threads), "--n_batch", str(flags.batch), "--interrupt_requests", "false",
        ]  # fmt: skip
        try:
            server = self._kept(Server("llama_cpp.server", command, port, folder, lambda answer: bool(answer["data"]), "/v1/models"))
        except StartError as error:
            sys.stderr.write(f"llama_cpp.server is left out: {error}\n")
            return None
        server.takes_ids = False
        server.body["logit_bias"] = {str(number): -100.0 for number in _end_ids(model.path)}
        return server

    def _kept(self, server: Server) -> Server:
        self.servers.append(server)
        return server

    def close(self, *servers: Server) -> None:
        """End these, or all."""
        for server in servers or tuple(self.servers):
            self.servers.remove(server)
            server.close()


def llama_bench(model: Model, flags: Flags, prompt: int, written: int) -> float:
    """Tokens per second of the bare loop that llama.cpp measures itself with: no HTTP, no sampling."""
    command = [built_program(BENCH), "-m", model.path, "-t", flags.threads, "-b", flags.batch, "-ub", flags.batch, "-p", prompt, "-n", written, "-r", 1, "-o", "json"]
    told = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return float(json.loads(told.stdout)[0]["avg_ts"])


def _end_ids(path: Path) -> list[int]:
    from modules.loaders.gguf_header import read_gguf_header

    found = read_gguf_header(path).metadata.get("tokenizer.ggml.eos_token_id")
    return [found] if isinstance(found, int) else []


def _python_server_packages() -> Path | None:
    """A folder with what `llama_cpp.server` needs and this environment lacks, fetched once beside the programs."""
    folder = cached_program(plain=True).parent / f"llama_cpp.server-{metadata.version('starlette')}"
    if folder.is_dir() or all(util.find_spec(name) for name in ("starlette_context", "sse_starlette", "pydantic_settings")):
        return folder
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(staged), *PYTHON_SERVER_NEEDS]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        sys.stderr.write(f"llama_cpp.server is left out: {', '.join(PYTHON_SERVER_NEEDS)} could not be fetched.\n")
        shutil.rmtree(staged, ignore_errors=True)
        return None
    staged.rename(folder)
    return folder
