"""Calls into a library that follows names in names by calling itself: with enough stack, and what they raise is raised here."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from modules.core.errors import AppError
from modules.engine.native import STACK_BYTES, DeepCalls
from tests.services.test_hostile_shapes import LONG_WAYS

FOLLOW = """
import json, sys, threading
import llguidance
from modules.core.params import GenerationParams
from modules.engine.shapes import shape_of, write_shape

def follow():
    text = write_shape(*shape_of(GenerationParams(**json.load(sys.stdin))))
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), text, log_level=0)
    print("read", not matcher.is_error())

threading.stack_size(int(sys.argv[1]))
thread = threading.Thread(target=follow)
thread.start()
thread.join()
"""


@pytest.mark.processes
@pytest.mark.parametrize("shape", LONG_WAYS.values(), ids=LONG_WAYS)
def test_a_quarter_of_the_stack_is_enough_for_the_longest_ways(shape: dict[str, object]) -> None:
    done = subprocess.run([sys.executable, "-c", FOLLOW, str(STACK_BYTES // 4)], input=json.dumps(shape), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "read True\n"), done.stderr[-500:]


def test_what_is_returned_or_raised_comes_back() -> None:
    calls = DeepCalls()
    assert calls.make(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        calls.make(divmod, 7, 0)
    with pytest.raises(SystemExit):
        calls.make(sys.exit, 3)


def test_other_threads_keep_their_size_of_stack() -> None:
    before = threading.stack_size()
    DeepCalls().make(len, "")
    assert threading.stack_size() == before


def test_where_there_is_no_such_thread_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = threading.stack_size()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(AppError, match="no memory"):
            DeepCalls().make(len, "")
    assert threading.stack_size() == before
