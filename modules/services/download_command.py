"""`python server.py download MODEL`: fetch a model without the page. A second start of the same command goes on where the first one stopped.

Works in this process, with the server's own settings. Knows the terminal; what a download is, is the business of `modules/hub`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from modules.core.errors import AppError, InvalidRequest
from modules.core.job import Cancelled
from modules.core.settings import SettingFlags, Settings, read_settings
from modules.hub.choices import REFUSED, Choice, split_path, suffix_of, with_named
from modules.hub.download import TOKEN_SECRET, DownloadArgs, run
from modules.services.hub import HubService, OpenedRepository

LINE_INTERVAL_S = 0.2
PICKLED = re.compile(r"(pytorch|adapter)_model(-[0-9]{5}-of-[0-9]{5})?\.bin")
BAR_WIDTH = 24


@dataclass
class TerminalContext:
    """The context of a download whose progress is a line on the terminal."""

    directory: Path
    secrets: Mapping[str, str]
    stopped: bool = False
    _begun: tuple[float, float] | None = field(default=None, init=False)
    _shown_s: float = field(default=0.0, init=False)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl+C: end at the next progress."""
        self.stopped = True

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        """Show how far it is."""
        if self.stopped:
            raise Cancelled
        now_s = time.monotonic()
        self._begun = self._begun or (done, now_s)
        if total is None or (now_s - self._shown_s < LINE_INTERVAL_S and done < total):
            return
        self._shown_s = now_s
        speed = (done - self._begun[0]) / max(0.001, now_s - self._begun[1])
        bar = "#" * int(BAR_WIDTH * done / max(1.0, total))
        line = f"{bar:.<{BAR_WIDTH}} {done / 1e6:,.1f} of {total / 1e6:,.1f} MB, {speed / 1e6:,.1f} MB/s, {metrics['files_done']} of {metrics['files']} files"
        sys.stdout.write(f"\r{line}" if sys.stdout.isatty() else f"{line}\n")
        sys.stdout.flush()

    def log(self, line: str) -> None:
        """The plan of the download."""
        sys.stdout.write(f"{line}\n")


def download_command(arguments: Sequence[str]) -> int:
    """Fetch what the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog="server.py download", description="Download a model; a second start of the same command resumes.")
    parser.add_argument("model", help="owner/name, owner/name:Q4_K_M, owner/name:branch, or a link to a model or a file of it")
    parser.add_argument("--name", default="", help="folder below models/ or loras/; default is owner__name")
    parser.add_argument("--file", action="append", default=[], metavar="PATH", help="take this file of the repository too, also one that can run programs; may be repeated")
    flags = SettingFlags()
    flags.add_to(parser, shown=("models_dir", "loras_dir", "state_dir", "config", "hub_endpoint"))
    options = parser.parse_args(list(arguments))
    try:
        settings, _ = read_settings(flags.given)
        return _fetch(settings, options.model, options.name, options.file)
    except AppError as error:
        sys.stderr.write(f"\n{error.message}\n")
        return 1
    except Cancelled:
        sys.stderr.write("\nStopped. Give the same command again to go on.\n")
        return 130


def _fetch(settings: Settings, model: str, name: str, named: Sequence[str]) -> int:
    hub = HubService(settings)
    opened = asyncio.run(hub.open(model))
    repository = opened.repository
    choice = with_named(repository.files, _chosen(opened, model) if _usable(opened) else None, named) if named else _chosen(opened, model)
    running = tuple(file.path for file in choice.files if suffix_of(file.path) in REFUSED)
    for path in running:
        sys.stderr.write(f"Warning: {path} {REFUSED[suffix_of(path)].partition(';')[0]}. It was asked for by name; nothing opens or runs it now.\n")
    args = DownloadArgs(
        repo=repository.repo, revision=repository.revision, files=tuple(file.path for file in choice.files), kind=choice.kind, name=name, named=running if named else (),
        endpoint=settings.hub_endpoint, token_to_mirror=settings.token_to_mirror, models_dir=settings.models_dir, loras_dir=settings.loras_dir,
    )  # fmt: skip
    key = hashlib.sha256(args.model_dump_json().encode()).hexdigest()[:16]
    directory = settings.state_dir / "downloads" / key
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    context = TerminalContext(directory, {TOKEN_SECRET: hub.secret(TOKEN_SECRET)})
    signal.signal(signal.SIGINT, context.stop)
    signal.signal(signal.SIGTERM, context.stop)
    result = run(args, context)
    sys.stdout.write(f"\n{result['name']} is downloaded and verified: {result['path']}\n")
    return 0


def _usable(opened: OpenedRepository) -> list[Choice]:
    return [choice for choice in opened.choices.choices if not choice.problem and not choice.is_addon]


def _by_name(opened: OpenedRepository) -> str:
    """How pickled weights are taken all the same, where a repository has nothing else."""
    names = [row.path for row in opened.choices.refused if PICKLED.fullmatch(split_path(row.path)[1])]
    if not names:
        return ""
    return (
        f" It has its weights as pickles, which can run any program when they are opened. To take them all the same: python server.py download {opened.repository.repo} --file {names[0]}, "
        "then python server.py convert with the name of its folder, which makes safetensors of them without running anything."
    )


def _chosen(opened: OpenedRepository, model: str) -> Choice:
    """The one choice that is meant.

    Raises:
        InvalidRequest: there are several, or none that can be taken.
    """
    usable = _usable(opened)
    if opened.picked >= 0:
        choice = opened.choices.choices[opened.picked]
        if choice.problem:
            raise InvalidRequest(choice.problem)
        return choice
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise InvalidRequest(f"{model} offers nothing that Paddock can load; choose another model.{_by_name(opened)}")
    rows = "\n".join(f"  {choice.total_bytes / 1e9:8.2f} GB  {choice.quantization or choice.kind:10} {choice.label}" for choice in usable)
    raise InvalidRequest(f"{model} offers {len(usable)} choices; name one as {opened.repository.repo}:QUANTIZATION or by the link of its file:\n{rows}")
