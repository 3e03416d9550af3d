"""The scripts, styles and fonts of the page: where they lie, and which version of them this is.

The version stands in their addresses, so a browser keeps them until they change and asks for none of them again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

VERSION_LETTERS = 12


def files_version(folder: Path) -> str:
    """The same for the same files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:VERSION_LETTERS]


ASSETS = Path(__file__).parent / "assets"
FONTS = Path(__file__).parent / "fonts"
VERSION = files_version(ASSETS)  # of when the server started: that is what it says it serves


def address(name: str) -> str:
    """Where a file is served, relative to the page."""
    return f"ui/assets/{VERSION}/{name}"
