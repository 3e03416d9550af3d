"""`python server.py convert NAME`: turn a model or an adapter whose weights are pickles into safetensors. Never done by a load, a page or a request.

Knows the terminal, the folders and the child that reads the pickles; what is in them is the business of `modules/weights/convert.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.core.errors import AppError, InvalidRequest, NotFound
from modules.core.files import sync_folder
from modules.core.process import child_environment, how_it_ended
from modules.core.settings import PROJECT_ROOT, SettingFlags, Settings, read_settings
from modules.hub.inventory import forget_files
from modules.loaders.folder_header import read_json, read_weight_header
from modules.loaders.model_paths import adapter_paths, model_paths
from modules.weights.convert import SAFE_INDEX, ConvertRequest, Pickles, find_pickles
from modules.weights.publishing import check_room, staging

COMMAND = (sys.executable, "-m", "modules.services.convert_child")


def convert_command(arguments: Sequence[str]) -> int:
    """Convert what the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="server.py convert",
        description="Turn the pickled weights (pytorch_model.bin, adapter_model.bin) of one model or adapter into safetensors. No code in them is run: a file that asks for any is refused.",
    )
    parser.add_argument("name", help="the folder in models/ or loras/, as the lists name it")
    parser.add_argument("--delete-originals", action="store_true", help="delete the pickles once their conversion is there; otherwise they are kept")
    flags = SettingFlags()
    flags.add_to(parser, shown=("models_dir", "loras_dir", "model_folders", "state_dir", "config"))
    options = parser.parse_args(list(arguments))
    try:
        settings, _ = read_settings(flags.given)
        _convert(settings, options.name, delete=options.delete_originals)
    except AppError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; nothing was changed.\n")
        return 130
    return 0


def _convert(settings: Settings, name: str, *, delete: bool) -> None:
    root, folder = _found(settings, name)
    pickles = find_pickles(folder)
    sys.stdout.write(f"Reading {', '.join(path.name for path in pickles.files[:3])}{' …' if len(pickles.files) > 3 else ''} of {folder.relative_to(root).as_posix()}; nothing in it is run.\n")
    sys.stdout.flush()
    check_room(root, pickles.size_bytes)
    with staging(root, hashlib.sha256(str(folder).encode()).hexdigest()[:16]) as target:
        tensors = _written(folder, pickles, target)
        made = sorted(target.iterdir(), key=lambda path: (path.name == SAFE_INDEX, path.name))
        for path in made:
            if path.name != SAFE_INDEX:
                read_weight_header(path)
        for path in made:  # the list comes last: without it the parts count for nothing
            path.replace(folder / path.name)
        sync_folder(folder)
    shown = made[0].name if len(made) == 1 else f"{len(made) - 1} files and their list {SAFE_INDEX}"
    sys.stdout.write(f"\n{folder.name} has its {tensors} tensors as safetensors now: {shown}.\n")
    if delete:
        for path in pickles.originals:
            path.unlink()
        top = root / folder.relative_to(root).parts[0]
        forget_files(top, frozenset(path.relative_to(top).as_posix() for path in pickles.originals))
    kept = "were deleted" if delete else "are kept, and are not read by anything; --delete-originals would have deleted them"
    sys.stdout.write(f"The pickles {kept}.\n")


def _found(settings: Settings, name: str) -> tuple[Path, Path]:
    """The root and the folder that a name means: as the lists show it, or its last part where only one folder has that.

    Raises:
        NotFound: there is none.
        InvalidRequest: there are several, or it is a file.
    """
    wanted = name.strip("/")
    roots = ((settings.models_dir, model_paths), (settings.loras_dir, adapter_paths))
    known = [(root, path) for root, paths in roots for path in paths(root) if path.name == wanted.rpartition("/")[2]]
    exact = [(root, path) for root, path in known if wanted in (path.relative_to(root).as_posix(), f"{root.name}/{path.relative_to(root).as_posix()}")]
    found = exact or ([] if "/" in wanted else known)
    if not found:
        raise NotFound(f"There is no model or adapter “{name[:100]}” in {settings.models_dir.name}/ or {settings.loras_dir.name}/; name its folder as the lists of the page do.")
    if len(found) > 1:
        raise InvalidRequest(f"“{name[:100]}” may mean {' or '.join(f'{root.name}/{path.relative_to(root).as_posix()}' for root, path in found)}; name it so.")
    if not found[0][1].is_dir():
        raise InvalidRequest(f"{found[0][1].name} is a file of its own and no folder with pickled weights.")
    return found[0]


def _written(folder: Path, pickles: Pickles, target: Path) -> int:
    """Let the child write the conversion; how many tensors there are.

    Raises:
        AppError: in the child's own sentence, or how it ended.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    request = ConvertRequest(files=pickles.files, target=target, is_adapter=pickles.is_adapter, tied=config.get("tie_word_embeddings") is True)
    child = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=PROJECT_ROOT, env=child_environment(os.environ), start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    said: dict[str, Any] = {}
    try:
        with contextlib.suppress(BrokenPipeError):  # it fell at once: how is said below
            child.stdin.write(request.model_dump_json().encode())
            child.stdin.close()
        for line in child.stdout:
            said = json.loads(line)
            if "done" in said:
                _show(said["done"], said["total"])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    if "error" in said:
        raise AppError(f"{said['error']}")
    if "tensors" not in said:
        raise AppError(f"{folder.name} could not be read: {how_it_ended(child.returncode)}. Nothing was changed; the file is damaged, or memory ran out.")
    return int(said["tensors"])


def _show(done: int, total: int) -> None:
    line = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB written"
    sys.stdout.write(f"\r{line}" if sys.stdout.isatty() else f"{line}\n")
    sys.stdout.flush()
