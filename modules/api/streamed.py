"""An answer that is sent piece by piece, until the client leaves. Source: the ASGI specification, HTTP messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fastapi.responses import StreamingResponse

from modules.api.guard import Event, Receive, Scope, Send


class Streamed(StreamingResponse):
    """Ends, and closes what makes its pieces, as soon as the client is gone.

    Starlette's own does so with a group of two tasks, for which the first piece has to wait (docs/lab-notes.md).
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. What goes wrong while the pieces are made is raised as it is."""
        task, is_gone = asyncio.current_task(), False

        async def watch() -> None:
            nonlocal is_gone
            await self.listen_for_disconnect(receive)
            if task is not None:
                is_gone = True
                task.cancel()

        async def sent(event: Event) -> None:
            if is_gone:  # and the cancellation was lost: `wait_for` of this Python keeps it to itself where it ends in the same moment
                raise asyncio.CancelledError
            await send(event)

        watching = asyncio.ensure_future(watch())
        try:
            await self.stream_response(sent)
        except asyncio.CancelledError:
            if task is None or not is_gone or task.uncancel():  # somebody else ends it too
                raise
        finally:
            watching.cancel()
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()
        if self.background is not None:
            await self.background()
