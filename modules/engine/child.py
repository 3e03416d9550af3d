"""A child process with a log: started with a clean environment, watched for its end, described in words when it ends.

Knows processes; knows no command and no model.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
LOG_LIMIT_BYTES = 1 << 20
TAIL_BYTES = 4096
TAIL_LINES = 3
# What a model needs from the environment. Everything else stays behind: keys, tokens, whatever else the server was started with
KEPT_NAMES = frozenset({
    "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA", "USERPROFILE", "PROGRAMDATA", "NUMBER_OF_PROCESSORS",
    "XDG_CACHE_HOME", "DO_NOT_TRACK", "TOKENIZERS_PARALLELISM",
})  # fmt: skip
KEPT_PREFIXES = (
    "LC_", "PYTHON", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "ROCM_", "GPU_", "SYCL_", "ONEAPI_", "ZE_", "GGML_", "LLAMA_", "OMP_", "MKL_",
    "KMP_", "OPENBLAS_", "PYTORCH_", "TORCH_", "TRANSFORMERS_", "HF_HUB_", "HF_HOME", "BITSANDBYTES_", "BNB_",
)  # fmt: skip
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH)$", re.IGNORECASE)


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a model's process gets."""
    kept = {
        name: value
        for name, value in environ.items()
        if (name.upper() in KEPT_NAMES or name.upper().startswith(KEPT_PREFIXES)) and not SECRET_NAME.search(name)
    }
    # An abort must not wait for a debugger, and nothing is fetched: models are files
    return {**kept, "GGML_NO_BACKTRACE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


class Child:
    """A started process, its pipes and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes], log_start: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.input = process.stdin
        self.output = process.stdout
        self._log = log
        self._log_start = log_start

    @classmethod
    async def start(cls, command: Sequence[str], log_path: Path | None) -> Child:
        """Start a command in the project's folder; its errors and whatever libraries print go to the log."""
        log = _open_log(log_path)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=child_environment(os.environ),
            )
        except BaseException:
            log.close()
            raise
        return cls(process, log, log.tell())

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self.process.returncode is None

    def kill(self) -> None:
        """End it at once."""
        if self.alive:
            try:
                self.process.kill()
            except ProcessLookupError:  # it ended by itself just now
                return

    def last_words(self) -> str:
        """The end of what it wrote to its log, as a sentence; empty if it wrote nothing."""
        try:
            self._log.flush()
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(self._log_start, size - TAIL_BYTES))
            lines = [line.strip() for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except (OSError, ValueError):
            return ""
        return f" Its last words: “{' · '.join(lines[-TAIL_LINES:])[-600:]}”." if lines else ""

    def close(self) -> None:
        """Close pipes and log of a process that has ended."""
        self.input.close()
        self._log.close()


def how_it_ended(returncode: int | None) -> str:
    """An exit status in words."""
    if returncode is None:
        return "it still runs"
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = "unknown"
    hint = {
        "SIGKILL": ", often because the system ran out of memory",
        "SIGSEGV": ", a fault in native code",
        "SIGABRT": ", a check in native code failed",
        "SIGILL": ", this processor lacks an instruction the build uses",
        "SIGBUS": ", often because the model file was changed while in use",
    }.get(name, "")
    return f"killed by signal {-returncode}, {name}{hint}"


def _open_log(path: Path | None) -> IO[bytes]:
    """The log for appending, the old one set aside when it is long; without a path a file nobody else sees."""
    if path is None:
        return tempfile.TemporaryFile("w+b")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
    log = path.open("a+b")
    log.seek(0, os.SEEK_END)
    return log
