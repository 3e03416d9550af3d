"""One run of the server: who may end it so that it starts itself again, and what it hands to the next one.

What is handed over: the socket it listens on, so that nobody takes the port meanwhile and whoever asks waits instead of being refused; and
the secret of its sessions, so that nobody types the key again. Knows the process; knows no HTTP and no service.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

from modules.core.errors import AppError
from modules.core.settings import Settings

NAME = "PADDOCK_HANDOVER"  # of the environment variable in which it crosses; taken out at once, so no child gets it
NO_SOCKET = -1


@dataclass(frozen=True)
class Handover:
    """What the run before leaves."""

    host: str
    port: int
    secret: str
    descriptor: int = NO_SOCKET  # of its socket, in this process; a system without exec passes none

    def listener(self, settings: Settings, port_given: bool) -> socket.socket | None:
        """The socket of the run before, where the settings still ask for its address; else it is closed."""
        if self.descriptor == NO_SOCKET:
            return None
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=self.descriptor)
        listener.set_inheritable(False)
        if self.is_for(settings, port_given):
            return listener
        listener.close()
        return None

    def is_for(self, settings: Settings, port_given: bool) -> bool:
        """Whether the settings ask for the same address; a port that was chosen by itself stays."""
        return settings.host == self.host and (not port_given or settings.port in (0, self.port))


def take_handover(environ: MutableMapping[str, str]) -> Handover | None:
    """What the run before left, once; None at a usual start."""
    text = environ.pop(NAME, "")
    with contextlib.suppress(ValueError, TypeError):
        return Handover(**json.loads(text))
    return None


class ServerRun:
    """Ends this run so that the next begins. Who serves says how (`serve_with`); a server that others embed cannot do it."""

    def __init__(self, check: Callable[[], bool] = lambda: True, secret: str = "") -> None:
        """`check` reads the settings as the next run will: whether its address stays the same; raises where it would not start."""
        self.id = secrets.token_hex(8)
        self.secret = secret or secrets.token_hex(32)
        self._check = check
        self._end: Callable[[], None] | None = None

    def serve_with(self, end: Callable[[], None]) -> None:
        """What brings this run to its end, in good order."""
        self._end = end

    def start_again(self) -> bool:
        """End, then start again with settings read anew; whether the address stays.

        Raises:
            InvalidRequest: the settings as they are now would not start; nothing is ended.
            AppError: this server was not started by its own command.
        """
        if self._end is None:
            raise AppError("This server cannot start itself again: it was not started by server.py. Stop it and start it where it was started.")
        stays = self._check()
        self._end()
        return stays


def become_next(listener: socket.socket, settings: Settings, secret: str, environ: Mapping[str, str]) -> int:
    """Become the next run: the same interpreter and arguments, in the same terminal; returns only where a system has no exec."""
    port = int(listener.getsockname()[1])
    command = [sys.executable, *sys.orig_argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        listener.set_inheritable(True)
        left = Handover(settings.host, port, secret, listener.fileno())
        os.execve(command[0], command, {**environ, NAME: json.dumps(left.__dict__)})
    listener.close()
    left = Handover(settings.host, port, secret)
    with subprocess.Popen(command, env={**environ, NAME: json.dumps(left.__dict__)}) as server:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the child by itself; this one only waits for it
        return server.wait()
