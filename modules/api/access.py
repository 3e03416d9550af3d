"""Accounts in front of page and API: with at least one of them every request needs a session or a key, and what it may do is looked up in needs.py.

Without any, the server's key does what it did (auth.py); and where other machines can reach a server that has neither, nothing passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from urllib.parse import quote

from fastapi.responses import JSONResponse, RedirectResponse, Response

from modules.api.auth import (
    STRANGER,
    KeyCheck,
    KeyGate,
    address_of,
    headers_of,
    keys_in,
    session_in,
    too_many_keys,
)
from modules.api.errors import error_body, response_of
from modules.api.guard import Asgi, Event, Receive, Scope, Send, route_path
from modules.api.lasting import Lasting
from modules.api.needs import method_of, need_of
from modules.core.errors import AppError
from modules.core.person import FIRST_PERSON, PERSON, Person, asked_by, refusal_of
from modules.services.accounts import AccountService

PROGRAM_PATHS = ("/v1/", "/api/", "/ui/", "/gradio_api/", "/metrics")  # nobody is led from there to a page
NOT_LOGGED_IN = "not_logged_in"
SERVERS_KEY = Person(FIRST_PERSON, "admin", "the server's key")


class AccountGate:
    """ASGI middleware: says who asks, and lets through what they may do."""

    def __init__(self, app: Asgi, *, accounts: AccountService, check: KeyCheck, is_set: bool, is_local: bool) -> None:
        """`check` knows the server's key; `is_set`: there is one."""
        self._app, self._accounts, self._check, self._is_set = app, accounts, check, is_set
        self._without: Asgi = KeyGate(app, check=check, page=not is_local) if is_set or not is_local else app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as theirs, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            on = await self._accounts.on()
            found = await self._person(scope, headers_of(scope)) if on else None
        except AppError as error:  # the store says no
            await response_of(error)(scope, receive, send)
            return
        if not on:
            await self._without(scope, self._begun_without(receive), Lasting(send, self._still_without, scope).send)
            return
        if isinstance(found, Person):
            scope[PERSON] = found  # whoever is refused is known too
        refusal = found if isinstance(found, Response) else _refusal(scope, found)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if not isinstance(found, Person):  # of what is open to all
            scope[STRANGER] = True
            await self._app(scope, receive, send)
            return
        lasting = Lasting(_unkept(send) if route_path(scope) == "/" else send, lambda: self._still(scope), scope)
        with asked_by(found):
            await self._app(scope, receive, lasting.send)

    def _begun_without(self, receive: Receive) -> Receive:
        """A request whose body ends after the first account was made is no longer one that anybody may send: for the application its client left."""

        async def received() -> Event:
            event = await receive()
            if event["type"] != "http.request" or await self._still_without():  # only a body is looked at: who asks whether a client left waits for nothing
                return event
            return {"type": "http.disconnect"}

        return received

    async def _still_without(self) -> bool:
        with contextlib.suppress(AppError):  # as below
            return not await self._accounts.on()
        return True

    async def _still(self, scope: Scope) -> bool:
        """Whether who sent this may still have what they asked for."""
        with contextlib.suppress(AppError):  # the store is busy, which is nobody's fault
            person = await self._person(scope, headers_of(scope), fresh=True)
            return isinstance(person, Person) and _refusal(scope, person) is None
        return True

    async def _person(self, scope: Scope, headers: Mapping[str, str], *, fresh: bool = False) -> Person | Response | None:
        """Who sends this; the answer where somebody guesses keys."""
        given = keys_in(headers)
        for key in given:
            if self._is_set and self._check.good(key):
                return SERVERS_KEY
            person = await self._accounts.identities.of_key(key, fresh=fresh)
            if person is not None:
                return person
        token = session_in(headers)
        person = await self._accounts.identities.of_session(token, fresh=fresh) if token else None
        if person is None and given and self._check.failed(address_of(scope)):
            return too_many_keys()
        return person


def _unkept(send: Send) -> Send:
    """The page is not kept by the browser: who goes back after logging out is asked to log in."""

    async def sent(event: Event) -> None:
        if event["type"] == "http.response.start":
            kept = [(name, value) for name, value in event.get("headers", []) if name.lower() not in (b"cache-control", b"etag")]
            event = {**event, "headers": [*kept, (b"cache-control", b"no-store")]}
        await send(event)

    return sent


def _refusal(scope: Scope, person: Person | None) -> Response | None:
    path, method = route_path(scope), method_of(scope)
    need = need_of(method, path)
    if person is None:
        return None if need == "open" else _ask(scope, path, method)
    if person.may(need):
        return None
    return JSONResponse(error_body(refusal_of(person, need), "permission_error", code="forbidden"), status_code=403)


def _ask(scope: Scope, path: str, method: str) -> Response:
    """Where nobody is known: people are led to the log-in, and from there back; programs and parts of an open page are told."""
    is_page = path == "/" or "text/html" in headers_of(scope).get("accept", "")
    if method == "GET" and is_page and not path.startswith(PROGRAM_PATHS):
        query = scope.get("query_string", b"").decode("latin-1")
        wanted = "" if path == "/" and not query else f"?next={quote(path + (f'?{query}' if query else ''), safe='/')}"
        return RedirectResponse(f"{scope.get('root_path', '')}/login{wanted}", status_code=303)
    if path.startswith(("/ui/", "/gradio_api/")):
        message, code = "You are not logged in, or no longer: log in and try again.", NOT_LOGGED_IN
    else:
        message, code = "This server needs a key: make one under Account on its page, and send it as “Authorization: Bearer …”.", "invalid_api_key"
    return JSONResponse(error_body(message, "authentication_error", code=code), status_code=401, headers={"www-authenticate": "Bearer"})
