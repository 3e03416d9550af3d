"""The key: API clients send it as a bearer token, people type it once into a page of its own.

One check covers `/v1`, the page's routes and the page. A good key always works; bad ones are slowed down. Keys never appear in a URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from html import escape
from http.cookies import CookieError, SimpleCookie
from weakref import WeakValueDictionary

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from modules.api.errors import error_body
from modules.api.guard import Asgi, Receive, Scope, Send, route_path

COOKIE = "paddock_session"
SESSION_S = 30 * 24 * 3600
FAILURES_PER_MINUTE = 10
WINDOW_S = 60.0
KEPT_ADDRESSES = 10_000
OTHER_SCHEMES = frozenset({"basic", "digest", "negotiate"})
API_PATHS = ("/v1", "/api/", "/metrics")  # need the key wherever there is one
STRANGER = "paddock.stranger"  # where a request to what is open to all says that nobody knows who sends it
OPEN_PATHS = frozenset({"/login", "/health"})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class Failures:
    """Counts failures within a minute, by address or by name."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, who: str) -> bool:
        """Count a failure; True when there were too many in the last minute."""
        count, since_s = self._counts.pop(who, (0, 0.0))
        now_s = time.monotonic()
        if now_s - since_s > WINDOW_S:
            count, since_s = 0, now_s
        self._counts[who] = (count + 1, since_s)
        while len(self._counts) > KEPT_ADDRESSES:
            self._counts.popitem(last=False)
        return count + 1 > FAILURES_PER_MINUTE

    def number(self, who: str) -> int:
        """How many there were in the last minute."""
        count, since_s = self._counts.get(who, (0, 0.0))
        return count if time.monotonic() - since_s <= WINDOW_S else 0


class Turns:
    """One guess of somebody at a time: those sent all at once would all be looked at before the first one is known to be wrong."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # each as long as somebody waits for it

    def of(self, who: str) -> asyncio.Lock:
        """What is held while a guess of theirs is looked at."""
        return self._locks.setdefault(who, asyncio.Lock())


class KeyCheck:
    """Compares keys in constant time and counts failures by address."""

    def __init__(self, key: str, secret: str = "") -> None:
        """`secret` signs the sessions; where none is given nobody else knows it."""
        self._digest = _digest(key)
        self._session = hmac.new((secret or secrets.token_hex(32)).encode(), key.encode(), hashlib.sha256).hexdigest()
        self._failures = Failures()

    def good(self, key: str) -> bool:
        """Whether this is the key."""
        return hmac.compare_digest(_digest(key), self._digest)

    def session(self) -> str:
        """The value of the session cookie; a new start ends all sessions, one that was asked for on the page does not."""
        return self._session

    def good_session(self, value: str) -> bool:
        """Whether this cookie value is of this server's run."""
        return hmac.compare_digest(value.encode(), self._session.encode())

    def failed(self, address: str) -> bool:
        """Count a failure; True when there were too many in the last minute."""
        return self._failures.add(address)


class KeyGate:
    """ASGI middleware: lets through who has the key. With `page` the page needs it too, not only `/v1`."""

    def __init__(self, app: Asgi, *, check: KeyCheck, page: bool) -> None:
        self._app, self._check, self._page = app, check, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or ask for the key."""
        path = "" if scope["type"] == "lifespan" else route_path(scope)
        is_api = path.startswith(API_PATHS)
        if scope["type"] == "lifespan" or not (is_api or self._page or path in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        given = keys_in(headers)
        is_known = any(self._check.good(key) for key in given) or self._check.good_session(session_in(headers))
        if is_known or path in OPEN_PATHS:
            scope[STRANGER] = not is_known
            await self._app(scope, receive, send)
            return
        await self._refusal(scope, given, is_api)(scope, receive, send)

    def _refusal(self, scope: Scope, given: Sequence[str], is_api: bool) -> Response:
        if given and self._check.failed(address_of(scope)):
            return too_many_keys()
        if not is_api and scope["type"] == "http" and scope["method"] == "GET" and route_path(scope) == "/":
            return RedirectResponse(f"{scope.get('root_path', '')}/login", status_code=303)
        message = "This server needs its key: send it as “Authorization: Bearer …”."
        body = error_body(message, "invalid_request_error", code="invalid_api_key")
        return JSONResponse(body, status_code=401, headers={"www-authenticate": "Bearer"})


def address_of(scope: Scope) -> str:
    """Where a request comes from."""
    return str((scope.get("client") or ("?",))[0])


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request by their names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def too_many_keys() -> Response:
    """The answer to who guesses keys."""
    message = "Too many wrong keys from this address; wait a minute."
    return JSONResponse(error_body(message, "rate_limit_error"), status_code=429, headers={"retry-after": "60"})


def keys_in(headers: Mapping[str, str]) -> Sequence[str]:
    """What may be the key. A proxy's own login comes as another kind of authorization: it is neither a key nor a guess at one."""
    authorization = headers.get("authorization", "").strip()
    scheme, _, rest = authorization.partition(" ")
    bearer = rest.strip() if scheme.lower() == "bearer" else "" if scheme.lower() in OTHER_SCHEMES else authorization
    return [key for key in (bearer, headers.get("x-api-key", "").strip()) if key]


def session_in(headers: Mapping[str, str]) -> str:
    """The value of the session cookie, or nothing."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


LOGIN_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Paddock</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;display:grid;grid-template-columns:minmax(0,22rem);place-content:center;min-height:90vh;margin:1rem}}
form{{display:grid;gap:.75rem}}input,button{{font:inherit;padding:.6rem .8rem;border-radius:.6rem;border:1px solid #8886}}
button{{background:#2f6b4f;color:#fff;border:0;cursor:pointer}}p{{margin:0}}.error{{color:#c0392b}}</style></head>
<body><form method="post" action="login"><h1>Paddock</h1><p>This server is protected. Type the key it was started with.</p>
<label for="key">Key</label><input id="key" name="key" type="password" autocomplete="current-password" autofocus required>
<p class="error" role="alert">{message}</p><button>Open</button></form></body></html>"""


def login_router(check: KeyCheck) -> APIRouter:
    """The page that takes the key and sets the session cookie."""
    router = APIRouter()

    @router.get("/login", response_class=HTMLResponse)
    async def ask() -> HTMLResponse:
        """The form."""
        return key_page()

    @router.post("/login", response_model=None)
    async def enter(request: Request, key: str = Form(max_length=1000)) -> Response:
        """Check the key; a good one opens the page."""
        return enter_with_key(check, request, key)

    return router


def key_page(message: str = "", status: int = 200) -> HTMLResponse:
    """The form that takes the key."""
    return HTMLResponse(LOGIN_PAGE.format(message=escape(message)), status_code=status)


def enter_with_key(check: KeyCheck, request: Request, key: str) -> Response:
    """Open the page to who has the key."""
    if not check.good(key):
        limited = check.failed(address_of(request.scope))
        return key_page("Too many wrong keys from this address; wait a minute." if limited else "That is not the key.", 429 if limited else 401)
    response = RedirectResponse(f"{request.scope.get('root_path', '')}/", status_code=303)
    set_session(response, request, check.session(), SESSION_S)
    return response


def set_session(response: Response, request: Request, value: str, kept_s: int) -> None:
    """Give the browser the cookie of a session, out of reach of scripts and of other sites; an empty value takes it away."""
    # What a proxy says of the way to it could be made up, but only to have one's own cookie kept more strictly
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
    place = str(request.scope.get("root_path") or "/")
    response.set_cookie(COOKIE, value, max_age=kept_s if value else 0, path=place, httponly=True, samesite="strict", secure=secure)
