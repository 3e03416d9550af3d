"""`server.py users` and `server.py keys`, and what a server needs before it lets other machines in."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from modules.core.errors import InvalidRequest
from modules.core.settings import Settings
from modules.services import passwords
from modules.services.account_commands import account_command
from modules.services.accounts import AccountService
from modules.services.entry import check_entry, check_or_offer
from modules.services.storage import Storage
from modules.store.peek import FILE_NAME, has_users

PASSWORD = "heron and otter"


class Terminal:
    """Commands with what is piped into them."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.state, self._monkeypatch, self._capsys = state, monkeypatch, capsys

    def __call__(self, line: str, typed: str = "") -> tuple[int, str]:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = account_command([*line.split(" "), "--state-dir", str(self.state)])
        said = self._capsys.readouterr()
        return code, (said.out + said.err).strip()


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.setattr(passwords.Passwords.__init__, "__defaults__", (4,))  # the same hash, at a lower cost
    return Terminal(tmp_path / "state", monkeypatch, capsys)


def test_users_and_keys(terminal: Terminal) -> None:
    assert terminal("users list") == (0, "There are no accounts: nobody has to log in.")
    assert terminal("users add Ann", "short\n") == (1, "A password has 8 to 1000 characters; this one has 5.")
    assert terminal("users add Ann --role chat", PASSWORD + "\n")[1].startswith("Ann is the first account and so an administrator.")
    assert terminal("users add ann", PASSWORD) == (1, "There is an account “Ann” already; choose another name.")
    assert terminal("users add Ben --role manage", PASSWORD) == (0, "Ben can log in now, with the role manage.")
    rows = terminal("users list")[1].splitlines()
    assert [row.split()[:2] for row in rows] == [["Ann", "admin"], ["Ben", "manage"]]
    assert terminal("users set-role Ben chat") == (0, "Ben has the role chat.")
    assert terminal("users set-password Ben", "another one") == (0, "Ben has another password, and is logged out everywhere.")
    assert terminal("users remove Ann") == (1, "This is the only administrator who can log in; make another account an administrator first.")
    assert terminal("keys list Ben") == (0, "Ben has no keys.")
    code, said = terminal("keys add Ben --scope jobs")
    assert code == 1 and said == "A key of Ben cannot have the scope “jobs”; the role “chat” offers: chat."
    key, shown = terminal("keys add Ben --scope chat --name phone --days 2")[1].splitlines()
    assert key.startswith("pdk_") and shown == "This is shown once. It may do: chat."
    listed = terminal("keys list Ben")[1]
    assert " until " in listed and listed.endswith(" phone") and key not in listed
    assert terminal(f"keys revoke Ben {listed.split()[0]}")[0] == 0 and " revoked phone" in terminal("keys list Ben")[1]
    noted = [(one["action"], one["object"], one["outcome"]) for one in map(json.loads, (terminal.state / "audit.jsonl").read_text().splitlines())]
    assert noted == [
        ("user.create", "Ann", "failed"), ("user.create", "Ann", "done"), ("user.create", "ann", "failed"), ("user.create", "Ben", "done"), ("user.change", "Ben", "done"),
        ("user.password", "Ben", "done"), ("user.delete", "Ann", "failed"), ("key.create", "Ben", "failed"), ("key.create", "Ben", "done"), ("key.revoke", "Ben", "done"),
    ]  # fmt: skip
    assert terminal("keys revoke Ben nothing") == (1, "There is no such key; refresh the list.")
    assert terminal("keys add Cem --scope chat") == (1, "There is no account “Cem”; python server.py users list shows all.")
    assert terminal("users remove Ben")[0] == 0 and len(terminal("users list")[1].splitlines()) == 1
    assert terminal("users list --multi-user")[0] == 1
    for line in ("users", "keys", "users add", "users add Ann --role root", "keys add Ann"):
        with pytest.raises(SystemExit):
            terminal(line)


def test_what_lets_other_machines_in(terminal: Terminal) -> None:
    def settings(**values: object) -> Settings:
        return Settings(state_dir=terminal.state, **values)  # type: ignore[arg-type]

    check_entry(settings())
    check_entry(settings(host="0.0.0.0", api_key="a key"))
    for refused in (settings(host="0.0.0.0"), settings(host="::", multi_user=True)):
        with pytest.raises(InvalidRequest, match="neither an account nor a key"):
            check_or_offer(refused)  # where nobody sits at a terminal it is refused
    terminal("users add Ann", PASSWORD)
    check_entry(settings(host="0.0.0.0"))
    with pytest.raises(InvalidRequest, match="would let everybody in"):
        check_entry(settings(multi_user=True))


def test_a_server_that_lost_its_accounts_does_not_open(terminal: Terminal) -> None:
    terminal("users add Ann", PASSWORD)
    for broken in (b"this is no database" * 500, None):
        for path in terminal.state.glob(f"{FILE_NAME}*"):
            path.unlink()
        if broken:
            (terminal.state / FILE_NAME).write_bytes(broken)
        settings = Settings(state_dir=terminal.state)
        with pytest.raises(InvalidRequest, match="This server had accounts"):
            check_or_offer(settings)

        async def is_closed() -> bool:  # also where it is lost only after that look
            storage = Storage(terminal.state)
            accounts = AccountService(storage)
            closed = await accounts.on() and await accounts.list() == ()
            await storage.close()
            return closed

        assert asyncio.run(is_closed())
        assert terminal("users add Ben", PASSWORD)[1].startswith("Ben is the first account")
        check_or_offer(settings)


def test_a_look_at_a_database_that_is_none(tmp_path: Path) -> None:
    assert not has_users(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 100)
    assert not has_users(tmp_path)
