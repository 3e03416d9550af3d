"""Several people on one server: each browser is somebody of its own, and only who has shown the key changes what belongs to all.

What everybody may do is what an account with the least role may (needs.py); a route that nobody thought of is closed. Who somebody is stands
in a cookie that scripts and other sites cannot use, signed with the secret of this run: what it stands for ends with the server too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse

from modules.api.auth import KeyCheck, address_of, headers_of, keys_in, session_in, too_many_keys
from modules.api.errors import error_body
from modules.api.guard import Asgi, Event, Receive, Scope, Send, route_path
from modules.api.needs import WRITING, method_of, need_of
from modules.core.person import ALLOWED, PERSON, Person, asked_by, asking, refusal_of, why_not
from modules.core.settings import Settings
from modules.services.app import App

COOKIE = "paddock_person"
KEPT_S = 30 * 24 * 3600
ID_BYTES = 16
ONE_FOR_ALL = ("/ui/chat-preferences", "/ui/profiles")  # without accounts they are everybody's
AGAIN = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>Paddock</title>'


class People:
    """ASGI middleware: says who asks, and refuses what is not for everybody."""

    def __init__(self, app: Asgi, *, settings: Settings, secret: str, check: KeyCheck | None) -> None:
        self._app, self._settings, self._check = app, settings, check
        self._secret = hashlib.sha256(f"people {secret}".encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as theirs, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        path, given = route_path(scope), keys_in(headers)
        manages = self._check is not None and (any(map(self._check.good, given)) or self._check.good_session(session_in(headers)))
        if given and not manages and self._check is not None and self._check.failed(address_of(scope)):
            await too_many_keys()(scope, receive, send)
            return
        if not manages and not is_everybodys(method_of(scope), path):
            await JSONResponse(error_body(why_not(self._settings), "permission_error"), status_code=403)(scope, receive, send)
            return
        known = self._known(headers.get("cookie", ""))
        if known is None and path == "/" and headers.get("sec-fetch-site") == "cross-site":
            await HTMLResponse(AGAIN)(scope, receive, send)  # a link from elsewhere: asked again from here the browser sends the cookie, if there is one
            return
        fresh = known is None and (path == "/" or path.startswith(("/ui/", "/gradio_api/")))
        person = Person(known or (secrets.token_hex(ID_BYTES) if fresh else self._of_address(address_of(scope))), "admin" if manages else "chat")
        scope[PERSON] = person
        with asked_by(person):
            await self._app(scope, receive, self._with_cookie(scope, send, person.id) if fresh else send)

    def _of_address(self, address: str) -> str:
        """Who a program is: it keeps no cookie, and all its requests are one person's, whose turns, usage and stops they are."""
        return self._signature(f"address {address}")[: 2 * ID_BYTES]

    def _signature(self, person_id: str) -> str:
        return hmac.new(self._secret, person_id.encode(), hashlib.sha256).hexdigest()

    def _known(self, header: str) -> str | None:
        """The person of a cookie that this server made."""
        try:
            morsel = SimpleCookie(header).get(COOKIE)
        except CookieError:
            return None
        person_id, _, signature = (morsel.value if morsel else "").partition(".")
        return person_id if person_id and hmac.compare_digest(signature.encode(), self._signature(person_id).encode()) else None

    def _with_cookie(self, scope: Scope, send: Send, person_id: str) -> Send:
        place = self._settings.root_path or "/"
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={person_id}.{self._signature(person_id)}; Path={place}; Max-Age={KEPT_S}; HttpOnly; SameSite=Strict{secure}"

        async def sent(event: Event) -> None:
            if event["type"] == "http.response.start":
                event = {**event, "headers": [*event.get("headers", []), (b"set-cookie", cookie.encode())]}
            await send(event)

        return sent


def is_everybodys(method: str, path: str) -> bool:
    """Whether a request needs no key: what accounts with the least role may do (needs.py), but for what is one for all here."""
    if path.startswith(ONE_FOR_ALL) and method in WRITING:
        return False
    return need_of(method, path) in ALLOWED["chat"]


def people_router(app: App) -> APIRouter:
    """The route by which the page knows what it may offer; `login` is where the key can be typed."""
    router = APIRouter(prefix="/ui/person")

    @router.get("")
    async def person() -> dict[str, Any]:
        """Who asks, and why they may not change what belongs to all (`refused`) or what is an administrator's (`not_admin`); empty where they may."""
        who, accounts = asking(), await app.accounts.on()
        if accounts and who is not None:
            told = {"name": who.name, "role": who.role, "not_admin": "" if who.administers else refusal_of(who, "admin")}
            return {"several": True, "accounts": True, **told, "refused": "" if who.manages else refusal_of(who, "manage"), "login": ""}
        refused = why_not(app.settings) if app.settings.multi_user and not (who and who.manages) else ""
        login = "login" if refused and app.settings.api_key is not None else ""
        return {"several": app.settings.multi_user, "accounts": False, "name": "", "role": "", "not_admin": refused, "refused": refused, "login": login}

    return router
