"""The application as a whole: what stands around its routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace

from modules.api.app import build_api
from modules.core.settings import Settings
from modules.services.app import build_app

PLACES = ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """An application on a machine whose environment names a place for telemetry."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    return build_api(build_app(Settings(**{name: tmp_path / name for name in PLACES}, model="none")))  # type: ignore[arg-type]


def test_opentelemetry_is_told_nothing_wherever_the_environment_sends_it(api: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Provider(trace.TracerProvider):
        def get_tracer(self, *names: Any, **more: Any) -> trace.Tracer:
            asked.append(names)
            return trace.NoOpTracer()

    monkeypatch.setattr(trace, "get_tracer_provider", Provider)
    with TestClient(api, base_url="http://127.0.0.1") as client:
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/completions", json={"prompt": 1}).status_code == 400
    assert not asked
