"""A quicker `import gradio`, in a process of its own: this file imports none, so that a stage of processes need not either."""

import subprocess
import sys

import pytest


@pytest.mark.processes
def test_gradio_imports_without_its_stub_writer_and_no_heavy_library():
    code = (
        "import sys; from modules.ui.fast_import import speed_up_gradio_import as f; f(); f(); "
        "import gradio.component_meta as m; assert m.create_or_modify_pyi.__name__ == '<lambda>'; "
        "import modules.ui.app; heavy = {'torch', 'transformers', 'llama_cpp', 'peft'} & set(sys.modules); assert not heavy, heavy; "
        "assert sum(type(x).__name__ == '_Finder' for x in sys.meta_path) == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
