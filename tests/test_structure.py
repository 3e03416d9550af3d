"""The rules of structure that no linter knows: sizes, names, state, and what the web process may load.

Each rule is a function from a parsed file to complaints; each is shown to fire on planted source before it is applied.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 400
STYLESHEET_LINES = 800
FUNCTION_LINES = 60
FORBIDDEN_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "misc", "shared", "manager", "managers"})
HEAVY = ("torch", "transformers", "llama_cpp", "peft", "bitsandbytes", "accelerate", "pyarrow", "llguidance")
MUTABLE_CALLS = frozenset({
    "list", "dict", "set", "bytearray", "defaultdict", "deque", "OrderedDict", "Counter", "ChainMap", "Queue", "SimpleQueue",
    "LifoQueue", "PriorityQueue", "WeakValueDictionary", "WeakKeyDictionary", "WeakSet", "Lock", "RLock", "Condition",
    "Event", "Semaphore", "SimpleNamespace", "count", "cycle", "local",
})
KEPT_GROUP = re.compile(r"(?<!\()\)(?:[*+?]|\{[\d,]*\})\+|\(\?>")  # repeated possessively, or atomic
MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
CACHES = frozenset({"cache", "lru_cache"})

Rule = Callable[[ast.Module], Iterator[str]]


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return found + [path for path in (ROOT / "server.py", ROOT / "launch.py") if path.exists()]


def product_files() -> list[Path]:
    return python_files("modules", "installer")


def all_files() -> list[Path]:
    return python_files("modules", "installer", "tools", "benchmarks", "tests")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below; expressions, which are most of a tree, are passed over."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, ()):
            if isinstance(child, ast.stmt):
                yield child
            yield from statements(child)


def long_functions(tree: ast.Module) -> Iterator[str]:
    for node in statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES} are allowed"


def global_statements(tree: ast.Module) -> Iterator[str]:
    for node in statements(tree):
        if isinstance(node, ast.Global):
            yield f"{node.lineno}: global {', '.join(node.names)}"


def relative_imports(tree: ast.Module) -> Iterator[str]:
    for node in statements(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{node.lineno}: relative import"


def missing_docstring(tree: ast.Module) -> Iterator[str]:
    if tree.body and not ast.get_docstring(tree):
        yield "1: no module docstring"


def called_name(node: ast.expr) -> str:
    function = node.func if isinstance(node, ast.Call) else node
    if isinstance(function, ast.Subscript):
        function = function.value
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def is_read_only_mapping(annotation: ast.expr | None) -> bool:
    """`Mapping[...]` and `Final[Mapping[...]]`: mypy refuses every write to such a name."""
    text = ast.unparse(annotation).replace("typing.", "") if annotation else ""
    return text.removeprefix("Final[").startswith("Mapping[")


def module_assignments(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.expr, ast.expr | None]]:
    """Assignments that run at import, also under `if`, `try`, `with` and in class bodies (class attributes are shared too)."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield node, node.value, None
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield node, node.value, node.annotation
        elif isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            blocks = (getattr(node, name, []) for name in ("body", "orelse", "finalbody"))
            yield from module_assignments([statement for block in blocks for statement in block])


def mutable_values(tree: ast.Module) -> Iterator[str]:
    for statement, value, annotation in module_assignments(tree.body):
        mutable = isinstance(value, MUTABLE_DISPLAYS) or (isinstance(value, ast.Call) and called_name(value) in MUTABLE_CALLS)
        if mutable and not is_read_only_mapping(annotation) and not ast.unparse(statement).startswith("__all__"):
            yield f"{statement.lineno}: mutable value in the module: {ast.unparse(statement)[:70]}"
    for node in tree.body:
        for decorator in getattr(node, "decorator_list", ()):
            if called_name(decorator) in CACHES:
                yield f"{node.lineno}: a cache in the module is shared state: let its owner keep it"


def kept_groups(tree: ast.Module) -> Iterator[str]:
    """Python before 3.11.5 finds something else with them, or searches for ever (its issue 106052); Debian 12 has 3.11.2."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if KEPT_GROUP.search(text):
                yield f"{node.lineno}: a regular expression gives nothing back of a group: {text[:70]}"


RULES: tuple[tuple[Rule, str], ...] = (
    (kept_groups, "import re\nX = re.compile(r'(?:a|b)*+c')\n"),
    (kept_groups, "import re\nX = re.compile(rf'(a){{1,2}}+{1}')\n"),
    (kept_groups, "import re\nX = re.compile(rb'(?>a|b)')\n"),
    (long_functions, "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
    (global_statements, "def f():\n    global x\n    x = 1\n"),
    (relative_imports, "from . import x\n"),
    (relative_imports, "def f():\n    from ..core import x\n"),
    (missing_docstring, "x = 1\n"),
    (mutable_values, "CACHE = {}\n"),
    (mutable_values, "ITEMS: list[int] = []\n"),
    (mutable_values, "from collections import defaultdict\nD = defaultdict(list)\n"),
    (mutable_values, "import threading\nLOCK = threading.Lock()\n"),
    (mutable_values, "if True:\n    SEEN = set()\n"),
    (mutable_values, "NAMES = [n for n in 'ab']\n"),
    (mutable_values, "import functools\n@functools.lru_cache(maxsize=9)\ndef f(): ...\n"),
)
ALLOWED = (
    "X = (1, 2)\n", "X = frozenset({1})\n", "X = MappingProxyType({'a': 1})\n", "import re\nX = re.compile('a')\n",
    "import logging\nlog = logging.getLogger(__name__)\n", "from typing import TypeVar\nT = TypeVar('T')\n",
    r"X = re.compile(r'[a-z]*+(?:b\d++)*(c)?\+')", "X: Mapping[str, int] = {'a': 1}\n", "X: Final[Mapping[str, int]] = {'a': 1}\n", "X = tuple(sorted((2, 1)))\n",
    "def f():\n    x = []\n    return x\n", "__all__ = ['a']\n",
)


@pytest.mark.parametrize(("rule", "source"), RULES)
def test_a_rule_fires_on_a_planted_fault(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source)))


@pytest.mark.parametrize("source", ALLOWED)
def test_constants_are_allowed(source: str) -> None:
    assert [text for rule in (mutable_values, kept_groups) for text in rule(ast.parse(source))] == []


def assert_none(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


EVERYWHERE: tuple[Rule, ...] = (long_functions, relative_imports)
IN_THE_PRODUCT: tuple[Rule, ...] = (global_statements, mutable_values, missing_docstring, kept_groups)


@pytest.fixture(scope="module")
def complaints() -> dict[Rule, list[str]]:
    """What each rule finds; a tree is read once and not kept, as all of them together would slow down every test that follows."""
    product = frozenset(product_files())
    found: dict[Rule, list[str]] = {rule: [] for rule in EVERYWHERE + IN_THE_PRODUCT}
    for path in all_files():
        tree = parse(path)
        for rule in EVERYWHERE + (IN_THE_PRODUCT if path in product else ()):
            found[rule] += [f"{path.relative_to(ROOT)}:{text}" for text in rule(tree)]
    return found


@pytest.mark.parametrize("rule", EVERYWHERE + IN_THE_PRODUCT)
def test_every_file_keeps(rule: Rule, complaints: dict[Rule, list[str]]) -> None:
    assert_none(complaints[rule])


def too_long(files: list[Path], limit: int) -> list[str]:
    counts = ((path, len(path.read_text(encoding="utf-8").splitlines())) for path in files)
    return [f"{path.relative_to(ROOT)} has {count} lines, {limit} are allowed" for path, count in counts if count > limit]


def test_no_file_is_too_long() -> None:
    scripts = sorted((ROOT / "modules").rglob("*.js"))
    styles = sorted((ROOT / "modules").rglob("*.css"))
    assert_none(too_long(all_files() + scripts, FILE_LINES) + too_long(styles, STYLESHEET_LINES))


def test_files_are_named_after_things() -> None:
    paths = [*all_files(), *(ROOT / "modules").rglob("*.js")]
    named = {part.removesuffix(path.suffix): path for path in paths for part in path.relative_to(ROOT).parts}
    assert {name: str(path) for name, path in named.items() if name.lower() in FORBIDDEN_NAMES} == {}


def test_every_package_of_modules_is_a_regular_one() -> None:
    """import-linter does not see files in a folder without `__init__.py`: no rule would hold there."""
    folders = {path.parent for path in (ROOT / "modules").rglob("*.py")}
    assert_none([str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()])


def test_every_tab_is_in_the_table_of_tabs() -> None:
    tabs = {path.stem for path in (ROOT / "modules" / "ui" / "tabs").glob("*.py") if path.stem != "__init__"}
    imported: set[str] = set()
    for node in ast.walk(parse(ROOT / "modules" / "ui" / "app.py")):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            imported |= names if node.module == "modules.ui.tabs" else {node.module.removeprefix("modules.ui.tabs.")}
        elif isinstance(node, ast.Import):
            imported |= {alias.name.removeprefix("modules.ui.tabs.") for alias in node.names}
    assert tabs, "no tab was found"
    assert tabs - imported == set(), "modules/ui/app.py does not import these tabs"


@pytest.mark.processes
def test_the_web_process_loads_no_model_library(tmp_path: Path) -> None:
    """The application is built as the server does it; a library that only a child may hold must not be there."""
    program = (
        "import sys, pathlib\n"
        "import server, modules.services.app\n"
        "from modules.core.settings import Settings\n"
        f"server.create_app(Settings(model='none', state_dir=pathlib.Path({str(tmp_path)!r})))\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])\n"
        "sys.stdout.flush()\n"
        "import os\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("LOADED")] == ["LOADED"]


def test_the_launcher_needs_nothing_but_python() -> None:
    """`launch.py` and `installer` import the standard library and each other, also inside functions."""
    outside = []
    for path in [ROOT / "launch.py", *sorted((ROOT / "installer").rglob("*.py"))]:
        for node in ast.walk(parse(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names}
            outside += [f"{path.name}: {name}" for name in tops - sys.stdlib_module_names - {"installer"}]
    assert outside == []
