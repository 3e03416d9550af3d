"""Passwords: what one may be, and their hashes. Computing one takes time and memory on purpose, so it happens off the event loop, two at once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
from concurrent.futures import ThreadPoolExecutor

from modules.core.errors import Busy, InvalidRequest

SHORTEST, LONGEST = 8, 1000
COST = 15  # as a power of two: 32 MiB and about a twelfth of a second
BLOCK, LANES = 8, 1
SALT_BYTES = 16
AT_ONCE = 2
WAITING_LIMIT = 40  # more than so many are a flood


def checked_password(password: str) -> str:
    """The password, if it may be one.

    Raises:
        InvalidRequest: it is too short or too long.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidRequest(f"A password has {SHORTEST} to {LONGEST} characters; this one has {len(password)}.", field="password")
    return password


class Passwords:
    """Makes and checks hashes in threads of its own. What a hash was made with stands in it, so that the cost can be raised later."""

    def __init__(self, cost: int = COST) -> None:
        self._cost = cost
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobodys = _written(cost, os.urandom(SALT_BYTES), os.urandom(32))

    async def hash(self, password: str) -> str:
        """What is kept of a password.

        Raises:
            Busy: too many are being computed.
        """
        salt = os.urandom(SALT_BYTES)
        return _written(self._cost, salt, await self._computed(password, salt, self._cost))

    async def fits(self, password: str, kept: str | None) -> bool:
        """Whether this is the password of a hash; without a hash it takes as long, and is not.

        Raises:
            Busy: too many are being computed.
        """
        _, cost, salt, digest = (kept or self._nobodys).split("$")
        computed = await self._computed(password, _bytes(salt), int(cost))
        return hmac.compare_digest(computed, _bytes(digest)) and kept is not None

    async def close(self) -> None:
        """Wait for what is being computed."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _computed(self, password: str, salt: bytes, cost: int) -> bytes:
        if self._waiting >= WAITING_LIMIT:
            raise Busy("Too many passwords are being checked; try again in some seconds.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _scrypt, password, salt, cost)
        finally:
            self._waiting -= 1


def new_token() -> str:
    """What nobody can guess."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """What is kept of something random and long: guessing it from this is as hard as guessing it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    memory = 128 * BLOCK * (LANES + 2 + (1 << cost))
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, n=1 << cost, r=BLOCK, p=LANES, maxmem=2 * memory, dklen=32)


def _written(cost: int, salt: bytes, digest: bytes) -> str:
    return "$".join(("scrypt", str(cost), *(base64.b64encode(part).decode() for part in (salt, digest))))


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
