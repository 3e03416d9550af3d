"""The file manager of the desktop that this server runs on, where there is one: shows a folder.

Starts one fixed program with one argument, a folder that a library knows. Knows no models.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

ANSWER_S = 3.0  # how long a refusal of the program is waited for; most go on in the background at once


class FileManager:
    """Shows folders. `platform` is that of `sys.platform`."""

    def __init__(self, environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> None:
        self._environ = environ
        self._platform = platform

    def program(self) -> str:
        """The program that shows a folder; empty where nobody would see it."""
        if self._platform == "win32":
            return shutil.which("explorer", path=self._environ.get("PATH")) or ""
        if self._platform == "darwin":
            return "" if self._environ.get("SSH_CONNECTION") else shutil.which("open", path=self._environ.get("PATH")) or ""
        has_desktop = bool(self._environ.get("DISPLAY") or self._environ.get("WAYLAND_DISPLAY"))
        return (shutil.which("xdg-open", path=self._environ.get("PATH")) or "") if has_desktop else ""

    async def show(self, folder: Path) -> bool:
        """Show a folder; whether somebody sees it now."""
        program = self.program()
        if not program or not folder.is_absolute():
            return False
        return await asyncio.to_thread(self._run, program, folder)

    def _run(self, program: str, folder: Path) -> bool:
        try:
            process = subprocess.Popen(
                [program, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={name: value for name, value in self._environ.items() if not name.startswith("PADDOCK_")},  # no key of ours
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            log.warning("%s could not be started: %s", program, error)
            return False
        try:
            return process.wait(ANSWER_S) == 0 or self._platform == "win32"  # explorer ends with 1 also when all is well
        except subprocess.TimeoutExpired:
            return True
