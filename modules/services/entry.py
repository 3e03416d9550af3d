"""What a server needs before it lets other machines in: its key, or an account. Where neither is there a person at the terminal is asked for the first account.

Runs before anything heavy is imported, so it knows the database only by a look.
"""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import TYPE_CHECKING

from modules.core.errors import AppError, InvalidRequest
from modules.store.peek import MARK_NAME, has_users, is_marked

if TYPE_CHECKING:
    from modules.core.settings import Settings

WAYS = (
    "Make the first account (python server.py users add NAME --role admin), with which people log in and make keys for programs; "
    "or give the server one key for all: PADDOCK_API_KEY=… (clients send it, people type it into the page)."
)

LOST = (
    "This server had accounts, and the database in {folder} has none or cannot be read. Make the first account again (python server.py users add NAME; what the damaged database "
    "held is kept beside it), or delete the file “{mark}” there to go on without accounts."
)


def check_entry(settings: Settings) -> None:
    """Let a start through.

    Raises:
        InvalidRequest: other machines would be let in without a log-in, or accounts would be passed over or are lost.
    """
    users = has_users(settings.state_dir)
    if is_marked(settings.state_dir) and not users:
        raise InvalidRequest(LOST.format(folder=settings.state_dir, mark=MARK_NAME))
    if users and settings.multi_user:
        raise InvalidRequest(f"There are accounts in {settings.state_dir}, and --multi-user would let everybody in without them. Leave it out, or choose another --state-dir.")
    if not settings.is_local and settings.api_key is None and not users:
        raise InvalidRequest(f"--host {settings.host} lets other machines in, but there is neither an account nor a key. {WAYS}")


def check_or_offer(settings: Settings) -> None:
    """The same, but a person at the terminal may make the first account now.

    Raises:
        InvalidRequest: as above.
    """
    try:
        check_entry(settings)
    except InvalidRequest as error:
        if settings.multi_user or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise
        sys.stdout.write(f"{error.message}\n\nMake the first account now? What this server has so far will be theirs. Ctrl+C leaves.\n")
        _ask_for_first(settings)


def ask_password() -> str:
    """A password typed twice at the terminal, or one line of what is piped in.

    Raises:
        InvalidRequest: the two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise InvalidRequest("The two differ; nothing was changed.")
    return password


def _ask_for_first(settings: Settings) -> None:
    from modules.services.accounts import AccountService
    from modules.services.storage import Storage

    async def make(name: str, password: str) -> None:
        storage = Storage(settings.state_dir)
        accounts = AccountService(storage)
        try:
            await accounts.create_first(name, password)
        finally:
            await accounts.close()
            await storage.close()

    while True:
        try:
            name = input("Name: ")
            asyncio.run(make(name, ask_password()))
        except EOFError as error:
            raise InvalidRequest(f"No account was made. {WAYS}") from error
        except AppError as error:  # typed wrongly: asked again
            sys.stdout.write(f"{error.message}\n")
        else:
            sys.stdout.write(f"“{name.strip()}” can log in now. More accounts: python server.py users add NAME\n")
            return
