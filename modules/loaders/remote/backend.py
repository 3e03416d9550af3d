"""One address of a pool: is it up, which models does it have, how busy is it, and is it better left alone for a while.

Knows one address; which of several is asked is `pool.py`'s business.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import httpx2
from pydantic import SecretStr

from modules.loaders.remote.connection import AddressError, open_client
from modules.loaders.remote.kinds import recognise
from modules.loaders.remote.options import Kind, KindChoice, host_of
from modules.loaders.remote.refusals import how_it_broke, words_of

State = Literal["unknown", "up", "down", "refused"]

LIST_LIMIT_BYTES = 8 << 20
MODEL_LIMIT = 2000
MISSES = 2  # failed checks in a row that make an address down
FAULTS = 2  # failed requests in a row after which it is left alone
LEFT_ALONE_LIMIT_S = 30.0


@dataclass(frozen=True)
class Times:
    """How patient a pool is, in seconds."""

    check_interval_s: float = 1.0  # while something runs there or somebody looks
    check_s: float = 3.0  # for the answer to a check
    connect_s: float = 3.0
    silence_s: float = 600.0  # between two pieces of a reply, where checks are answered meanwhile


@dataclass(frozen=True)
class Listed:
    """A model as one address lists it."""

    context_length: int = 0  # 0: not told


@dataclass(frozen=True)
class AddressLook:
    """One look at an address, for the page."""

    url: str
    host: str
    state: State
    detail: str  # a sentence part where it is not up
    kind: Kind | None
    busy: int
    latency_s: float | None
    models: tuple[str, ...] = field(default=())


class Backend:
    """One address. One event loop uses it."""

    def __init__(self, url: str, key: SecretStr | None, kind: KindChoice, times: Times) -> None:
        self.url = url
        self.host = host_of(url)
        self.state: State = "unknown"
        self.detail = ""
        self.models: Mapping[str, Listed] = MappingProxyType({})
        self.busy = 0  # requests that run there now
        self.left_alone_until_s = 0.0
        self.latency_s: float | None = None
        self.down = asyncio.Event()  # set while it is down: who waits for it gives up
        self._key = key
        self._kind = kind
        self._seen: Kind | None = None
        self._times = times
        self._misses = 0
        self._faults = 0
        self._heard_s = 0.0
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()

    @property
    def kind(self) -> Kind:
        """What it is: as the person said, else as it looks."""
        return self._seen or "openai" if self._kind == "auto" else self._kind

    def look(self) -> AddressLook:
        """How it is, for the page."""
        kind = self.kind if self.state == "up" else None
        return AddressLook(
            self.url, self.host, self.state, self.detail, kind, self.busy, self.latency_s, tuple(self.models)
        )

    # ---- requests --------------------------------------------------------------------------------------------------

    async def client(self) -> httpx2.AsyncClient:
        """Its connections."""
        async with self._opening:
            if self._client is None:
                self._client = await open_client(self.url, self._times.connect_s, self._times.silence_s)
            return self._client

    def headers(self) -> dict[str, str]:
        """What a request carries to say who asks."""
        return {"authorization": "Bearer " + self._key.get_secret_value()} if self._key is not None else {}

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()

    def heard(self) -> None:
        """It sent something: a sign of life."""
        self._heard_s = time.monotonic()

    def succeeded(self) -> None:
        """It answered a request."""
        self._faults, self.left_alone_until_s = 0, 0.0

    def failed(self) -> None:
        """It failed to answer a request: after two in a row it is left alone, each time for longer."""
        self._faults += 1
        if self._faults >= FAULTS:
            self.leave_alone(min(LEFT_ALONE_LIMIT_S, 2.0 ** min(self._faults, 10)))

    def leave_alone(self, seconds: float) -> None:
        """Ask it only if nobody else can answer, for so long."""
        self.left_alone_until_s = time.monotonic() + seconds

    # ---- health ----------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Ask for its models, and know from that how it is."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._times.check_s):
                status, raw = await self._list()
        except (httpx2.HTTPError, AddressError, TimeoutError) as error:
            self._missed(
                began_s, "nothing came in time" if isinstance(error, TimeoutError) else how_it_broke(error)
            )
            return
        if status in (401, 403):
            self.state, self.detail = "refused", f"it refuses the key ({status})"
            self.down.clear()
        elif status == 429:
            self.heard()  # alive, but busy; what is known of it stays
        elif status != 200:
            words = words_of(raw)
            self._missed(began_s, f"it answered {status}" + (f": {words}" if words else ""), answered=True)
        else:
            self._take_list(raw, began_s)

    async def _list(self) -> tuple[int, bytes]:
        client = await self.client()
        async with client.stream("GET", self.url + "/v1/models", headers=self.headers()) as response:
            raw = bytearray()
            async for piece in response.aiter_raw():
                raw += piece
                if len(raw) > LIST_LIMIT_BYTES:
                    raise httpx2.RemoteProtocolError("its list of models is too long")
            return response.status_code, bytes(raw)

    def _take_list(self, raw: bytes, began_s: float) -> None:
        try:
            entries = [
                entry
                for entry in json.loads(raw)["data"]
                if isinstance(entry, dict) and isinstance(entry.get("id"), str)
            ]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._missed(
                began_s,
                "what it answers is no list of models; is this the address of a model server?",
                answered=True,
            )
            return
        self.models = MappingProxyType(
            {entry["id"]: Listed(_context_length(entry)) for entry in entries[:MODEL_LIMIT]}
        )
        self._seen = recognise(entries[0]) if entries else self._seen
        if self.state == "down":
            self.succeeded()  # it is back
        self.state, self.detail, self._misses = "up", "", 0
        self.latency_s = time.monotonic() - began_s
        self.down.clear()
        self.heard()

    def _missed(self, began_s: float, detail: str, *, answered: bool = False) -> None:
        """It did not answer a check as it should. One that sends text meanwhile lives, however slow its list is."""
        if not answered and self._heard_s > began_s:
            return
        self._misses += 1
        self.detail = detail
        if self.state != "up" or self._misses >= MISSES:
            self.state, self.latency_s = "down", None
            self.down.set()


def _context_length(entry: Mapping[str, Any]) -> int:
    """What an entry of a list tells about the longest text."""
    meta = entry.get("meta")
    told = (
        entry.get("max_model_len"),
        entry.get("context_length"),
        *((meta.get("n_ctx"), meta.get("n_ctx_train")) if isinstance(meta, dict) else ()),
    )
    return next(
        (value for value in told if isinstance(value, int) and not isinstance(value, bool) and value > 0), 0
    )
