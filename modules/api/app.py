"""Builds the HTTP application: routers, errors, key and guard. The page is mounted by server.py between routes and guard."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_network
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from starlette.routing import Match
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from modules.api.access import AccountGate
from modules.api.anthropic import anthropic_router
from modules.api.anthropic_errors import AnthropicErrors, anthropic_shape
from modules.api.arrivals import PageArrivals
from modules.api.audit_trail import AuditTrail
from modules.api.auth import KeyCheck, KeyGate, login_router
from modules.api.completions import completions_router
from modules.api.description_page import description_router
from modules.api.elsewhere import elsewhere_router
from modules.api.embeddings import embeddings_router
from modules.api.errors import install_error_handlers
from modules.api.guard import Guard
from modules.api.internal_routes import internal_routers
from modules.api.login import account_login_router
from modules.api.metrics import AnswerCount, metrics_router
from modules.api.models import models_router
from modules.api.ollama import greeting_router, ollama_router
from modules.api.ollama_errors import OllamaErrors, ollama_shape
from modules.api.page_answer import PageAnswer
from modules.api.people import People
from modules.api.responses import responses_router
from modules.api.scores import scores_router
from modules.api.view_messages import ViewFunctions
from modules.api.view_notebook import notebook_key
from modules.api.view_usage import usage_router
from modules.api.views import view_routers
from modules.core.errors import AppError
from modules.core.telemetry import NO_TELEMETRY
from modules.services.app import App


def build_api(app: App, views: ViewFunctions | None = None, mount: Callable[[FastAPI], FastAPI] | None = None) -> FastAPI:
    """The whole HTTP application: routes, then the page that `mount` adds below them, then key and guard in front of all.

    The framework's own documentation is off: its pages load scripts from elsewhere. Ours is at /v1/docs.
    """
    quiet: Any = NO_TELEMETRY
    api = FastAPI(title="Paddock", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", lifespan=_lifespan_of(app), telemetry=quiet)
    install_error_handlers(api, lambda scope: anthropic_shape(scope) or ollama_shape(scope))
    _add(api, completions_router(app))
    _add(api, anthropic_router(app))
    _add(api, responses_router(app))
    _add(api, models_router(app))
    _add(api, embeddings_router(app))
    _add(api, scores_router(app))
    for router in internal_routers(app):
        _add(api, router)
    _add(api, metrics_router(app))
    _add(api, elsewhere_router())
    _add(api, ollama_router(app))
    _add(api, description_router(app, api.openapi))
    _add(api, usage_router(app, "/v1/internal"))
    if views is not None:
        for router in view_routers(app, views):
            _add(api, router)
    settings = app.settings
    check = KeyCheck(settings.api_key.get_secret_value(), app.run.secret) if settings.api_key is not None else None
    if not settings.multi_user:
        _add(api, account_login_router(app.accounts, check))
    elif check is not None:
        _add(api, login_router(check))
    if mount is None:
        _add(api, greeting_router())
    else:
        _end_here(api)
        api = mount(api)
        _serve_page(api, app, views)
    _lock(api, app, check)
    api.add_middleware(AuditTrail, audit=app.audit, is_name=_is_name(app))
    api.add_middleware(
        Guard,
        allowed_hosts=(settings.host, *settings.allowed_hosts),
        allowed_origins=settings.allowed_origins,
        any_host=settings.host in ("0.0.0.0", "::"),  # compared, not bound
    )
    api.add_middleware(AnthropicErrors)
    api.add_middleware(OllamaErrors)
    api.add_middleware(AnswerCount, answers=app.meters.answers)
    if settings.trusted_proxy:
        api.add_middleware(ProxyHeadersMiddleware, trusted_hosts=_in_both_spellings(settings.trusted_proxy))
    return api


def _add(api: FastAPI, router: APIRouter) -> None:
    """Its routes as they are: `include_router` would build each of them once more, when the first request comes that might be for one."""
    api.router.routes.extend(router.routes)


def _serve_page(api: FastAPI, app: App, views: ViewFunctions | None) -> None:
    """What stands around the page that was mounted."""

    def expect(conversation_id: str) -> None:
        for key in (conversation_id, notebook_key()):
            app.followers.expect(key)

    api.add_middleware(PageArrivals, expect=expect)
    if views is not None:
        api.add_middleware(PageAnswer, finish=views.whole_page)


def _in_both_spellings(networks: Sequence[str]) -> list[str]:
    """Networks, those of IPv4 also as a socket that listens for both kinds of addresses shows them."""
    old = [network for network in map(ip_network, networks) if network.version == 4]
    return [*networks, *(f"::ffff:{network.network_address}/{96 + network.prefixlen}" for network in old)]


def _lock(api: FastAPI, app: App, check: KeyCheck | None) -> None:
    """Who is let in: by accounts and the key, or on a server that several people share without accounts, each browser as somebody of its own."""
    settings = app.settings
    if not settings.multi_user:
        nobodys = check or KeyCheck(secrets.token_hex(32))
        api.add_middleware(AccountGate, accounts=app.accounts, check=nobodys, is_set=check is not None, is_local=settings.is_local)
        return
    api.add_middleware(People, settings=settings, secret=app.run.secret, check=check)
    if check is not None:
        api.add_middleware(KeyGate, check=check, page=False)


def _is_name(app: App) -> Callable[[str], Awaitable[bool]]:
    async def is_name(name: str) -> bool:
        try:
            return await app.accounts.on() and await app.accounts.named(name) is not None
        except AppError:  # nobody can be looked up now: what was typed is not told
            return False

    return is_name


def _end_here(api: FastAPI) -> None:
    """Below our own prefixes the page answers nothing: its 404 is not in the shape of our errors, and hides a wrong method."""

    async def nothing(request: Request) -> None:
        known = any(route.matches(request.scope)[0] is Match.PARTIAL for route in api.routes)
        raise HTTPException(405 if known else 404)

    for prefix in ("/v1", "/ui"):
        api.add_api_route(prefix + "/{rest:path}", nothing, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False, response_model=None)


def _lifespan_of(app: App) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await app.start()
        try:
            yield
        finally:
            await app.close()

    return lifespan
