"""The application as a whole: what stands around its routes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry import _logs, metrics, trace

from modules.api.app import build_api
from modules.core.settings import Settings
from modules.services.app import build_app
from modules.ui.app import ViewRendering
from modules.ui.mount import mount_page

PLACES = ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")
PROVIDERS = ((trace, "get_tracer_provider"), (metrics, "get_meter_provider"), (_logs, "get_logger_provider"))


def test_opentelemetry_is_told_nothing_of_api_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set its providers, as a program does that starts others with instruments."""
    app = build_app(Settings(**{name: tmp_path / name for name in PLACES}, model="none"))  # type: ignore[arg-type]
    api = build_api(app, ViewRendering(), lambda bare: mount_page(bare, app))
    asked = []
    for module, name in PROVIDERS:
        monkeypatch.setattr(module, name, lambda name=name: asked.append(name))
    with TestClient(api, base_url="http://127.0.0.1") as client:
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/completions", json={"prompt": 1}).status_code == 400
        assert client.get("/config").status_code == 200  # a route of the page
    assert not asked
