"""What a person does with other servers: look, try, add, remove. Removing one takes its loaded models along."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from modules.core.errors import NotFound
from modules.loaders.remote.options import server_from
from modules.services.models import ModelService
from modules.services.remote_servers import RemoteServers, ServerLook

__all__ = ["RemoteService", "ServerLook"]


class RemoteService:
    """All verbs on other servers. One event loop calls it."""

    def __init__(self, servers: RemoteServers, models: ModelService) -> None:
        self._servers = servers
        self._models = models

    async def look(self) -> tuple[ServerLook, ...]:
        """All servers and how their addresses are now."""
        return await self._servers.look()

    async def test(self, values: Mapping[str, object]) -> ServerLook:
        """Look at a server without keeping it.

        Raises:
            InvalidRequest: a value that cannot be used.
        """
        return await self._servers.test(server_from({**values, "name": values.get("name") or "this server"}))

    async def add(self, values: Mapping[str, object]) -> None:
        """Keep a server; it need not answer now.

        Raises:
            InvalidRequest: a value that cannot be used.
            Conflict: there is one of that name.
        """
        await self._servers.add(server_from(values))

    async def remove(self, name: str) -> None:
        """Forget a server with its key and unload its models.

        Raises:
            NotFound: there is none of that name.
        """
        start = self._servers.names_of(name)
        loaded = [model for model in self._models.loaded_names() if model.startswith(start)]
        await asyncio.gather(*map(self._unload, loaded))
        await self._servers.remove(name)

    async def _unload(self, model: str) -> None:
        try:
            await self._models.unload(model)
        except NotFound:  # by somebody else just now
            return

    async def close(self) -> None:
        """End all connections."""
        await self._servers.close()
