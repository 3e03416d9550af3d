"""A checkout to set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.steps import Place
from tests.installer.checkouts import make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Place:
    """The launcher in a folder of its own, nothing set up."""
    return make_checkout(tmp_path)
