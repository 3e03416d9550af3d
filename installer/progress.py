"""Runs a long command and says how far it is: seconds, and the last line that means something.

Knows the output of pip and ninja well enough to shorten it. Everything the command wrote goes to a log file.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

NINJA = re.compile(r"\[(\d+)/(\d+)\]")
PIP = re.compile(r"^\s*(Collecting|Downloading|Using cached|Building wheel for|Installing collected packages|"
                 r"Installing build dependencies|Preparing metadata|Processing|Getting requirements)\b")
LINE_EVERY_S = 15.0


def meaning(line: str) -> str:
    """The short form of a line worth showing, or an empty string.

    Ninja's count becomes "compiling 12 of 300"; pip's steps keep their first words.
    """
    count = NINJA.search(line)
    if count:
        return f"compiling {count[1]} of {count[2]}"
    if PIP.match(line):
        words = re.sub(r"https?://\S+/", "", line.strip())
        return words if len(words) <= 72 else words[:69] + "..."
    return ""


class Ticker:
    """Shows one line of progress: rewritten in place on a terminal, else repeated every 15 s."""

    def __init__(self, title: str, *, terminal: bool, started: float) -> None:
        self.title = title
        self.terminal = terminal
        self.started = started
        self.detail = ""
        self._said = started

    def line(self, now: float) -> str:
        """What to show at a moment."""
        return f"      {self.title}: {now - self.started:.0f} s" + (f", {self.detail}" if self.detail else "")

    def tick(self, now: float) -> None:
        """Show the line when it is due."""
        if self.terminal:
            width = shutil.get_terminal_size((100, 20)).columns - 1
            print("\r" + self.line(now)[:width].ljust(width), end="", flush=True)
        elif now - self._said >= LINE_EVERY_S:
            self._said = now
            print(self.line(now), flush=True)

    def end(self) -> None:
        """Clear the line of a terminal."""
        if self.terminal:
            width = shutil.get_terminal_size((100, 20)).columns - 1
            print("\r" + " " * width + "\r", end="", flush=True)


def run_logged(command: Sequence[str], title: str, log: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command with progress; returns its exit status and its last 40 lines. Ctrl+C ends it and its children."""
    apart: dict[str, object] = {"start_new_session": True} if os.name == "posix" else {}
    process = subprocess.Popen(  # type: ignore[call-overload]
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        encoding="utf-8", errors="replace", env=dict(env) if env is not None else None, **apart,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    ticker = Ticker(title, terminal=sys.stdout.isatty(), started=time.monotonic())
    tail: list[str] = []
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n$ {' '.join(command)}\n")
            for line in _lines(lines, ticker):
                file.write(line)
                tail = [*tail[-39:], line]
        return int(process.wait()), "".join(tail)
    except BaseException:
        end_tree(process)
        raise
    finally:
        ticker.end()


def _read(stream: Iterator[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Hand the lines of a stream over, then None."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _lines(lines: queue.SimpleQueue[str | None], ticker: Ticker) -> Iterator[str]:
    """The lines as they come; shows progress also while none comes."""
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            ticker.tick(time.monotonic())
            continue
        if line is None:
            return
        ticker.detail = meaning(line) or ticker.detail
        ticker.tick(time.monotonic())
        yield line


def end_tree(process: subprocess.Popen[str]) -> None:
    """End a process and the compilers under it; they have 5 s to go by themselves (pip then removes its build folder)."""
    if process.poll() is not None:
        return
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    else:
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
