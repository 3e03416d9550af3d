"""The opened store: one for all services, cheap until it is used, and closed for good."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modules.core.errors import AppError
from modules.services.storage import Storage, Stores


async def test_the_store_is_opened_once_for_all_and_works_off_the_event_loop(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "state")
    assert not (tmp_path / "state").exists(), "nothing happens before the first call"

    def which(stores: Stores) -> tuple[int, str]:
        return id(stores.database), threading.current_thread().name

    found = await asyncio.gather(*(storage.run(which) for _ in range(8)))
    assert len({database for database, _ in found}) == 1
    assert threading.current_thread().name not in {name for _, name in found}
    await storage.close()


async def test_after_closing_a_sentence_is_given(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert await storage.open() == ""
    await storage.close()
    with pytest.raises(AppError, match="stopping"):
        await storage.run(lambda stores: stores.conversations.list("ann"))
    await storage.close()


async def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "paddock.sqlite3").write_bytes(b"no database at all " * 300)
    storage = Storage(tmp_path)
    assert "damaged" in await storage.open()
    assert await storage.run(lambda stores: stores.conversations.list("ann")) == ()
    await storage.close()


async def test_a_folder_that_cannot_be_used_is_told_at_every_call(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    storage = Storage(tmp_path / "state")
    for _ in range(2):
        with pytest.raises(AppError, match="cannot be used"):
            await storage.open()
    await storage.close()


def test_making_the_services_loads_no_database_library(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from modules.services.conversations import ConversationService\n"
        "from modules.services.storage import Storage\n"
        f"ConversationService(Storage(pathlib.Path({str(tmp_path)!r})))\n"
        "sys.exit('sqlalchemy' in sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, check=False).returncode == 0
