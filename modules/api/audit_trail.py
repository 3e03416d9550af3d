"""Notes in the audit log what requests change, who was refused, and each day's first use of a key. One ASGI middleware, so that no route has to think of it."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from modules.api.audit_actions import TYPED_NAME, Named, is_noted, named
from modules.api.guard import Asgi, Event, Receive, Scope, Send, route_path
from modules.api.needs import method_of
from modules.core.person import PERSON, Person
from modules.services.audit import AuditLog, Outcome, coming_from

BODY_BYTES = 64 << 10  # of a body that is looked into
REFUSALS_PER_MINUTE = 20  # of one address: who guesses cannot fill the log
KEPT_ADDRESSES = 1_000
REFUSED = frozenset({401, 403, 429})
LOGIN = "login"
PLAIN = frozenset({"name", "repo", "path", "tag", "id", "reference", "model", "models", "model_name"})  # fields that are told without what they are

IsName = Callable[[str], Awaitable[bool]]


class AuditTrail:
    """ASGI middleware around everything that says who asks."""

    def __init__(self, app: Asgi, *, audit: AuditLog, is_name: IsName) -> None:
        """`is_name` tells whether there is an account of that name: what else was typed there may be a password."""
        self._app, self._audit, self._is_name = app, audit, is_name
        self._refusals: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._used: dict[str, str] = {}  # the day a key was last used, by its id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what came of it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        with coming_from(str(client[0]) if client else ""):
            await self._noted(scope, receive, send)

    async def _noted(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = method_of(scope), route_path(scope)
        action, of_path = named(method, path) if is_noted(method, path) else (None, "")
        body = _Body(receive) if action is not None and action.fields else None
        status = 0

        async def seen(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = int(event["status"])
            await send(event)

        try:
            await self._app(scope, body or receive, seen)
        finally:
            person = scope.get(PERSON)
            self._note_key(person)
            if action is not None:
                told = body.told(action.fields) if body is not None else ""
                await self._note(action, (of_path, str(scope.get(TYPED_NAME, told))), status, person)
            elif status == 401 and _has_key(scope) and self._may_note_refusal():
                self._audit.note("key.refused", path, "refused", "401")

    async def _note(self, action: Named, about: tuple[str, str], status: int, person: Person | None) -> None:
        outcome: Outcome = "refused" if status in REFUSED else "done" if 0 < status < 400 else "failed"
        if (outcome == "refused" and not self._may_note_refusal()) or (outcome != "refused" and action.only_refused):
            return
        of_path, told = about
        if action.action == LOGIN and told and not await self._is_name(told):
            told = "(no account of the name typed)"
        self._audit.note(action.action, " ".join(filter(None, (of_path, told))), outcome, str(status or "no answer") if outcome != "done" else "", person=person)

    def _note_key(self, person: Person | None) -> None:
        if person is None or not person.key_id:
            return
        today = time.strftime("%Y-%m-%d", time.gmtime())
        if self._used.get(person.key_id) != today:
            self._used[person.key_id] = today
            self._audit.note("key.first-use-of-day", person.key_id, person=person)

    def _may_note_refusal(self) -> bool:
        """Whether one more refusal of this address is noted; the last one says that no more are."""
        address = self._audit.address
        count, since_s = self._refusals.pop(address, (0, 0.0))
        now_s = time.monotonic()
        if now_s - since_s > 60:
            count, since_s = 0, now_s
        self._refusals[address] = (count + 1, since_s)
        while len(self._refusals) > KEPT_ADDRESSES:
            self._refusals.popitem(last=False)
        if count == REFUSALS_PER_MINUTE:
            self._audit.note("refusals", "", "refused", f"more than {REFUSALS_PER_MINUTE} in a minute from this address; the rest of that minute is not noted")
        return count < REFUSALS_PER_MINUTE


class _Body:
    """What is received, with its beginning kept for a look."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept = b""

    async def __call__(self) -> Event:
        event = await self._receive()
        if event["type"] == "http.request" and len(self._kept) <= BODY_BYTES:
            self._kept += event.get("body", b"")
        return event

    def told(self, fields: tuple[str, ...]) -> str:
        """The values of these fields, as far as the body has them, in words."""
        values = self._values() if len(self._kept) <= BODY_BYTES else {}
        shown = [(name, values[name]) for name in fields if values.get(name) not in (None, "")]
        return " ".join(_words(value) if name in PLAIN else f"{name}={_words(value)}" for name, value in shown)

    def _values(self) -> dict[str, Any]:
        try:
            found = json.loads(self._kept)
        except RecursionError:
            return {}
        except ValueError:
            return {name: values[0] for name, values in parse_qs(self._kept.decode("utf-8", "replace")).items()}
        return found if isinstance(found, dict) else {}


def _words(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _has_key(scope: Scope) -> bool:
    return any(name in (b"authorization", b"x-api-key") for name, _ in scope["headers"])
