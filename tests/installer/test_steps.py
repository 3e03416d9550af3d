"""What set-up installs and from where; what runs again when something changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

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


class LlamaPip(FakePip):
    """What pip is asked for llama.cpp, on a machine whose compiler takes the loops; what it writes goes to the log."""

    def __init__(self, place: steps.Place, *tails: str) -> None:
        super().__init__(*tails)
        self.place = place
        self.flags: list[str] = []
        self.log = b""

    def __call__(self, place: steps.Place, title: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
        self.flags.append((env or {}).get("CXXFLAGS", ""))
        with place.log.open("ab") as log:
            log.write(self.log)
        return super().__call__(place, title, arguments, env)

    def put(self, library: bytes) -> None:
        """The library that is installed."""
        folder = self.place.venv / "lib" / "python3.11" / "site-packages" / "llama_cpp" / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "libggml-cpu.so").write_bytes(library)


WITH, WITHOUT, MARK = compiler.LOOPS, "", compiler.mark({"CXXFLAGS": compiler.LOOPS}).encode()


@pytest.fixture
def llama_pip(checkout: steps.Place, monkeypatch: pytest.MonkeyPatch) -> LlamaPip:
    pip = LlamaPip(checkout)
    monkeypatch.setattr(steps, "pip", pip)
    monkeypatch.setattr(steps, "forget_llama", lambda _place: pip.asked.append("forget"))
    monkeypatch.setattr(steps, "fetch", lambda _url: "")
    monkeypatch.setattr(steps, "remove_llama", lambda _place: None)
    monkeypatch.setattr(steps, "missing_compiler", lambda: "")
    monkeypatch.setattr(steps, "for_llama", lambda environment: {**environment, "CXXFLAGS": WITH})
    monkeypatch.setattr(steps, "llama_works", lambda _place: True)
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    checkout.venv.mkdir(exist_ok=True)
    return pip


def assert_compiled_anew(pip: LlamaPip) -> None:
    assert len(pip.asked) == 3
    assert pip.asked[1] == "forget"  # else the next environment would meet the same wheel again
    assert "--no-binary=llama-cpp-python" in pip.asked[2]
    assert "--no-cache-dir" not in pip.asked[2]


def test_a_cached_wheel_that_does_not_run_is_compiled_here(checkout: steps.Place, llama_pip: LlamaPip, monkeypatch: pytest.MonkeyPatch) -> None:
    llama_pip.put(MARK)
    works = [True, False]
    monkeypatch.setattr(steps, "llama_works", lambda _place: works.pop())
    steps.install_llama(checkout, CPU)
    assert_compiled_anew(llama_pip)
    assert llama_pip.flags == [WITH, WITH]


def test_a_cached_wheel_without_the_loops_is_compiled_here(checkout: steps.Place, llama_pip: LlamaPip) -> None:
    llama_pip.put(b"compiled long ago")
    steps.install_llama(checkout, CPU)
    assert_compiled_anew(llama_pip)
    assert llama_pip.flags == [WITH, WITH]


def test_where_it_cannot_be_compiled_a_wheel_without_the_loops_stays(
    checkout: steps.Place, llama_pip: LlamaPip, capsys: pytest.CaptureFixture[str],
) -> None:
    llama_pip.put(b"from somewhere")
    llama_pip.replies = ["", ABSENT]
    steps.install_llama(checkout, CPU)
    assert_compiled_anew(llama_pip)
    assert "stays as it was" in capsys.readouterr().out


def test_a_cached_wheel_with_the_loops_stays(checkout: steps.Place, llama_pip: LlamaPip) -> None:
    llama_pip.put(b"..." + MARK + b"...")
    steps.install_llama(checkout, CPU)
    assert len(llama_pip.asked) == 1


def test_flags_of_ones_own_are_not_put_to_the_test(checkout: steps.Place, llama_pip: LlamaPip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=off")
    llama_pip.put(b"compiled for any processor")
    steps.install_llama(checkout, CPU)
    assert len(llama_pip.asked) == 1


def test_what_was_compiled_just_now_is_not_compiled_again(checkout: steps.Place, llama_pip: LlamaPip) -> None:
    """Flags of one's own may leave the loops out, whatever set-up says."""
    llama_pip.put(b"compiled now")
    llama_pip.log = steps.COMPILED + b" (pyproject.toml): started"
    steps.install_llama(checkout, CPU)
    assert len(llama_pip.asked) == 1


def test_what_does_not_compile_with_the_loops_is_compiled_without(checkout: steps.Place, llama_pip: LlamaPip) -> None:
    llama_pip.replies = ["ERROR: Failed building wheel for llama-cpp-python", ""]
    llama_pip.log = steps.COMPILED
    steps.install_llama(checkout, CPU)
    assert llama_pip.flags == [WITH, WITHOUT]


def test_a_lost_network_is_no_reason_to_leave_the_loops_out(checkout: steps.Place, llama_pip: LlamaPip) -> None:
    llama_pip.replies = ["connection broken"]
    with pytest.raises(state.SetupError, match="Check the network"):
        steps.install_llama(checkout, CPU)
    assert llama_pip.flags == [WITH]


def test_what_does_not_run_with_the_loops_is_compiled_without(checkout: steps.Place, llama_pip: LlamaPip, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [True, False]
    monkeypatch.setattr(steps, "llama_works", lambda _place: works.pop())
    llama_pip.log = steps.COMPILED
    steps.install_llama(checkout, CPU)
    assert_compiled_anew(llama_pip)
    assert llama_pip.flags == [WITH, WITHOUT]
