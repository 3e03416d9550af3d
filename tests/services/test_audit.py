"""The audit log only grows, makes room in whole files, is private to the server's user, and is read the newest first."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from modules.core.person import Person, asked_by
from modules.services.audit import FIELD_CHARACTERS, PAGE_ENTRIES, AuditLog, coming_from


async def test_entries_say_who_where_from_and_what_and_are_read_the_newest_first(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path)
    audit.note("model.load", "a.gguf", "failed", "OutOfMemory")
    with asked_by(Person("u1", "chat", "Ann", key_id="k1")), coming_from("10.0.0.7"):
        audit.note("preset.save", "Warm\n" + "x" * 1000)
    audit.note("login", "ben", person=Person("u2", "admin", "Ben"))
    newest = await audit.read()
    assert [(one["action"], one["name"], one["address"], one["key"]) for one in newest] == [
        ("login", "Ben", "", ""), ("preset.save", "Ann", "10.0.0.7", "k1"), ("model.load", "", "", ""),
    ]  # fmt: skip
    assert len(newest[1]["object"]) == FIELD_CHARACTERS
    assert (newest[2]["outcome"], newest[2]["why"]) == ("failed", "OutOfMemory")
    assert [one["action"] for one in await audit.read(text="ANN")] == ["preset.save"]
    assert [one["action"] for one in await audit.read(before=newest[1]["time"])] == ["model.load"]
    path = tmp_path / "audit.jsonl"
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["action"] for line in b"".join(audit.whole()).splitlines()] == ["model.load", "preset.save", "login"]


async def test_an_object_cannot_hide_its_entry_by_ends_of_lines_in_its_name(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path)
    names = [f"a{end}b" for end in ("\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\n", "\r")]
    for name in names:
        audit.note("key.create", name)
    assert [one["object"] for one in reversed(await audit.read())] == names


async def test_files_make_room_whole_and_pages_go_on_across_them(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path, file_bytes=4000, kept_files=5)
    (tmp_path / "audit.jsonl").write_text('not json\n{"no": "time"}\n')
    for number in range(1000):
        audit.note("n", str(number))
    paths = sorted(path.name for path in tmp_path.iterdir())
    assert paths == ["audit.1.jsonl", "audit.2.jsonl", "audit.3.jsonl", "audit.4.jsonl", "audit.5.jsonl", "audit.jsonl"]
    assert all(path.stat().st_size <= 4000 for path in tmp_path.iterdir())
    seen: list[str] = []
    while page := await audit.read(before=seen[-1] if seen else ""):
        assert len(page) == PAGE_ENTRIES or len(seen) + len(page) > 200
        seen += [one["time"] for one in page]
    kept = [json.loads(line) for line in b"".join(audit.whole()).splitlines()]
    assert seen == [one["time"] for one in reversed(kept)]
    assert len(set(seen)) == len(seen)
    assert [one["object"] for one in kept] == [str(number) for number in range(1000 - len(kept), 1000)]


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AuditLog(tmp_path / "not there").note("login", "ann", "refused")
    assert "The audit log could not be written (No such file or directory): login refused" in caplog.text
