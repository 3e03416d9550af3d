"""Models as Anthropic's clients read them. Source: the public reference of Anthropic's Models API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.core.model import ModelInfo

UNKNOWN_TIME = "1970-01-01T00:00:00Z"  # the epoch, as theirs says where a date is not known


def anthropic_model(info: ModelInfo) -> dict[str, Any]:
    """One model."""
    return {
        "type": "model",
        "id": info.name,
        "display_name": info.name,
        "created_at": UNKNOWN_TIME,
        "lifecycle": "active",
        "max_input_tokens": info.context_length,
        "max_tokens": info.context_length,
    }


def anthropic_list(infos: Sequence[ModelInfo]) -> dict[str, Any]:
    """All models, on one page."""
    data = [anthropic_model(info) for info in infos]
    return {"data": data, "has_more": False, "first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
