"""Makes copies of the launcher's part of the checkout, set up or not, without installing anything."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from installer import state, steps
from installer.machine import Accelerator

ROOT = Path(__file__).resolve().parents[2]
CPU = Accelerator("cpu", torch_label="cpu", llama_label="cpu")


def make_checkout(folder: Path) -> steps.Place:
    """A copy of the launcher with an environment whose Python is this one, and nothing set up."""
    for name in ("launch.py", "requirements.txt", "requirements-test.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "installer", folder / "installer", ignore=shutil.ignore_patterns("__pycache__"))
    place = steps.Place(folder)
    place.python.parent.mkdir(parents=True)
    place.python.symlink_to(sys.executable)
    return place


def finish(place: steps.Place, *, tests: bool = False) -> state.SetupState:
    """Mark every step as done."""
    done = place.state()
    done.done = {step.name: step.fingerprint for step in steps.setup_steps(place, CPU, tests=tests)}
    steps.remember(done, CPU)
    done.write()
    return done
