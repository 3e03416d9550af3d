"""GET /metrics for Prometheus, and the count of answers by route.

Source: Prometheus, "Exposition formats", text format 0.0.4.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import get_args

from fastapi import APIRouter
from fastapi.responses import Response

from modules.api.errors import documented_errors
from modules.api.guard import Asgi, Event, Receive, Scope, Send
from modules.api.owner import OWNER
from modules.core.generation import EngineCounters, figures
from modules.core.job import JobKind, JobSnapshot, JobStatus
from modules.services.app import App
from modules.services.meters import TIMES, Buckets, Meters
from modules.services.models import ModelStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "paddock_"
OWN_PATHS = ("/v1", "/api", "/ui", "/health", "/metrics", "/login")
LIBRARIES = ("gradio", "llama_cpp_python", "transformers", "torch")

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]


def _quoted(value: str) -> str:
    """A label's value: a file's name may hold anything, also half a character pair."""
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def _sample(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f"{label}={_quoted(text)}" for label, text in labels.items())
    return f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}"


class Exposition:
    """Families of metrics, line by line."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, meaning: str, samples: Samples) -> None:
        """A family with its samples; one without any is left out."""
        lines = [_sample(name, labels, value) for labels, value in samples]
        if lines:
            self._lines += [*self._head(name, kind, meaning), *lines]

    def histogram(self, name: str, meaning: str, samples: Iterable[tuple[Labels, Buckets]]) -> None:
        """A family of values in buckets."""
        lines = []
        for labels, buckets in samples:
            bounds = [(f"{bound:g}", count) for bound, count in buckets.cumulative()]
            lines += [_sample(f"{name}_bucket", {**labels, "le": bound}, count) for bound, count in [*bounds, ("+Inf", buckets.count)]]
            lines += [_sample(f"{name}_sum", labels, buckets.sum), _sample(f"{name}_count", labels, buckets.count)]
        if lines:
            self._lines += [*self._head(name, "histogram", meaning), *lines]

    def _head(self, name: str, kind: str, meaning: str) -> tuple[str, str]:
        return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"

    def body(self) -> bytes:
        """The whole text."""
        return ("\n".join(self._lines) + "\n").encode("utf-8", "replace")


def _engine_families(out: Exposition, now: Mapping[str, EngineCounters], totals: Mapping[str, Mapping[str, int]]) -> None:
    """A field of `EngineCounters` is a family: what engines do now, and what was counted since the server started."""
    for figure in figures():
        name = f"{PREFIX}engine_{figure.name}"
        if figure.kind == "counter":
            out.family(f"{name}_total", "counter", figure.meaning, [({"model": model}, counted.get(figure.name, 0)) for model, counted in totals.items()])
        else:
            out.family(name, "gauge", figure.meaning, [({"model": model}, getattr(counters, figure.name)) for model, counters in now.items()])


def _request_families(out: Exposition, meters: Meters) -> None:
    ended = [({"model": model, "outcome": outcome}, count) for (model, outcome), count in meters.outcomes.items()]
    out.family(f"{PREFIX}requests_total", "counter", "Requests to models that have ended, by how they ended.", ended)
    refused = [({"kind": kind}, count) for kind, count in meters.refused.items()]
    out.family(f"{PREFIX}requests_refused_total", "counter", "Requests that no engine took, by kind of error.", refused)
    for place, kind in enumerate(TIMES):
        samples = [({"model": model}, buckets[place]) for model, buckets in meters.times().items()]
        out.histogram(f"{PREFIX}{kind.name}_seconds", kind.meaning, samples)
    answers = [({"route": route, "status": str(status)}, count) for (route, status), count in sorted(meters.answers.items())]
    out.family(f"{PREFIX}http_requests_total", "counter", "HTTP requests by route and status of the answer.", answers)


def _job_family(out: Exposition, kinds: Iterable[JobKind], jobs: Iterable[JobSnapshot]) -> None:
    states = Counter((job.kind, job.status) for job in jobs)
    samples = [({"kind": kind.name, "status": status}, states[kind.name, status]) for kind in kinds for status in get_args(JobStatus)]
    out.family(f"{PREFIX}jobs", "gauge", "Jobs in the list, by kind and status.", samples)


def _model_families(out: Exposition, status: ModelStatus, graphics: Mapping[str, int]) -> None:
    states = {"loaded": len(status.loaded), "asleep": len(status.asleep), "loading": int(status.loading is not None)}
    out.family(f"{PREFIX}models", "gauge", "Models by their state; those that only lie on the disk are not counted.", [({"state": state}, count) for state, count in states.items()])
    taken: Samples = [({"model": card.name}, card.memory_bytes) for card in status.loaded if not card.host]
    out.family(f"{PREFIX}engine_load_memory_bytes", "gauge", "Main memory that a model took when it was loaded.", taken)
    out.family(f"{PREFIX}engine_graphics_memory_bytes", "gauge", "Memory of graphics cards that an engine's process holds.", [({"model": model}, size) for model, size in graphics.items()])


def _server_families(out: Exposition, meters: Meters, resident: Mapping[str, int]) -> None:
    engines = [({"model": model}, size) for model, size in resident.items() if model]
    out.family(f"{PREFIX}engine_resident_memory_bytes", "gauge", "Memory of an engine's process, with what it has mapped of its model's file.", engines)
    own: Samples = [({}, size) for model, size in resident.items() if not model]
    out.family("process_resident_memory_bytes", "gauge", "Memory of the server's own process.", own)
    out.family(f"{PREFIX}uptime_seconds", "gauge", "Time since the server started.", [({}, meters.uptime_s)])


def _versions() -> Labels:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def metrics_router(app: App) -> APIRouter:
    """The metrics over an `App`."""
    router = APIRouter(responses=documented_errors())
    versions = cache(_versions)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Everything that is counted, as Prometheus reads it."""
        meters = app.meters
        now = await meters.look()
        out = Exposition()
        _engine_families(out, now, meters.totals())
        _request_families(out, meters)
        _model_families(out, app.models.status(), await meters.graphics_bytes())
        _server_families(out, meters, await meters.resident_bytes())
        _job_family(out, app.jobs.kinds(), await app.jobs.list(OWNER))
        out.family(f"{PREFIX}info", "gauge", "Versions; always 1.", [(versions(), 1)])
        return Response(out.body(), media_type=CONTENT_TYPE)

    return router


class AnswerCount:
    """ASGI middleware in front of all others: counts answers by route and status. The page and all that belongs to it are one route."""

    def __init__(self, app: Asgi, *, answers: Counter[tuple[str, int]]) -> None:
        self._app, self._answers = app, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and take note of the status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def counted(event: Event) -> None:
            nonlocal begun
            if event["type"] == "http.response.start":
                begun = True
                self._answers[_route(scope), event["status"]] += 1
            await send(event)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            if not begun:  # the answer to a defect is made outside of all middleware
                self._answers[_route(scope), 500] += 1
            raise


def _route(scope: Scope) -> str:
    """The pattern of a route of our own, so that there are as many as routes and not as addresses."""
    if "route" not in scope:
        return "none"
    path = str(getattr(scope["route"], "path", ""))
    return path if path.startswith(OWN_PATHS) else "page"
