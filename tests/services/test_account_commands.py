"""`server.py users` and `server.py keys`, and what a server needs before it lets other machines in."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
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
    assert terminal("users disable Ann") == (1, "This is the only administrator who can log in; make another account an administrator first.")
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
        ("user.password", "Ben", "done"), ("user.change", "Ann", "failed"), ("user.delete", "Ann", "failed"), ("key.create", "Ben", "failed"), ("key.create", "Ben", "done"), ("key.revoke", "Ben", "done"),
    ]  # fmt: skip
    assert terminal("keys revoke Ben nothing") == (1, "There is no such key; refresh the list.")
    assert terminal("keys add Cem --scope chat") == (1, "There is no account “Cem”; python server.py users list shows all.")
    assert terminal("users remove Ben")[0] == 0 and len(terminal("users list")[1].splitlines()) == 1
    assert terminal("users list --multi-user")[0] == 1
    for line in ("users", "keys", "users add", "users add Ann --role root", "keys add Ann"):
        with pytest.raises(SystemExit):
            terminal(line)


def test_a_disabled_account_is_out_until_it_is_enabled(terminal: Terminal) -> None:
    async def look(token: str, key: str) -> tuple[str, bool, bool, bool]:
        storage = Storage(terminal.state)
        accounts = AccountService(storage)
        try:
            logged_in = await accounts.log_in("Ben", PASSWORD)
            return (
                logged_in[1] if logged_in else "",
                logged_in is not None,
                await accounts.identities.of_session(token) is not None,
                await accounts.identities.of_key(key) is not None,
            )
        finally:
            await accounts.close()
            await storage.close()

    terminal("users add Ann", PASSWORD)
    terminal("users add Ben", PASSWORD)
    key = terminal("keys add Ben --scope chat")[1].splitlines()[0]
    token = asyncio.run(look("", key))[0]
    assert asyncio.run(look(token, key))[1:] == (True, True, True)
    code, said = terminal("users disable Ben")
    assert code == 0 and said.startswith("Ben is disabled: logged out everywhere, and no key of that account works")
    assert asyncio.run(look(token, key))[1:] == (False, False, False)
    assert terminal("users list")[1].splitlines()[1].endswith(" disabled")
    assert terminal("users enable ben") == (0, "Ben can log in again, and the keys of that account work.")
    assert asyncio.run(look(token, key))[1:] == (True, False, True)  # the session of before has ended for good
    assert terminal("users disable Cem") == (1, "There is no account “Cem”; python server.py users list shows all.")


def test_settings_of_the_server_may_stand_anywhere(terminal: Terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal("users add Ann", PASSWORD)
    terminal("users add Ben", PASSWORD)
    key = terminal("keys add Ben --scope chat")[1].split("_")[1]
    commands = [
        "users add Cem --role manage", "users list", "users set-password Ben", "users set-role Ben manage", "users disable Ben", "users enable Ben",
        "keys add Ben --scope chat --name phone --days 2", "keys list Ben", f"keys revoke Ben {key}", "users remove Ben",
    ]  # fmt: skip
    option = ["--state-dir", str(terminal.state)]
    for line in commands:
        words = line.split()
        for place in range(1, len(words) + 1):
            if words[place - 1].startswith("--"):
                continue  # it takes the next word
            elsewhere = tmp_path / f"{words[0]}-{words[1]}-{place}"
            shutil.copytree(terminal.state, elsewhere)
            monkeypatch.setattr("sys.stdin", io.StringIO("another one"))
            with_flag = [*words[:place], "--no-ui", *option[:1], str(elsewhere), "--port=1", *words[place:]]
            assert account_command(with_flag) == 0, (with_flag, capsys.readouterr())
            capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    for words in (["keys", "list", *option], ["users", "remove", *option], ["users", "set-role", *option, "Ben"], ["users", "list", "Ben", *option], ["users", "list", *option, "--colour"]):
        with pytest.raises(SystemExit) as left:
            account_command(words)
        said = capsys.readouterr().err
        assert left.value.code == 2 and ("arguments are required: NAME" in said or "arguments are required: ROLE" in said or "unrecognized arguments" in said), said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("users", ("set-password", "disable", "enable", "--state-dir", "an administrator")), ("keys", ("revoke", "--state-dir", "role")),
        ("users add", ("NAME", "--role", "asked for")), ("users list", ("Show all accounts",)), ("users set-password", ("NAME", "logged out")), ("users set-role", ("NAME", "ROLE", "manage")),
        ("users disable", ("NAME", "keys do not work")), ("users enable", ("NAME",)), ("users remove", ("NAME", "thirty days")),
        ("keys add", ("NAME", "--scope", "--days", "shown once")), ("keys list", ("NAME",)), ("keys revoke", ("NAME", "KEY", "its id")),
    ],
)  # fmt: skip
def test_help_of_each_command(line: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        account_command([*line.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0 and all(word in shown for word in (*words, f"usage: server.py {line}", "--state-dir")), shown
    assert "--top" not in shown and "--queue-limit" not in shown  # settings that matter to no account


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
