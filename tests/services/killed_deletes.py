"""A process that is killed in the middle of a delete or a restore, again and again: at every rename. Prints what is left after `recover`.

Arguments: a folder to work in, the number of parts of the model, and `delete` or `restore`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from modules.services.library_bin import LibraryBin

LIMIT = 20  # renames that are tried


def dying(count: int, act: Callable[[], object]) -> bool:
    """Act in a child that kills itself before its rename of that number; whether it was killed."""
    child = os.fork()
    if child == 0:
        left = count

        def counted(original: Callable[..., Path]) -> Callable[..., Path]:
            def move(self: Path, target: Path) -> Path:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return original(self, target)

            return move

        Path.rename, Path.replace = counted(Path.rename), counted(Path.replace)  # type: ignore[method-assign]
        act()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def state(models: Path, names: list[str], bin_: LibraryBin) -> str:
    """Where the model is: in one place as a whole, or torn."""
    there = [name for name in names if (models / name).read_bytes() == name.encode()] if all((models / name).exists() for name in names) else []
    binned = [entry for entry in bin_.entries() if list(entry.places) == names]
    kept = binned and sorted(path.read_bytes() for path in (models / ".bin" / binned[0].id / "files").iterdir()) == sorted(map(str.encode, names))
    none_there = not any((models / name).exists() for name in names)
    if there and not binned:
        return "there"
    return "binned" if kept and none_there else "torn"


def main(folder: Path, parts: int, verb: str) -> None:
    seen = []
    for count in range(LIMIT):
        models = folder / str(count)
        models.mkdir()
        names = [f"m-{number:05d}-of-{parts:05d}.gguf" for number in range(1, parts + 1)] if parts > 1 else ["m.gguf"]
        for name in names:
            (models / name).write_bytes(name.encode())
        bin_ = LibraryBin(models)
        if verb == "restore":
            entry = bin_.prepare(names[0], names, 1, (), None)
            bin_.take(entry)
            killed = dying(count, lambda bin_=bin_, entry=entry: bin_.give_back(entry))  # type: ignore[misc]
        else:
            killed = dying(count, lambda bin_=bin_, names=names: bin_.take(bin_.prepare(names[0], names, 1, (), None)))  # type: ignore[misc]
        bin_.recover()
        seen.append(state(models, names, bin_))
        if not killed:
            break
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
