"""What child processes of any kind have in common: a clean environment, no core dumps, an end put into words.

Knows the operating system; knows no command and nothing of what the children do.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

# What a child needs from the environment. Everything else stays behind: keys, tokens, whatever else the server was started with
KEPT_NAMES = frozenset({
    "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA", "USERPROFILE", "PROGRAMDATA", "NUMBER_OF_PROCESSORS",
    "XDG_CACHE_HOME", "DO_NOT_TRACK", "TOKENIZERS_PARALLELISM",
})  # fmt: skip
KEPT_PREFIXES = (
    "LC_", "PYTHON", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "ROCM_", "GPU_", "SYCL_", "ONEAPI_", "ZE_", "GGML_", "LLAMA_", "OMP_", "GOMP_", "MKL_",
    "KMP_", "OPENBLAS_", "PYTORCH_", "TORCH_", "TRANSFORMERS_", "HF_HUB_", "HF_HOME", "BITSANDBYTES_", "BNB_",
)  # fmt: skip
SHOWN_CHARACTERS = 15  # of a thread's name, by the system
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH)$", re.IGNORECASE)
# What it takes to reach the outside, for a child that may: a proxy, certificates, another hub
NETWORK_NAMES = frozenset({
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HF_ENDPOINT",
})  # fmt: skip
OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def child_environment(environ: Mapping[str, str], *, network: bool = False) -> dict[str, str]:
    """The part of an environment that a child gets; without `network` nothing is fetched: models are files."""
    names = KEPT_NAMES | NETWORK_NAMES if network else KEPT_NAMES
    kept = {
        name: value
        for name, value in environ.items()
        if (name.upper() in names or name.upper().startswith(KEPT_PREFIXES)) and not SECRET_NAME.search(name)
    }
    # An abort must not wait for a debugger
    return {**kept, **({} if network else OFFLINE), "GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}


def be_expendable(oom_score: int) -> None:
    """Leave no core dump, and with a score up to 1000 be among the first to go when memory runs out."""
    if sys.platform != "win32":
        import resource

        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(oom_score), encoding="ascii")


def name_thread() -> None:
    """Let the system's tools show the calling thread under the name that it has in Python; before 3.14 Python keeps the name to itself."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(threading.current_thread().name[:SHOWN_CHARACTERS], encoding="utf-8")


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
