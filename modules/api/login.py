"""The page where people log in with name and password, or with the server's key where there are no accounts; and the way out."""

from __future__ import annotations

import re
from html import escape
from ipaddress import IPv4Address, IPv6Address, ip_address

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from modules.api.audit_actions import TYPED_NAME
from modules.api.auth import (
    FAILURES_PER_MINUTE,
    Failures,
    KeyCheck,
    Turns,
    address_of,
    enter_with_key,
    headers_of,
    key_page,
    session_in,
    set_session,
)
from modules.api.guard import Scope
from modules.core.errors import Busy
from modules.services.accounts import AccountService, name_key

COOKIE_KEPT_S = 400 * 24 * 3600  # as long as browsers keep one; how long the session lasts is the server's to say
WAIT_S = 60
OWN_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\\]*")
WRONG = "Name and password do not fit. Look at both; upper and lower case count in the password."
SEVERAL_PARTS = "This form is sent as one text (application/x-www-form-urlencoded), not in several parts. Nobody was logged in."
TOO_MANY = "Too many log-ins failed; wait a minute, then try again."
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Log in · Paddock</title><style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;display:grid;grid-template-columns:minmax(0,22rem);place-content:center;min-height:90vh;margin:1rem}}
form{{display:grid;gap:.75rem}}h1,p{{margin:0}}label{{display:grid;gap:.25rem}}
input,button{{font:inherit;padding:.6rem .8rem;border-radius:.6rem;border:1px solid #8886}}input,button:focus-visible{{outline-offset:2px}}
button{{background:#2f6b4f;color:#fff;border:0;cursor:pointer}}.error{{color:light-dark(#b3261e,#ff8a80)}}</style></head>
<body><main><form method="post" action="login"><h1>Paddock</h1>
<label for="name">Name<input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="64" value="{name}" required{focus_name}></label>
<label for="password">Password<input id="password" name="password" type="password" autocomplete="current-password" maxlength="1000" required{focus_password}></label>
<input type="hidden" name="next" value="{next}"><p class="error" role="alert">{message}</p><button>Log in</button></form></main></body></html>"""


class LogIns:
    """Counts those that failed. An address with too many is not asked any more; where a name has too many, only addresses are that did not fail themselves."""

    def __init__(self) -> None:
        self._addresses, self._names = Failures(), Failures()
        self.turns = Turns()  # of addresses

    def held(self, address: str, name: str) -> bool:
        """Whether this one is refused unseen."""
        by_address = self._addresses.number(address)
        return by_address >= FAILURES_PER_MINUTE or (by_address > 0 and self._names.number(_key(name)) >= FAILURES_PER_MINUTE)

    def failed(self, address: str, name: str) -> None:
        """Take note of one that failed; those that succeed count for nothing."""
        self._addresses.add(address)
        self._names.add(_key(name))


def account_login_router(accounts: AccountService, check: KeyCheck | None) -> APIRouter:
    """The ways in and out. `check` knows the server's key, if there is one."""
    router, log_ins = APIRouter(), LogIns()

    @router.get("/login", response_model=None, include_in_schema=False)
    async def ask(request: Request, next: str = "/") -> Response:
        """The form; who is logged in is led on."""
        if not await accounts.on():
            return key_page() if check is not None else _led_to(request, "/")
        token = session_in(request.headers)
        if token and await accounts.identities.of_session(token):
            return _led_to(request, own_path(next))
        return login_page(next=own_path(next))

    @router.post("/login", response_model=None, include_in_schema=False)
    async def enter(
        request: Request,
        key: str = Form("", max_length=1000),
        name: str = Form("", max_length=200),
        password: str = Form("", max_length=1000),
        next: str = Form("/", max_length=2000),
    ) -> Response:
        """Check what was typed; what fits opens the page."""
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            return login_page(SEVERAL_PARTS, 415, name=name, next=own_path(next))
        if await accounts.on():
            request.scope[TYPED_NAME] = name
            return await _log_in(accounts, log_ins, request, (name, password, own_path(next)))
        return enter_with_key(check, request, key) if check is not None else _led_to(request, "/")

    @router.post("/logout", response_model=None, include_in_schema=False)
    async def leave(request: Request) -> Response:
        """End the session of this browser; what it kept of what was typed is taken from it, as somebody else may log in there."""
        token = session_in(request.headers)
        if token and await accounts.on():
            await accounts.identities.end_session(token)
        response = _led_to(request, "/login")
        response.headers["clear-site-data"] = '"storage"'
        set_session(response, request, "", 0)
        return response

    return router


async def _log_in(accounts: AccountService, log_ins: LogIns, request: Request, typed: tuple[str, str, str]) -> Response:
    address = counted_address(request.scope)
    async with log_ins.turns.of(address):
        return await _looked_at(accounts, log_ins, request, typed, address)


async def _looked_at(accounts: AccountService, log_ins: LogIns, request: Request, typed: tuple[str, str, str], address: str) -> Response:
    name, password, then = typed
    if log_ins.held(address, name):
        return login_page(TOO_MANY, 429, name=name, next=then)
    try:
        found = await accounts.log_in(name, password, request.headers.get("user-agent", ""))
    except Busy as error:
        return login_page(error.message, 429, name=name, next=then)
    if found is None:
        log_ins.failed(address, name)
        return login_page(WRONG, 401, name=name, next=then)
    response = _led_to(request, then)
    set_session(response, request, found[1], COOKIE_KEPT_S)
    return response


def login_page(message: str = "", status: int = 200, *, name: str = "", next: str = "/") -> HTMLResponse:
    """The form for name and password, with what was typed but for the password."""
    focus = ("", " autofocus") if name else (" autofocus", "")
    page = PAGE.format(message=escape(message), name=escape(name[:64]), next=escape(next), focus_name=focus[0], focus_password=focus[1])
    headers = {"cache-control": "no-store"} | ({"retry-after": str(WAIT_S)} if status == 429 else {})
    return HTMLResponse(page, status_code=status, headers=headers)


def own_path(path: str) -> str:
    """The path, if it is one of this server's; else the page."""
    return path if OWN_PATH.fullmatch(path) and not path.startswith(("/login", "/logout")) else "/"


def _led_to(request: Request, path: str) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{path}", status_code=303)


def _key(name: str) -> str:
    return name_key(name)[:64]


def counted_address(scope: Scope) -> str:
    """Where a log-in comes from, as failures are counted: behind a proxy on this machine what that says of it, and of IPv6 the network of one line.

    Who is on this machine could make that up, and is held up by the time a hash takes; else ten wrong ones through a proxy would hold up everybody.
    """
    address = _parsed(address_of(scope))
    if address is not None and address.is_loopback:
        address = _parsed(headers_of(scope).get("x-forwarded-for", "").rpartition(",")[2].strip()) or address  # the last one is the proxy's own word
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address or address_of(scope))


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
