"""A compiler that makes llama.cpp crash is found by what it makes, and told better."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

import pytest

from installer import compiler

HERE = sys.platform.startswith("linux") and platform.machine() == "x86_64"
LINUX_ONLY = pytest.mark.skipif(not HERE, reason="tiles are a matter of x86-64")


class Probe:
    """Answers by flags, and notes with which environment it was asked."""

    def __init__(self, answers: Mapping[str, compiler.Found]) -> None:
        self.answers = answers
        self.seen: list[Mapping[str, str]] = []

    def __call__(self, flags: str, environment: Mapping[str, str]) -> compiler.Found:
        self.seen.append(environment)
        return self.answers[flags]


@pytest.fixture(autouse=True)
def some_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    if HERE and not compiler.compiler({}):
        monkeypatch.setattr(compiler, "compiler", lambda *_: "c++")


@pytest.mark.parametrize("answer", ["sound", "absent"])
def test_a_sound_compiler_and_one_without_tiles_are_told_nothing(answer: compiler.Found) -> None:
    environment = {"PATH": os.defpath, "CXXFLAGS": "-g"}
    assert compiler.with_sound_tiles(environment, Probe({"": answer})) == environment


@LINUX_ONLY
@pytest.mark.parametrize("answers", [("broken", "sound"), ("unknown", "unknown"), ("unknown", "sound")])
def test_a_compiler_that_may_load_half_a_table_is_given_a_header(answers: tuple[compiler.Found, compiler.Found]) -> None:
    probe = Probe(dict(zip(("", compiler.WHOLE_TABLE), answers, strict=True)))
    told = compiler.with_sound_tiles({"CXXFLAGS": "-g", "CPLUS_INCLUDE_PATH": "/mine"}, probe)
    assert told == {"CXXFLAGS": f"-g {compiler.WHOLE_TABLE}", "CPLUS_INCLUDE_PATH": f"{compiler.HEADERS}{os.pathsep}/mine"}
    assert probe.seen[-1]["CPLUS_INCLUDE_PATH"] == told["CPLUS_INCLUDE_PATH"]
    assert (compiler.HEADERS / compiler.WHOLE_TABLE.split()[1]).is_file()


@LINUX_ONLY
@pytest.mark.parametrize("answer", ["broken", "absent"])
def test_where_that_does_not_help_nothing_computes_with_tiles(answer: compiler.Found) -> None:
    told = compiler.with_sound_tiles({}, Probe({"": "broken", compiler.WHOLE_TABLE: answer}))
    assert told == {"CFLAGS": compiler.NO_TILES, "CXXFLAGS": compiler.NO_TILES}


def test_without_a_compiler_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "compiler", lambda _environment: "")
    probe = Probe({})
    assert compiler.with_sound_tiles({}, probe) == {}
    assert not probe.seen


@pytest.mark.parametrize(("environment", "there", "command"), [
    ({}, ("g++", "clang++"), "g++"),
    ({"CXX": "ccache clang++"}, ("c++", "ccache"), "ccache clang++"),
    ({}, (), ""),
])
def test_the_compiler_is_the_one_that_cmake_takes(environment: dict[str, str], there: tuple[str, ...], command: str) -> None:
    found = compiler.compiler(environment, lambda name: f"/bin/{name}" if name in there else None)
    assert found == command


@LINUX_ONLY
def test_what_is_told_holds_on_this_machine() -> None:
    """The real compiler: one that loads half a table loads the whole one with the header."""
    command = compiler.compiler(os.environ)
    told = compiler.with_sound_tiles(os.environ)
    if compiler.look(command, "", os.environ) in ("absent", "sound"):
        assert told == dict(os.environ)
    else:
        assert told["CXXFLAGS"].endswith(compiler.WHOLE_TABLE)
        assert compiler.look(command, compiler.WHOLE_TABLE, told) == "sound"
