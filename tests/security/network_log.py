"""Writes down whom a process speaks to, and every name it asks for: put in front of Python's path, it acts in the server and in all its children.

It lies in a folder of its own as `sitecustomize.py`, and appends to the file that PYTHON_NETWORK_LOG names, one JSON list a line.
"""

from __future__ import annotations

import json
from pathlib import Path

HOOK = '''
import os, sys
PATH = os.environ.get("PYTHON_NETWORK_LOG")
EVENTS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.bind": 1}
def watch(event, arguments):
    place = EVENTS.get(event)
    if place is not None:
        import json
        target = arguments[place]
        host = target[0] if isinstance(target, tuple) else target
        if isinstance(target, (str, bytes)) and place == 1:
            return  # a socket of this machine alone, by its path
        line = json.dumps([event, str(host), os.getpid()]) + "\\n"
        descriptor = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)
if PATH:
    sys.addaudithook(watch)
'''
OWN = frozenset({"127.0.0.1", "localhost", "::1", "None", "0.0.0.0", ""})


class NetworkLog:
    """The file of one server, and the environment that makes it write there."""

    def __init__(self, folder: Path) -> None:
        hook = folder / "hook"
        hook.mkdir(parents=True)
        (hook / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        self.path = folder / "network.log"
        self.environ = {"PYTHONPATH": str(hook), "PYTHON_NETWORK_LOG": str(self.path)}

    def entries(self) -> list[tuple[str, str, int]]:
        """What happened: event, host, process."""
        return [tuple(json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def foreign(self) -> list[tuple[str, str, int]]:
        """What happened beyond this machine."""
        return [entry for entry in self.entries() if entry[1] not in OWN]
