"""Several people on one server: each browser is somebody of its own, and only who has shown the key changes what belongs to all.

What everybody may do is listed; everything else that is no plain reading is refused, so a route that nobody thought of is closed. Who somebody is stands
in a cookie that scripts and other sites cannot use, signed with the secret of this run: what it stands for ends with the server too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse

from modules.api.auth import KeyCheck, keys_in, session_in
from modules.api.errors import error_body
from modules.api.guard import SAFE_METHODS, Asgi, Event, Receive, Scope, Send, route_path
from modules.core.person import PERSON, Person, asked_by, asking, why_not
from modules.core.settings import Settings
from modules.services.app import App

COOKIE = "paddock_person"
KEPT_S = 30 * 24 * 3600
ID_BYTES = 16
# What is no reading and everybody may do: their own conversations and notebooks, questions to the model, the form of the settings
EVERYBODY = re.compile(
    r"/login|/v1/(chat/completions|completions|responses|messages(/count_tokens)?|embeddings|internal/(encode|decode|token-count|logits|chat-prompt|stop-generation))"
    r"|/api/(chat|generate|embed|embeddings|show)"
    r"|/ui/conversations(/.*)?|/ui/bin(/.*)?|/ui/notebooks?(/.*)?|/ui/tokens|/ui/templates/(look|read)"
    r"|/gradio_api/run/predict/?"
)
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
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        path, given = route_path(scope), keys_in(headers)
        manages = self._check is not None and (any(map(self._check.good, given)) or self._check.good_session(session_in(headers)))
        if given and not manages and self._check is not None and self._check.failed((scope.get("client") or ("?",))[0]):
            body = error_body("Too many wrong keys from this address; wait a minute.", "rate_limit_error")
            await JSONResponse(body, status_code=429, headers={"retry-after": "60"})(scope, receive, send)
            return
        if not manages and not _reads(scope) and not EVERYBODY.fullmatch(path):
            await JSONResponse(error_body(why_not(self._settings), "permission_error"), status_code=403)(scope, receive, send)
            return
        known = self._known(headers.get("cookie", ""))
        if known is None and path == "/" and headers.get("sec-fetch-site") == "cross-site":
            await HTMLResponse(AGAIN)(scope, receive, send)  # a link from elsewhere: asked again from here the browser sends the cookie, if there is one
            return
        person = Person(known or secrets.token_hex(ID_BYTES), manages)
        fresh = known is None and (path == "/" or path.startswith(("/ui/", "/gradio_api/")))
        scope[PERSON] = person
        with asked_by(person):
            await self._app(scope, receive, self._with_cookie(scope, send, person.id) if fresh else send)

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


def _reads(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in SAFE_METHODS


def people_router(app: App) -> APIRouter:
    """The route by which the page knows what it may offer; `login` is where the key can be typed."""
    router = APIRouter(prefix="/ui/person")

    @router.get("")
    async def person() -> dict[str, Any]:
        """Whether several people share the server, and why this one may not change what belongs to all; empty where they may."""
        who = asking()
        refused = app.settings.multi_user and not (who and who.manages)
        return {
            "several": app.settings.multi_user,
            "refused": why_not(app.settings) if refused else "",
            "login": "login" if refused and app.settings.api_key is not None else "",
        }

    return router
