"""`python server.py users …` and `keys …`: accounts and keys without the page, also while the server runs, which sees the change within five seconds.

Knows the terminal; what an account is, is the business of accounts.py.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from modules.core.errors import AppError, InvalidRequest, NotFound
from modules.core.person import ROLES, SCOPES
from modules.core.settings import SettingFlags, Settings, read_settings
from modules.services.accounts import NONE_HERE, AccountService, UserRecord
from modules.services.audit import AuditLog
from modules.services.entry import ask_password, stoppable
from modules.services.storage import Storage

Command = Callable[[AccountService, argparse.Namespace], Awaitable[str]]
HERE = "on the command line"
NAME = "name"


def account_command(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    flags = SettingFlags()
    options = _parser(flags).parse_args(list(arguments))
    try:
        settings, _ = read_settings(flags.given)
        if settings.multi_user:
            raise InvalidRequest(NONE_HERE)
        if options.command in ASKING:  # not inside the event loop, which notes Ctrl+C and waits for the answer all the same
            with stoppable():
                options.password = ask_password()
        sys.stdout.write(asyncio.run(_run(settings, options)) + "\n")
    except AppError as error:
        sys.stderr.write(error.message + "\n")
        return 1
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\nStopped; nothing was changed.\n")
        return 130
    return 0


def _parser(flags: SettingFlags) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="server.py", description="Accounts and their API keys, without the page and also while the server runs, which sees a change within five seconds.")
    groups = parser.add_subparsers(required=True, metavar="{users,keys}")
    users = Group(groups, "users", "Accounts: who may log in, and with which role. The first one is an administrator; from then on everybody must log in.", flags)
    keys = Group(groups, "keys", "API keys of accounts, for programs. A key never does more than the role of its account.", flags)
    users.add("add", _add, "make an account; the password is asked for, or read from what is piped in", NAME).add_argument(
        "--role", choices=ROLES, default="chat", help="the first account is always an administrator; default: chat"
    )
    users.add("list", _list, "show all accounts")
    users.add("set-password", _set_password, "give an account another password; it is logged out everywhere", NAME)
    users.add("set-role", _set_role, "give an account another role", NAME).add_argument("role", metavar="ROLE", choices=ROLES, help=", ".join(ROLES))
    users.add("disable", _disable, "keep an account out until it is enabled: it is logged out everywhere, and its keys do not work; nothing of it is deleted", NAME)
    users.add("enable", _enable, "let a disabled account in again; its keys work again", NAME)
    users.add("remove", _remove, "delete an account with its keys; its conversations are gone for good after thirty days", NAME)
    key = keys.add("add", _add_key, "make a key, which is shown once", NAME)
    key.add_argument("--scope", action="append", choices=SCOPES, required=True, help="what it may do; may be repeated")
    key.add_argument("--name", dest="label", metavar="WORDS", default="made on the command line", help="where it is used")
    key.add_argument("--days", type=float, metavar="NUMBER", default=None, help="how long it is good for; default: for ever")
    keys.add("list", _list_keys, "show the keys of an account", NAME)
    keys.add("revoke", _revoke, "end a key", NAME).add_argument("key", metavar="KEY", help="its id, as the list shows it")
    return parser


class Group:
    """The commands of one noun; settings of the server may stand anywhere among their arguments."""

    def __init__(self, parsers: argparse._SubParsersAction[argparse.ArgumentParser], word: str, text: str, flags: SettingFlags) -> None:
        parser = parsers.add_parser(word, help=text, description=text)
        flags.add_to(parser)
        self._parsers, self._flags = parser.add_subparsers(required=True, title="commands", metavar="COMMAND"), flags

    def add(self, word: str, command: Command, text: str, *names: str) -> argparse.ArgumentParser:
        """The parser of a command with the arguments that it has in any case."""
        parser = self._parsers.add_parser(word, help=text, description=text[0].upper() + text[1:] + ".")
        for name in names:
            parser.add_argument(name, metavar=name.upper(), help="name of the account")
        self._flags.add_to(parser)
        parser.set_defaults(command=command)
        return parser


async def _run(settings: Settings, options: argparse.Namespace) -> str:
    storage = Storage(settings.state_dir)
    accounts = AccountService(storage)
    audit = AuditLog(settings.state_dir)
    action, name = NOTED.get(options.command, ""), getattr(options, "name", "")
    try:
        told = str(await options.command(accounts, options))
        if action:
            audit.note(action, name, why=HERE)
        return told
    except AppError as error:
        if action:
            audit.note(action, name, "failed", f"{HERE}: {error.kind}")
        raise
    finally:
        await accounts.close()
        await storage.close()


async def _named(accounts: AccountService, name: str) -> UserRecord:
    user = await accounts.named(name)
    if user is None:
        raise NotFound(f"There is no account “{name}”; python server.py users list shows all.")
    return user


# ---- users ---------------------------------------------------------------------------------------------------------


async def _add(accounts: AccountService, options: argparse.Namespace) -> str:
    if await accounts.list():
        user = await accounts.create(options.name, options.password, options.role)
        return f"{user.name} can log in now, with the role {user.role}."
    user = await accounts.create_first(options.name, options.password)
    return f"{user.name} is the first account and so an administrator. From now on everybody must log in; a server that runs asks for it within 5 s."


async def _list(accounts: AccountService, _: argparse.Namespace) -> str:
    rows = await accounts.list()
    lines = [f"{user.name:24} {user.role:8} {_day(user.created_s)} {'disabled' if user.disabled else ''}".rstrip() for user in rows]
    return "\n".join(lines) or "There are no accounts: nobody has to log in."


async def _set_password(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await _named(accounts, options.name)
    await accounts.set_password(user.id, options.password)
    return f"{user.name} has another password, and is logged out everywhere."


async def _set_role(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await accounts.change((await _named(accounts, options.name)).id, role=options.role)
    return f"{user.name} has the role {user.role}."


async def _disable(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await accounts.change((await _named(accounts, options.name)).id, disabled=True)
    return f"{user.name} is disabled: logged out everywhere, and no key of that account works, on a server that runs within 5 s. python server.py users enable lets them in again."


async def _enable(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await accounts.change((await _named(accounts, options.name)).id, disabled=False)
    return f"{user.name} can log in again, and the keys of that account work."


async def _remove(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await _named(accounts, options.name)
    await accounts.delete(user.id)
    return f"{user.name} is gone; conversations and notebooks of that account are gone for good after thirty days."


# ---- keys ----------------------------------------------------------------------------------------------------------


async def _add_key(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await _named(accounts, options.name)
    key, row = await accounts.identities.create_key(user, options.label, options.scope, options.days)
    return f"{key}\nThis is shown once. It may do: {', '.join(row.scopes)}."


async def _list_keys(accounts: AccountService, options: argparse.Namespace) -> str:
    rows = await accounts.identities.keys((await _named(accounts, options.name)).id)
    lines = [f"{key.id:18} {','.join(key.scopes):24} {_day(key.created_s)} {_state(key.expires_s, key.revoked_s)} {key.name}" for key in rows]
    return "\n".join(lines) or f"{options.name} has no keys."


async def _revoke(accounts: AccountService, options: argparse.Namespace) -> str:
    await accounts.identities.revoke_key((await _named(accounts, options.name)).id, options.key)
    return "It works no more; a server that runs refuses it within 5 s."


def _state(expires_s: float | None, revoked_s: float | None) -> str:
    if revoked_s is not None:
        return "revoked"
    if expires_s is None:
        return "good"
    return f"until {_day(expires_s)}" if expires_s > time.time() else "expired"


def _day(time_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(time_s))


ASKING = frozenset({_add, _set_password})  # the commands that need a password

# What stands in the audit log of the commands that change something, under the names that the page's routes have there
NOTED: Mapping[Command, str] = MappingProxyType({
    _add: "user.create", _set_password: "user.password", _set_role: "user.change", _disable: "user.change", _enable: "user.change", _remove: "user.delete", _add_key: "key.create", _revoke: "key.revoke",
})  # fmt: skip
