"""Promises that the source itself keeps: nothing runs what it was given, unpickles, fetches or starts a process outside the places named here."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Calls that run what they are given, or unpack what may run; each with the argument that makes it harmless, if there is one
RUNNING = {
    "eval": "", "exec": "", "__import__": "", "os.system": "", "os.popen": "", "pickle.load": "", "pickle.loads": "", "marshal.loads": "", "importlib.import_module": "",
    "torch.load": "weights_only=True", "yaml.load": "", "yaml.unsafe_load": "", "numpy.load": "", "np.load": "", "tempfile.mktemp": "", "joblib.load": "",
}  # fmt: skip
# Modules that may speak to the network, and with whom: docs/security.md lists them
NETWORK = {
    "modules/hub": "the hub that the settings name, and where it redirects to", "modules/loaders/remote": "servers that a person added",
}  # fmt: skip
CLIENTS = frozenset({"httpx", "httpx2", "requests", "aiohttp", "urllib.request", "http.client", "urllib3", "ftplib", "smtplib", "telnetlib", "websockets"})
# Processes that get the environment as it is: the next run of the server itself, the driver's tool, and what a child starts that has a clean one
STARTS = frozenset({"subprocess.Popen", "subprocess.run", "subprocess.check_output", "asyncio.create_subprocess_exec", "os.execv", "os.spawnv"})
OWN_ENVIRONMENT = frozenset({"modules/loaders/machine.py", "modules/services/machine_probe.py"})

# Where code of a model folder is imported, what does so on the way of a load, and the library's calls that can
OWN_CODE = "modules/loaders/transformers/own_code.py"
LOADING_OWN_CODE = frozenset({OWN_CODE, "modules/loaders/transformers/loader.py", "modules/loaders/transformers/__init__.py", "modules/services/worker.py"})
IMPORTING = frozenset({"get_class_from_dynamic_module", "get_class_in_module", "run_path", "run_module"})


class Seen(NamedTuple):
    """What a file calls and imports; read in one pass."""

    path: str
    calls: list[tuple[str, ast.Call]]
    imports: list[tuple[int, str]]


Rule = Callable[[Seen], Iterator[str]]


def dotted(node: ast.expr) -> str:
    """`a.b.c`; of anything else in front only the last name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def read(source: str, path: str) -> Seen:
    seen = Seen(path, [], [])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            seen.calls.append((dotted(node.func), node))
        elif isinstance(node, ast.Import):
            seen.imports.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            seen.imports.append((node.lineno, node.module or ""))
    return seen


def given(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}


def running_calls(seen: Seen) -> Iterator[str]:
    for name, call in seen.calls:
        if name in RUNNING and (not RUNNING[name] or RUNNING[name] not in [f"{key}={value}" for key, value in given(call).items()]):
            yield f"{call.lineno}: {name}"
        if any(word.arg == "shell" for word in call.keywords):
            yield f"{call.lineno}: a shell"


def trusting_loads(seen: Seen) -> Iterator[str]:
    """Every load of a model folder says that its code is not run, that nothing is fetched and, for weights, that nothing is unpickled."""
    for name, call in seen.calls:
        if any(word.arg == "trust_remote_code" for word in call.keywords) and given(call)["trust_remote_code"] != "False":
            yield f"{call.lineno}: {name} trusts"
        if name.endswith(".from_pretrained") and not name.startswith("PeftModel"):  # that one is given a checked folder with safetensors
            is_weights = "tokenizer" not in name.lower() and "Processor" not in name
            wanted = {"trust_remote_code": "False", "local_files_only": "True"} | ({"use_safetensors": "True"} if is_weights else {})
            if any(given(call).get(key) != value for key, value in wanted.items()):
                yield f"{call.lineno}: {name} lacks one of {wanted}"


def folder_code(seen: Seen) -> Iterator[str]:
    """Code of a model folder is imported in one place, and what leads there is the engine's child alone."""
    if seen.path != OWN_CODE:
        yield from (f"{call.lineno}: {name} imports code" for name, call in seen.calls if name.rpartition(".")[2] in IMPORTING)
        yield from (f"{line}: imports {name}" for line, name in seen.imports if name == "transformers.dynamic_module_utils")
    if seen.path not in LOADING_OWN_CODE:
        yield from (f"{line}: imports {name}" for line, name in seen.imports if name == "modules.loaders.transformers.own_code")
        yield from (f"{call.lineno}: {name}" for name, call in seen.calls if name.rpartition(".")[2] in ("load_trusted", "OwnCode"))
        yield from (f"{call.lineno}: {name} is given trust" for name, call in seen.calls if name == "load" and len(call.args) > 3)


def network_clients(seen: Seen) -> Iterator[str]:
    if not seen.path.startswith(tuple(NETWORK)):
        yield from (f"{line}: imports {name}" for line, name in seen.imports if name in CLIENTS or name.split(".")[0] in CLIENTS)


def unclean_processes(seen: Seen) -> Iterator[str]:
    for name, call in seen.calls:
        if name in STARTS and "env" not in given(call) and seen.path not in OWN_ENVIRONMENT:
            yield f"{call.lineno}: {name} without an environment of its own"


RULES: tuple[tuple[Rule, str], ...] = (
    (running_calls, "eval(text)"), (running_calls, "torch.load(path)"), (running_calls, "subprocess.run(text, shell=True)"), (running_calls, "importlib.import_module(name)"),
    (trusting_loads, "AutoModel.from_pretrained(path, trust_remote_code=trust)"), (trusting_loads, "AutoTokenizer.from_pretrained(path)"),
    (trusting_loads, "AutoModel.from_pretrained(path, trust_remote_code=False, local_files_only=True)"), (network_clients, "import httpx2"),
    (folder_code, "get_class_from_dynamic_module('x.Y', path)"), (folder_code, "import transformers.dynamic_module_utils as library"), (folder_code, "spec.load_trusted(path)"),
    (folder_code, "from modules.loaders.transformers.own_code import OwnCode"), (folder_code, "load(path, options, progress, trusted)"),
    (network_clients, "import urllib.request"), (network_clients, "from http.client import HTTPConnection"), (unclean_processes, "subprocess.Popen(['a'])"),
)  # fmt: skip


@pytest.mark.parametrize(("rule", "source"), RULES)
def test_a_rule_fires_on_a_planted_fault(rule: Rule, source: str) -> None:
    assert list(rule(read(source, "modules/x.py")))


def test_the_source_keeps_the_rules() -> None:
    found = []
    for path in sorted((ROOT / "modules").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        seen = read(path.read_text(encoding="utf-8"), name)
        found += [f"{name}:{complaint}" for rule in {rule: None for rule, _ in RULES} for complaint in rule(seen)]
    assert found == []


def test_every_package_is_pinned_and_none_that_runs_code_of_strangers_is_there() -> None:
    for name in ("requirements.txt", "requirements-test.txt"):
        lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
        pinned = [line for line in lines if line]
        assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][^\s;]*( *;.*)?", line)] == []
        assert {line.split("==")[0].lower() for line in pinned}.isdisjoint({"kernels", "xformers", "deepspeed", "ray"})


def test_the_page_is_mounted_closed() -> None:
    tree = ast.parse((ROOT / "modules" / "ui" / "app.py").read_text(encoding="utf-8"))
    made = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "page_options")
    options = {ast.literal_eval(key): ast.unparse(value) for node in ast.walk(made) if isinstance(node, ast.Dict) for key, value in zip(node.keys, node.values, strict=True) if key}
    assert "allowed_paths" not in options
    closed = ("run_history", "show_error", "ssr_mode", "enable_monitoring", "mcp_server")
    assert [options[name] for name in closed] == ["False"] * len(closed)
