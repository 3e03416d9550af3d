"""What FastAPI would tell OpenTelemetry of requests and failures, wherever the environment or another program sends it: nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NO_TELEMETRY: Mapping[str, bool] = MappingProxyType({"tracing": False, "metrics": False, "logs": False, "auto_configure": False})
