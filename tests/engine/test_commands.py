"""The queue of the engine's thread: what is done where no command comes."""

from __future__ import annotations

import threading

from modules.engine.commands import Commands


def nothing() -> None:
    """A command."""


def test_a_command_that_is_there_comes_at_once():
    commands = Commands()
    commands.put(nothing)

    def refuse(at_rest):
        raise AssertionError

    assert commands.next(refuse) is nothing


def test_what_has_time_is_done_once_while_none_comes_and_is_told_of_one():
    commands, told = Commands(), []

    def at_leisure(at_rest):
        told.append(at_rest())
        commands.put(nothing)
        told.append(at_rest())

    assert commands.next(at_leisure) is nothing
    assert told == [True, False]


def test_what_fails_at_leisure_is_no_end_of_the_thread():
    commands = Commands()

    def fail(at_rest):
        commands.put(nothing)
        raise OSError

    assert commands.next(fail) is nothing


def test_a_command_that_comes_in_a_moment_is_not_kept_waiting(monkeypatch):
    monkeypatch.setattr("modules.engine.commands.REST_S", 60.0)
    commands, called = Commands(), []
    threading.Timer(0.02, commands.put, [nothing]).start()
    assert commands.next(called.append) is nothing
    assert not called
