"""Other servers whose models can be used: the list that is kept of them, their pools of addresses, and their models by name.

The list is one file, readable by this account only, since it holds keys; a key is never given out again. A server is asked only when somebody uses
it or looks at it. Knows neither HTTP nor what is loaded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.files import write_atomic
from modules.core.generation import EngineCard
from modules.core.model import ModelInfo
from modules.loaders.remote.kinds import left_out, spec_of
from modules.loaders.remote.options import RemoteServer, host_of, is_here, server_from

if TYPE_CHECKING:
    from modules.loaders.remote.backend import AddressLook
    from modules.loaders.remote.pool import Pool
    from modules.services.remote_engine import RemoteEngine

log = logging.getLogger(__name__)

FILE_NAME = "remote_servers.json"
PREFIX = "remote/"  # of the names of their models
FORMAT = "remote"
SERVER_LIMIT = 50
FILE_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True)
class ServerLook:
    """One look at a server, for the page. Holds no key."""

    name: str
    kind: str  # as the person said
    has_key: bool
    key_is_open: bool  # it travels where others could read it
    leaves: bool  # what is sent leaves this machine
    addresses: tuple[AddressLook, ...]
    models: Mapping[str, int]  # name here → context length, 0 where it is not told
    aliases: Mapping[str, tuple[str, ...]]


class RemoteServers:
    """The servers that were added. One event loop calls it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._servers: dict[str, RemoteServer] | None = None
        self._pools: dict[str, Pool] = {}
        self._changing = asyncio.Lock()

    async def close(self) -> None:
        """End all connections."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        self._pools.clear()

    # ---- the list --------------------------------------------------------------------------------------------------

    def _known(self) -> dict[str, RemoteServer]:
        if self._servers is None:
            self._servers = {server.name: server for server in _read(self._path)}
        return self._servers

    def _write(self, servers: Mapping[str, RemoteServer]) -> None:
        text = json.dumps([server.stored() for server in servers.values()], indent=1, ensure_ascii=False)
        write_atomic(self._path, text + "\n", mode=0o600)
        self._servers = dict(servers)

    async def add(self, server: RemoteServer) -> None:
        """Keep a server.

        Raises:
            Conflict: there is one of that name.
            InvalidRequest: there are too many.
        """
        async with self._changing:
            known = self._known()
            if server.name.lower() in {name.lower() for name in known}:
                raise Conflict(
                    f"There is a server “{server.name}” already; remove it first, or choose another name."
                )
            if len(known) >= SERVER_LIMIT:
                raise InvalidRequest(f"At most {SERVER_LIMIT} servers are kept; remove one that is not used.")
            self._write({**known, server.name: server})

    async def remove(self, name: str) -> None:
        """Forget a server with its key. Its models must not be loaded.

        Raises:
            NotFound: there is none of that name.
        """
        async with self._changing:
            server = self._server(name)
            self._write({kept: row for kept, row in self._known().items() if kept != server.name})
            pool = self._pools.pop(server.name, None)
        if pool is not None:
            await pool.close()

    def _server(self, name: str) -> RemoteServer:
        server = self._known().get(name)
        if server is None:
            raise NotFound(f"There is no server “{name[:60]}”; refresh the list.")
        return server

    def _pool(self, name: str) -> Pool:
        from modules.loaders.remote.pool import Pool

        if name not in self._pools:
            self._pools[name] = Pool(self._server(name))
        return self._pools[name]

    # ---- look ------------------------------------------------------------------------------------------------------

    async def look(self) -> tuple[ServerLook, ...]:
        """All servers and how their addresses are now."""
        pools = [self._pool(name) for name in self._known()]
        looks = await asyncio.gather(*(pool.look() for pool in pools))
        return tuple(_look(pool, addresses) for pool, addresses in zip(pools, looks, strict=True))

    async def test(self, server: RemoteServer) -> ServerLook:
        """Look at a server that is not kept."""
        from modules.loaders.remote.pool import Pool

        pool = Pool(server)
        try:
            return _look(pool, await pool.look())
        finally:
            await pool.close()

    # ---- models ----------------------------------------------------------------------------------------------------

    def owns(self, name: str) -> bool:
        """Whether a name is that of a model of one of the servers."""
        return bool(self._split(name)[0])

    def _split(self, name: str) -> tuple[str, str]:
        """Server and model of a name; empty where it names none."""
        server, _, model = name.removeprefix(PREFIX).partition("/")
        return (server, model) if name.startswith(PREFIX) and model and server in self._known() else ("", "")

    def names_of(self, server: str) -> str:
        """How the names of all models of a server begin."""
        return f"{PREFIX}{server}/"

    async def infos(self) -> tuple[ModelInfo, ...]:
        """The models of all servers, as far as they were told."""
        pools = [self._pool(name) for name in self._known()]
        await asyncio.gather(*(pool.known() for pool in pools))
        return tuple(
            _info(pool, model, length) for pool in pools for model, length in sorted(pool.models().items())
        )

    async def find(self, name: str) -> ModelInfo:
        """A model of a server by its name.

        Raises:
            NotFound: the server does not list it.
        """
        server, model = self._split(name)
        pool = self._pool(server)
        await pool.known()
        if model not in pool.models():
            await pool.check()  # it may be new there
        lengths = pool.models()
        if lengths and model not in lengths:
            raise pool.problem(model)
        return _info(pool, model, lengths.get(model, 0))

    async def open(self, name: str) -> RemoteEngine:
        """A model of a server, after a look whether it is there.

        Raises:
            RemoteError: no address answers.
            NotFound: the server does not have it.
        """
        from modules.services.remote_engine import RemoteEngine

        began_s = time.monotonic()
        server, model = self._split(name)
        pool = self._pool(server)
        await pool.check()
        if pool.pick(model) is None:
            raise pool.problem(model)
        card = EngineCard(
            name=name,
            loader=FORMAT,
            context_length=pool.models().get(model, 0),
            slots=0,
            vocab_size=0,
            memory_bytes=0,
            load_s=time.monotonic() - began_s,
            template_origin=f"the server {server}",
            vision=None,
            host=_hosts(pool.server),
            leaves=_leaves(pool.server),
            notes=_notes(pool),
            ignores=_ignores(pool),
        )
        return RemoteEngine(pool, model, card)


def _read(path: Path) -> tuple[RemoteServer, ...]:
    """The kept servers; a file that cannot be read is set aside, so that its keys are not lost."""
    try:
        raw = path.read_bytes()[:FILE_LIMIT_BYTES]
    except FileNotFoundError:
        return ()
    try:
        rows: Any = json.loads(raw)
        return tuple(map(server_from, rows))
    except (ValueError, TypeError, RecursionError, AppError):
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.warning(
            "The list of other servers could not be read; it lies in %s now. Add the servers again.",
            aside.name,
        )
        return ()


def _hosts(server: RemoteServer) -> str:
    return ", ".join(map(host_of, server.urls))


def _leaves(server: RemoteServer) -> bool:
    return not all(map(is_here, server.urls))


def _look(pool: Pool, addresses: tuple[AddressLook, ...]) -> ServerLook:
    server = pool.server
    is_open = any(url.startswith("http:") and not is_here(url) for url in server.urls)
    return ServerLook(
        name=server.name,
        kind=server.kind,
        has_key=server.key is not None,
        key_is_open=server.key is not None and is_open,
        leaves=_leaves(server),
        addresses=addresses,
        models=pool.models(),
        aliases=server.aliases,
    )


def _info(pool: Pool, model: str, context_length: int) -> ModelInfo:
    server = pool.server
    return ModelInfo(
        name=f"{PREFIX}{server.name}/{model}",
        path="",
        format=FORMAT,
        context_length=context_length,
        template="the server's own",
        host=_hosts(server),
        leaves=_leaves(server),
    )


def _notes(pool: Pool) -> tuple[str, ...]:
    """What a person should know before sending something there."""
    server = pool.server
    where = "leaves this machine" if _leaves(server) else "goes to another program on this machine"
    notes = [f"What you send {where}: it goes to {_hosts(server)}."]
    for kind in pool.kinds():
        names = left_out(kind)
        if names:
            notes.append(
                f"{spec_of(kind).title} is not sent: {', '.join(name.replace('_', ' ') for name in names)}."
            )
    return tuple(notes)


def _ignores(pool: Pool) -> dict[str, str]:
    """The parameters that one of the servers is not sent, each with a sentence."""
    titles: dict[str, list[str]] = {}
    for kind in pool.kinds():
        for name in left_out(kind):
            titles.setdefault(name, []).append(spec_of(kind).title)
    return {name: f"{' and '.join(kinds)} {'do' if len(kinds) > 1 else 'does'} not take this." for name, kinds in titles.items()}
