"""What a server needs before it lets other machines in: its key, or an account. Where neither is there a person at the terminal is asked for the first account.

Runs before anything heavy is imported, so it knows the database only by a look.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modules.core.errors import InvalidRequest
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
        sys.stdout.write(f"{error.message}\n\n")
        try:
            with stoppable():
                _offer_first(settings)
        except (KeyboardInterrupt, EOFError) as stopped:
            sys.stdout.write("\n")
            raise InvalidRequest(f"No account was made. {WAYS}") from stopped


def ask_password() -> str:
    """A password typed twice at the terminal, until it can be one and both are the same; or one line of what is piped in.

    Raises:
        EOFError: the terminal was closed.
    """
    from modules.services.passwords import checked_password

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    while True:
        try:
            password = checked_password(getpass.getpass("Password: "))
        except InvalidRequest as error:
            sys.stdout.write(f"{error.message}\n")
            continue
        if getpass.getpass("Once more: ") == password:
            return password
        sys.stdout.write("The two differ; type the password again.\n")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While somebody is asked, Ctrl+C and SIGTERM are exceptions: a server that starts ends at once on both, which would leave a terminal that shows nothing of what is typed.

    Raises:
        KeyboardInterrupt: one of them came, also where whoever started this process has it pass over Ctrl+C.
    """
    before = [(stop, signal.signal(stop, signal.default_int_handler)) for stop in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for stop, handler in before:
            signal.signal(stop, handler)


def _offer_first(settings: Settings) -> None:
    """Ask whether to make the first account, and make it.

    Raises:
        InvalidRequest: no.
    """
    answer = ""
    while answer not in ("y", "yes", "n", "no"):
        answer = input("Make the first account now? What this server has so far will be theirs. Answer y or n: ").strip().lower()
    if answer in ("n", "no"):
        raise InvalidRequest(f"No account was made. {WAYS}")
    name = _ask_name()
    asyncio.run(_make_first(settings, name, ask_password()))
    sys.stdout.write(f"“{name}” can log in now. More accounts: python server.py users add NAME\n")


def _ask_name() -> str:
    from modules.services.accounts import checked_name

    while True:
        try:
            return checked_name(input("Name: "))
        except InvalidRequest as error:
            sys.stdout.write(f"{error.message}\n")


async def _make_first(settings: Settings, name: str, password: str) -> None:
    from modules.services.accounts import AccountService
    from modules.services.storage import Storage

    storage = Storage(settings.state_dir)
    accounts = AccountService(storage)
    try:
        await accounts.create_first(name, password)
    finally:
        await accounts.close()
        await storage.close()
