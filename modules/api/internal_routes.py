"""The rows of all routes below /v1/internal."""

from __future__ import annotations

from fastapi import APIRouter

from modules.api.internal import internal_router
from modules.api.internal_generations import internal_generations_router, lora_router
from modules.api.internal_jobs import internal_jobs_router
from modules.api.internal_models import internal_models_router
from modules.api.jobs import jobs_router
from modules.api.requests import requests_router
from modules.api.restart import restart_router
from modules.api.view_adapters import adapters_router
from modules.services.app import App

PREFIX = "/v1/internal"


def internal_routers(app: App) -> tuple[APIRouter, ...]:
    """All of them; what the page has too is the same router below another prefix."""
    return (
        internal_router(app),
        internal_generations_router(app),
        internal_models_router(app),
        lora_router(app),
        adapters_router(app, PREFIX),
        internal_jobs_router(app),
        jobs_router(app, PREFIX),
        requests_router(app),
        restart_router(app, PREFIX),
    )
