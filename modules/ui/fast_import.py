"""A quicker `import gradio`: without the editor stubs that it writes for every component class at every start, and without Arrow for its pandas.

Call `speed_up_gradio_import` before the first import of gradio. If a later release has no such step, nothing happens.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

MODULE = "gradio.component_meta"
STEP = "create_or_modify_pyi"
TABLES, ARROW = "pandas", "pyarrow"  # gradio needs the first, which takes the second where it is: 35 MB and a moment, for nothing here


class _WithoutStubs(Loader):
    """Runs the module as ever, then takes the stub writer away."""

    def __init__(self, original: Loader) -> None:
        self._original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._original.exec_module(module)
        if hasattr(module, STEP):
            setattr(module, STEP, lambda *_args, **_options: None)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname == ARROW and _is_coming(TABLES):
            raise ModuleNotFoundError(f"{ARROW} is not for {TABLES} in this process", name=ARROW)
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutStubs(spec.loader)
        return spec


def _is_coming(name: str) -> bool:
    """Whether a module is being imported at this moment."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def speed_up_gradio_import() -> None:
    """Install the import hook, once, if gradio has not been imported yet."""
    if "gradio" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
