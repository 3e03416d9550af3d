"""Files of tiny models, made once a session."""

from __future__ import annotations

import pytest

from tests.tiny_models import TinyFiles, tiny_files


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    return tiny_files(tmp_path_factory.getbasetemp())
