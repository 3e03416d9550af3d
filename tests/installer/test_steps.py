"""What set-up installs and from where; what runs again when something changed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from installer import compiler, machine, state, steps
from installer.machine import Accelerator
from tests.installer.checkouts import CPU, ROOT, finish


def names(place: steps.Place, *, tests: bool = False) -> list[str]:
    todo = state.pending(steps.setup_steps(place, steps.remembered(place.state()) or CPU, tests=tests), place.state())
    return [step.name for step in todo]


def test_a_second_start_runs_no_step(checkout: steps.Place) -> None:
    assert names(checkout) == ["venv", "torch", "llama.cpp", "packages"]
    finish(checkout)
    assert names(checkout) == []
    assert names(checkout, tests=True) == ["tests"]


def test_changed_requirements_run_only_the_steps_they_concern(checkout: steps.Place) -> None:
    finish(checkout, tests=True)
    text = checkout.requirements.read_text(encoding="utf-8")
    checkout.requirements.write_text(text + "extra==1\n", encoding="utf-8")
    assert names(checkout) == ["packages"]
    version = steps.pin(checkout.requirements, "torch")
    checkout.requirements.write_text(text.replace(f"torch=={version}", "torch==9.9.9"), encoding="utf-8")
    assert names(checkout) == ["torch", "packages"]


def test_a_vanished_environment_is_made_again(checkout: steps.Place) -> None:
    finish(checkout)
    checkout.python.unlink()
    assert names(checkout) == ["venv", "torch", "llama.cpp", "packages"]


def test_an_environment_of_another_python_version_is_made_again(checkout: steps.Place) -> None:
    finish(checkout)
    (checkout.venv / "pyvenv.cfg").write_text("version = 3.1.4\n", encoding="utf-8")
    assert names(checkout)[0] == "venv"
    (checkout.venv / "pyvenv.cfg").write_text("version = {}.{}.1\n".format(*sys.version_info[:2]), encoding="utf-8")
    assert names(checkout) == []


def test_another_accelerator_installs_torch_and_llama_cpp_again(checkout: steps.Place) -> None:
    finished = finish(checkout)
    todo = state.pending(steps.setup_steps(checkout, machine.cuda(("GPU",), 600)), finished)
    assert [step.name for step in todo] == ["torch", "llama.cpp"]


def test_every_requirement_is_pinned() -> None:
    for file in (ROOT / "requirements.txt", ROOT / "requirements-test.txt", ROOT / "requirements-clients.txt"):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        assert [line for line in lines if "==" not in line.split(";")[0]] == []
        listed = [line.split("==")[0].lower().replace("_", "-") for line in lines]
        assert len(listed) == len(set(listed))
    with pytest.raises(state.SetupError, match="no line"):
        steps.pin(ROOT / "requirements.txt", "no-such-package")


def test_an_address_that_does_not_answer_costs_little_time() -> None:
    started = time.monotonic()
    assert steps.fetch("http://127.0.0.1:9/nothing", timeout_s=2.0) == ""
    assert steps.fetch("nonsense", timeout_s=2.0) == ""
    assert time.monotonic() - started < 4.5


class FakePip:
    """Records what is asked of pip and answers from a list: the text it ended with; empty means success."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    def __call__(self, _place: object, _title: str, arguments: list[str], _env: object = None) -> tuple[int, str]:
        self.asked.append(" ".join(arguments))
        tail = self.replies.pop(0) if self.replies else ""
        return (1 if tail else 0), tail


ABSENT = "ERROR: No matching distribution found for torch"


@pytest.mark.parametrize(("accelerator", "replies", "page", "asked"), [
    (CPU, (), "", ["--no-deps torch==V+cpu"]),
    (CPU, (ABSENT,), "page", ["--no-deps torch==V+cpu", "--no-deps --index-url https://download.pytorch.org/whl/cpu torch==V+cpu"]),
    (CPU, (ABSENT,), "", ["--no-deps torch==V+cpu", "torch==V"]),
    (machine.cuda(("GPU",), 600), (ABSENT,), "page",
     ["torch==V+cu130", "--index-url https://download.pytorch.org/whl/cu130 torch==V+cu130"]),
    (Accelerator("metal"), (), "", ["torch==V"]),
])
def test_torch_comes_from_the_first_place_that_has_the_right_build(
    accelerator: Accelerator, replies: tuple[str, ...], page: str, asked: list[str],
    checkout: steps.Place, monkeypatch: pytest.MonkeyPatch,
) -> None:
    pip = FakePip(*replies)
    monkeypatch.setattr(steps, "pip", pip)
    monkeypatch.setattr(steps, "fetch", lambda _url: page)
    steps.install_torch(checkout, accelerator)
    version = steps.pin(checkout.requirements, "torch")
    assert pip.asked == [text.replace("V", version) for text in asked]


def test_a_lost_network_is_said_with_the_cure(checkout: steps.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "pip", FakePip("WARNING: Retrying after connection broken by NewConnectionError"))
    with pytest.raises(state.SetupError, match="Check the network"):
        steps.install_torch(checkout, CPU)


def test_without_compiler_and_prebuilt_the_sentence_comes_before_pip(checkout: steps.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip()
    monkeypatch.setattr(steps, "pip", pip)
    monkeypatch.setattr(steps, "fetch", lambda _url: "")
    monkeypatch.setattr(steps, "remove_llama", lambda _place: None)
    monkeypatch.setattr(steps, "missing_compiler", lambda: "no C++ compiler was found")
    with pytest.raises(state.SetupError, match=r"no C\+\+ compiler"):
        steps.install_llama(checkout, CPU)
    assert pip.asked == []


@pytest.fixture
def llama_pip(checkout: steps.Place, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """What pip is asked for llama.cpp, on a machine whose compiler takes the loops."""
    pip = FakePip()
    monkeypatch.setattr(steps, "pip", pip)
    monkeypatch.setattr(steps, "forget_llama", lambda _place: pip.asked.append("forget"))
    monkeypatch.setattr(steps, "fetch", lambda _url: "")
    monkeypatch.setattr(steps, "remove_llama", lambda _place: None)
    monkeypatch.setattr(steps, "missing_compiler", lambda: "")
    monkeypatch.setattr(steps, "for_llama", lambda environment: {**environment, "CXXFLAGS": compiler.LOOPS})
    monkeypatch.setattr(steps, "llama_works", lambda _place: True)
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return pip


def put_library(checkout: steps.Place, data: bytes) -> None:
    folder = checkout.venv / "lib" / "python3.11" / "site-packages" / "llama_cpp" / "lib"
    folder.mkdir(parents=True)
    (folder / "libggml-cpu.so").write_bytes(data)


def assert_compiled_anew(pip: FakePip) -> None:
    assert len(pip.asked) == 3
    assert pip.asked[1] == "forget"  # else the next environment would meet the same wheel again
    assert "--no-binary=llama-cpp-python" in pip.asked[2]
    assert "--no-cache-dir" not in pip.asked[2]


def test_a_cached_wheel_that_does_not_run_is_compiled_here(checkout: steps.Place, llama_pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    put_library(checkout, compiler.MARK)
    works = [True, False]
    monkeypatch.setattr(steps, "llama_works", lambda _place: works.pop())
    steps.install_llama(checkout, CPU)
    assert_compiled_anew(llama_pip)


def test_a_cached_wheel_without_the_loops_is_compiled_here(checkout: steps.Place, llama_pip: FakePip) -> None:
    put_library(checkout, b"compiled long ago")
    steps.install_llama(checkout, CPU)
    assert_compiled_anew(llama_pip)


def test_a_cached_wheel_with_the_loops_stays(checkout: steps.Place, llama_pip: FakePip) -> None:
    put_library(checkout, b"..." + compiler.MARK + b"...")
    steps.install_llama(checkout, CPU)
    assert len(llama_pip.asked) == 1


def test_a_wheel_is_not_compiled_twice_where_flags_of_ones_own_may_leave_the_loops_out(
    checkout: steps.Place, llama_pip: FakePip, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=off")
    put_library(checkout, b"compiled now")
    steps.install_llama(checkout, CPU)
    assert len(llama_pip.asked) == 1


def test_other_loops_compile_llama_cpp_again(checkout: steps.Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finish(checkout)
    assert names(checkout) == []
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / "paddock_loops.h").write_text("// others", encoding="utf-8")
    monkeypatch.setattr(steps, "HEADERS", headers)
    assert names(checkout) == ["llama.cpp"]
