"""What one run of the server hands to the next."""

from __future__ import annotations

import json
import socket

import pytest

from modules.core.errors import AppError
from modules.core.server_run import NAME, Handover, ServerRun, take_handover
from modules.core.settings import Settings


def test_it_is_taken_once_and_a_usual_start_has_none() -> None:
    environ = {NAME: json.dumps({"host": "127.0.0.1", "port": 7861, "secret": "s", "descriptor": 7}), "PATH": "/bin"}
    assert take_handover(environ) == Handover("127.0.0.1", 7861, "s", 7)
    assert environ == {"PATH": "/bin"}
    assert take_handover(environ) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "127.0.0.1"}', "7"])
def test_what_is_no_handover_is_none(text: str) -> None:
    assert take_handover({NAME: text}) is None


@pytest.mark.parametrize(
    ("settings", "port_given", "same"),
    [
        (Settings(port=7860), False, True),  # 7861 had been chosen by itself
        (Settings(port=7861), True, True),
        (Settings(port=0), True, True),
        (Settings(port=7860), True, False),
        (Settings(port=7861, host="127.0.0.2"), True, False),
    ],
)
def test_the_socket_stays_where_the_settings_ask_for_its_address(settings: Settings, port_given: bool, same: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        left = Handover("127.0.0.1", 7861, "s", taken.dup().detach())
        listener = left.listener(settings, port_given)
        assert (listener is not None) is same
        if listener is not None:
            assert listener.getsockname() == taken.getsockname() and not listener.get_inheritable()
            listener.close()


def test_without_a_server_that_can_end_it_is_refused_and_settings_that_would_not_start_end_nothing() -> None:
    with pytest.raises(AppError, match="not started by server.py"):
        ServerRun().start_again()

    def broken() -> bool:
        raise AppError("no")

    ended: list[bool] = []
    run = ServerRun(broken)
    run.serve_with(lambda: ended.append(True))
    with pytest.raises(AppError, match="no"):
        run.start_again()
    assert not ended
    good = ServerRun(lambda: False, run.secret)
    good.serve_with(lambda: ended.append(True))
    assert not good.start_again() and ended and good.secret == run.secret and good.id != run.id
