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
from modules.core.settings import Settings, read_settings
from modules.services.accounts import NONE_HERE, AccountService, UserRecord
from modules.services.audit import AuditLog
from modules.services.entry import ask_password
from modules.services.storage import Storage

Command = Callable[[AccountService, argparse.Namespace], Awaitable[str]]
HERE = "on the command line"


def account_command(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    options, rest = _parser().parse_known_args(list(arguments))
    try:
        settings, _ = read_settings(rest)
        sys.stdout.write(asyncio.run(_run(settings, options)) + "\n")
    except AppError as error:
        sys.stderr.write(error.message + "\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nNothing was changed.\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="server.py", description="Accounts and their API keys. Settings of the server, such as --state-dir, may follow.")
    groups = parser.add_subparsers(dest="group", required=True, metavar="{users,keys}")
    users = groups.add_parser("users", help="accounts").add_subparsers(required=True, metavar="{add,list,set-password,set-role,remove}")
    keys = groups.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="{add,list,revoke}")
    add = _command(users, "add", _add, "make an account; the password is asked for, or read from what is piped in", "name")
    add.add_argument("--role", choices=ROLES, default="chat", help="the first account is always an administrator; default: chat")
    _command(users, "list", _list, "show all accounts")
    _command(users, "set-password", _set_password, "give an account another password; it is logged out everywhere", "name")
    _command(users, "set-role", _set_role, "give an account another role", "name").add_argument("role", choices=ROLES)
    _command(users, "remove", _remove, "delete an account with its keys; its conversations are gone for good after thirty days", "name")
    key = _command(keys, "add", _add_key, "make a key, which is shown once", "name")
    key.add_argument("--scope", action="append", choices=SCOPES, required=True, help="what it may do; may be repeated")
    key.add_argument("--name", dest="label", default="made on the command line", help="where it is used")
    key.add_argument("--days", type=float, default=None, help="how long it is good for; default: for ever")
    _command(keys, "list", _list_keys, "show the keys of an account", "name")
    _command(keys, "revoke", _revoke, "end a key", "name").add_argument("key", help="its id, as the list shows it")
    return parser


def _command(group: argparse._SubParsersAction[argparse.ArgumentParser], word: str, command: Command, text: str, *names: str) -> argparse.ArgumentParser:
    parser = group.add_parser(word, help=text, description=text[0].upper() + text[1:] + ".")
    for name in names:
        parser.add_argument(name, metavar="NAME", help="name of the account")
    parser.set_defaults(command=command)
    return parser


async def _run(settings: Settings, options: argparse.Namespace) -> str:
    if settings.multi_user:
        raise InvalidRequest(NONE_HERE)
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
        user = await accounts.create(options.name, ask_password(), options.role)
        return f"{user.name} can log in now, with the role {user.role}."
    user = await accounts.create_first(options.name, ask_password())
    return f"{user.name} is the first account and so an administrator. From now on everybody must log in; a server that runs asks for it within 5 s."


async def _list(accounts: AccountService, _: argparse.Namespace) -> str:
    rows = await accounts.list()
    lines = [f"{user.name:24} {user.role:8} {_day(user.created_s)} {'disabled' if user.disabled else ''}".rstrip() for user in rows]
    return "\n".join(lines) or "There are no accounts: nobody has to log in."


async def _set_password(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await _named(accounts, options.name)
    await accounts.set_password(user.id, ask_password())
    return f"{user.name} has another password, and is logged out everywhere."


async def _set_role(accounts: AccountService, options: argparse.Namespace) -> str:
    user = await accounts.change((await _named(accounts, options.name)).id, role=options.role)
    return f"{user.name} has the role {user.role}."


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


# What stands in the audit log of the commands that change something, under the names that the page's routes have there
NOTED: Mapping[Command, str] = MappingProxyType({
    _add: "user.create", _set_password: "user.password", _set_role: "user.change", _remove: "user.delete", _add_key: "key.create", _revoke: "key.revoke",
})  # fmt: skip
