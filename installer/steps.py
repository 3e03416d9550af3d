"""The steps of set-up: virtual environment, torch, llama.cpp, everything else, what the tests need.

Knows pip, the order and where each build comes from. pip's own configuration (proxies, mirrors, find-links, cache) is
respected everywhere. What was done is kept by `installer.state`.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from installer.compiler import PARTS, for_llama, has_loops, left_out, mark, without_loops
from installer.machine import (
    LLAMA_INDEX,
    TORCH_INDEX,
    Accelerator,
    build_jobs,
    cmake_args,
    gpu_compiler,
    missing_compiler,
)
from installer.progress import run_logged
from installer.state import SetupError, SetupState, Step, fingerprint

PROBE_S = 4.0
COMPILED = b"Building wheel for llama-cpp-python"  # what pip says when it does, and when that failed
NOT_COMPILED = re.compile(r"[Ff]ailed building wheel|[Ff]ailed to build|failed-wheel-build")
NO_SUCH_BUILD = ("No matching distribution found", "Could not find a version that satisfies")
# Loads the native library, and answers with the starter model where it is there: what a wheel built for another
# processor fails at (illegal instruction)
CHECK_LLAMA = """
import sys, pathlib, llama_cpp
llama_cpp.llama_backend_init()
model = pathlib.Path(sys.argv[1])
if model.is_file():
    llama_cpp.Llama(str(model), n_ctx=64, verbose=False)("a", max_tokens=2)
"""


@dataclass(frozen=True)
class Place:
    """Where things are: the checkout and the virtual environment in it."""

    root: Path

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def log(self) -> Path:
        """Everything that pip and the compilers wrote."""
        return self.venv / "paddock-setup.log"

    @property
    def requirements(self) -> Path:
        """What Paddock runs on."""
        return self.root / "requirements.txt"

    @property
    def test_requirements(self) -> Path:
        """What the tests need on top."""
        return self.root / "requirements-test.txt"

    def state(self) -> SetupState:
        """What is done; nothing, when the environment is gone or its Python was replaced by another version."""
        state = SetupState.read(self.venv / "paddock-setup.json")
        return state if self.python.exists() and not self.stale() else SetupState(state.path)

    def stale(self) -> bool:
        """Whether the environment's interpreter is ours, yet of another version than the one that made it."""
        try:
            text = (self.venv / "pyvenv.cfg").read_text(encoding="utf-8")
        except OSError:
            return False
        made_by = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
        same_file = self.python.resolve() == Path(sys.executable).resolve()
        return bool(made_by and same_file and made_by[1] != "{}.{}".format(*sys.version_info[:2]))


def pin(requirements: Path, name: str) -> str:
    """The pinned version of a package in a requirements file.

    Raises:
        SetupError: the file has no `name==version` line.
    """
    for line in requirements.read_text(encoding="utf-8").splitlines():
        found = re.match(rf"{re.escape(name)}==([^;\s]+)", line)
        if found:
            return found[1]
    raise SetupError(f"{requirements.name} has no line \"{name}==version\". Restore the file from the repository.")


def fetch(url: str, timeout_s: float = PROBE_S) -> str:
    """Text at an address; empty when it does not answer within the time, name look-up included."""
    answer: list[str] = []

    def read() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as page:
                answer.append(page.read(2_000_000).decode("utf-8", "replace"))
        except (OSError, ValueError, http.client.HTTPException):
            return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answer[0] if answer else ""


def pip(place: Place, title: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `pip install` in the environment; returns its status and the end of what it wrote."""
    command = [str(place.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    return run_logged(command, title, place.log, env)


def must(place: Place, title: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run `pip install` and stop set-up when it fails.

    Raises:
        SetupError: with the end of pip's output and the cure.
    """
    status, tail = pip(place, title, arguments, env)
    if status:
        raise SetupError(_failed(place, title, tail))


def _failed(place: Place, title: str, tail: str) -> str:
    lines = [line for line in tail.splitlines() if line.strip()][-8:]
    cure = "Look at the lines above; when the cause is gone, start again: set-up goes on at this step."
    if "No space left" in tail:
        cure = "The disk is full. Free some space and start again: set-up goes on at this step."
    elif re.search(r"connection|timed out|name resolution|getaddrinfo|SSL|proxy", tail, re.IGNORECASE):
        cure = ("The package index was not reached. Check the network (behind a proxy set HTTPS_PROXY) and start again: "
                "set-up goes on at this step.")
    return "\n".join([*lines, "", f"{title} failed. {cure}", f"Everything that was written: {place.log}"])


def make_venv(place: Place) -> None:
    """Make the virtual environment with the Python that runs this."""
    command = [sys.executable, "-m", "venv", str(place.venv)]
    if place.venv.exists() and (not place.python.exists() or place.stale()):
        command.insert(3, "--clear")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        text = done.stdout + done.stderr
        how = ("On Debian and Ubuntu: sudo apt-get install python3-venv. " if "ensurepip" in text else "")
        raise SetupError(f"{text.strip()}\n\nThe virtual environment {place.venv} was not made. {how}Then start again.")


def install_torch(place: Place, accelerator: Accelerator) -> None:
    """Install the torch build for the accelerator, from the first place that has it.

    The exact label (`2.13.0+cpu`) is asked for first: of pip's own configuration (a mirror, a folder of wheels), then of
    PyTorch's index. Only then the default of the package index, which on Linux is the big CUDA build.
    """
    version = pin(place.requirements, "torch")
    label = accelerator.torch_label
    if label:
        exact = f"torch=={version}+{label}"
        # What torch needs is pinned in requirements.txt and comes with it; a GPU build names more (CUDA libraries)
        bare = ["--no-deps"] if accelerator.kind == "cpu" else []
        status, tail = pip(place, f"torch {version} ({label})", [*bare, exact])
        if status == 0:
            return
        if not any(sentence in tail for sentence in NO_SUCH_BUILD):
            raise SetupError(_failed(place, exact, tail))
        index = TORCH_INDEX + label
        if fetch(f"{index}/torch/"):
            must(place, f"torch {version} ({label})", [*bare, "--index-url", index, exact])
            return
        if accelerator.kind == "rocm":
            raise SetupError(f"{index} does not answer, and no other place has torch for ROCm. Start again when it does, or "
                             "set up for the processor: python3 launch.py setup --accelerator cpu")
        if accelerator.kind == "cpu" and sys.platform.startswith("linux"):
            print(f"      {index} does not answer: the default build is installed, with 2 to 3 GB of CUDA libraries that "
                  "this machine does not need.", flush=True)
    must(place, f"torch {version}", [f"torch=={version}"])


def llama_works(place: Place) -> bool:
    """Whether the installed llama.cpp loads and answers on this processor."""
    model = place.root / "models" / "starter" / "starter-Q8_0.gguf"
    command = [str(place.python), "-c", CHECK_LLAMA, str(model)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False
    with place.log.open("a", encoding="utf-8") as log:
        log.write(f"\ncheck of llama.cpp: status {done.returncode}\n{done.stderr[-2000:]}")
    return done.returncode == 0


def prebuilt_llama(place: Place, accelerator: Accelerator, version: str) -> bool:
    """Install a prebuilt llama.cpp when its index answers within seconds and has this version; whether it works."""
    index = LLAMA_INDEX + accelerator.llama_label
    if not accelerator.llama_label or f"-{version}-" not in fetch(f"{index}/llama-cpp-python/"):
        return False
    arguments = ["--only-binary=llama-cpp-python", "-c", str(place.requirements), "--extra-index-url", index]
    status, _ = pip(place, "llama.cpp, prebuilt", [*arguments, f"llama-cpp-python=={version}"])
    return status == 0 and llama_works(place)


def remove_llama(place: Place) -> None:
    """Take an installed llama.cpp away: pip would keep a build for another accelerator, the version being the same."""
    run_logged([str(place.python), "-m", "pip", "uninstall", "-y", "llama-cpp-python"], "llama.cpp: making room", place.log)


def has_mark(place: Place, env: Mapping[str, str]) -> bool:
    """Whether the installed llama.cpp was compiled with the loops of this set-up, all that are right in this environment and no others."""
    return any(mark(env).encode() in library.read_bytes() for library in place.venv.glob("lib/python*/site-packages/llama_cpp/lib/*ggml-cpu*"))


def forget_llama(place: Place) -> None:
    """Take llama.cpp out of pip's cache, so that the next build comes to stand there."""
    run_logged([str(place.python), "-m", "pip", "cache", "remove", "llama_cpp_python"], "llama.cpp: making room", place.log)


def install_llama(place: Place, accelerator: Accelerator, *, again: bool = False) -> None:
    """Install llama.cpp: prebuilt when one is reachable, else compiled here for this processor and accelerator.

    A compiled wheel stays in pip's cache, so a second environment does not compile again; builds for a GPU are not taken
    from there, because pip does not know one build from another. A cached wheel that does not run here is compiled anew;
    so is one without the loops of this set-up, which stays where that fails.

    Raises:
        SetupError: no compiler, or the compilation failed, or its result does not run.
    """
    version = pin(place.requirements, "llama-cpp-python")
    remove_llama(place)
    if not again and prebuilt_llama(place, accelerator, version):
        return
    missing = missing_compiler()
    if missing:
        raise SetupError(missing)
    lacking = gpu_compiler(accelerator)
    if lacking:
        print(f"      {lacking}", flush=True)
        accelerator = Accelerator("cpu", llama_label="cpu")
    jobs = str(build_jobs())
    env = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", jobs)}
    env["CMAKE_ARGS"] = f"{cmake_args(accelerator)} {os.environ.get('CMAKE_ARGS', '')}".strip()
    env = for_llama(env)
    for part in left_out(env):
        print(f"      Paddock's loops for {PARTS[part]} are not right with this compiler, or could not be tried, so llama.cpp keeps its own.", flush=True)
    arguments = ["-v", "-c", str(place.requirements), f"llama-cpp-python=={version}"]
    anew = ["--no-binary=llama-cpp-python", *arguments]
    title = f"llama.cpp for {accelerator.kind}"
    if again or accelerator.kind in ("cuda", "rocm"):
        compile_llama(place, title, ["--no-cache-dir", *anew], env)
    else:
        built = compile_llama(place, title, arguments, env)
        if llama_works(place):
            if not built:
                renew_loops(place, title, anew, env)
            return
        print("      The wheel in pip's cache does not run on this processor: compiling it here.", flush=True)
        forget_llama(place)
        remove_llama(place)
        compile_llama(place, title, anew, without_loops(env) if built else env)
    if not llama_works(place):
        raise SetupError(f"llama.cpp was compiled but does not run here. The reason is at the end of {place.log}.")


def compile_llama(place: Place, title: str, arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """Install llama.cpp by pip, without the loops where its sources do not compile with them; whether it was compiled, and not taken from somewhere.

    Raises:
        SetupError: with the end of pip's output and the cure.
    """
    before = place.log.stat().st_size if place.log.exists() else 0
    status, tail = pip(place, title, arguments, env)
    if status and has_loops(env) and NOT_COMPILED.search(tail):
        print("      llama.cpp does not compile with Paddock's loops: once more without them.", flush=True)
        status, tail = pip(place, title, arguments, without_loops(env))
    if status:
        raise SetupError(_failed(place, title, tail))
    return place.log.exists() and COMPILED in place.log.read_bytes()[before:]


def renew_loops(place: Place, title: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Compile anew what came without the loops of this set-up; where that fails it stays, for it works.

    Raises:
        SetupError: what was compiled does not run, and cannot be compiled without the loops.
    """
    if not has_loops(env) or has_mark(place, env) or os.environ.get("CMAKE_ARGS"):  # somebody's own flags may leave them out every time
        return
    print("      The wheel in pip's cache lacks loops that are faster on this processor: compiling it here.", flush=True)
    forget_llama(place)
    renewed = ["--force-reinstall", "--no-deps", *arguments]
    status, _ = pip(place, title, renewed, env)
    if status:
        print(f"      That failed, so llama.cpp stays as it was, which is slower. The reason is at the end of {place.log}.", flush=True)
    elif not llama_works(place):
        must(place, title, ["--no-cache-dir", *renewed], without_loops(env))


def install_packages(place: Place, requirements: Path, title: str) -> None:
    """Install a requirements file; what is there already stays."""
    must(place, title, ["-r", str(requirements)])


def setup_steps(place: Place, accelerator: Accelerator, *, tests: bool = False, again: bool = False) -> list[Step]:
    """The steps in order. Fingerprints hold what a step is made from, so an unchanged one does not run again."""
    torch, llama = pin(place.requirements, "torch"), pin(place.requirements, "llama-cpp-python")
    kind = f"{accelerator.kind} {accelerator.torch_label}"
    steps = [
        Step("venv", fingerprint("venv"), "virtual environment in .venv", lambda: make_venv(place)),
        Step("torch", fingerprint(torch, kind), f"torch {torch} for {accelerator}",
             lambda: install_torch(place, accelerator)),
        Step("llama.cpp", fingerprint(llama, kind), f"llama-cpp-python {llama}",
             lambda: install_llama(place, accelerator, again=again)),
        Step("packages", fingerprint(place.requirements), "everything else in requirements.txt",
             lambda: install_packages(place, place.requirements, "requirements.txt")),
    ]
    if tests:
        steps.append(Step("tests", fingerprint(place.test_requirements, place.requirements), "what the tests need",
                          lambda: install_packages(place, place.test_requirements, "requirements-test.txt")))
    return steps


def remembered(state: SetupState) -> Accelerator | None:
    """The accelerator that set-up chose before, so that a start looks for no GPU."""
    if not state.accelerator:
        return None
    stored = dict(state.accelerator)
    return Accelerator(**{**stored, "devices": tuple(stored.get("devices", ()))})


def remember(state: SetupState, accelerator: Accelerator) -> None:
    """Note the accelerator for the next start."""
    state.accelerator = {**asdict(accelerator), "devices": list(accelerator.devices)}
