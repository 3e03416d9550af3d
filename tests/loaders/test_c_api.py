"""The binding of llama.cpp: its C functions without the package around them, and the whole package for who wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALONE = """
import sys
from modules.loaders.llama_cpp import c_api
binding = c_api.library()
assert c_api.library() is binding and binding.llama_print_system_info()
assert c_api.kept_in_memory(["blk.0"])[0].memory
assert not {"llama_cpp", "llama_cpp.llama", "diskcache", "sqlite3"} & set(sys.modules)
c_api.give_back_freed()
import llama_cpp
assert llama_cpp.Llama and llama_cpp.llama_cpp is binding is c_api.library()
"""
LATER = """
import llama_cpp
from modules.loaders.llama_cpp import c_api
assert c_api.library() is llama_cpp.llama_cpp
"""
MISSING = """
import sys
sys.modules["llama_cpp"] = None
from modules.loaders.llama_cpp import c_api
try:
    c_api.library()
except ImportError:
    sys.exit()
sys.exit("imported")
"""


def test_the_binding_comes_alone_and_the_package_when_it_is_wanted(root: Path) -> None:
    for code in (ALONE, LATER, MISSING):
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)
