"""Whether an adapter to continue from belongs to the base model of a run. What is compared is in `loaders/fingerprint.py`."""

from __future__ import annotations

from pathlib import Path

from modules.core.errors import InvalidRequest
from modules.loaders.fingerprint import BaseFingerprint as BaseFingerprint
from modules.loaders.fingerprint import fingerprint as fingerprint
from modules.loaders.fingerprint import read_fingerprint as read_fingerprint


def check_same_base(adapter: Path, base: Path, cache: Path | None = None, *, most_bytes: int | None = None) -> None:
    """Refuse to go on with an adapter that was trained on another base model; one that does not say is let through.

    Of a base model with weights of more than `most_bytes` only the headers are compared.

    Raises:
        InvalidRequest: another base model.
    """
    recorded = read_fingerprint(adapter)
    difference = recorded.difference(fingerprint(base, cache, most_bytes=most_bytes)) if recorded else ""
    if difference:
        raise InvalidRequest(
            f"The adapter {adapter.name} was trained on another base model: {base.name} differs in {difference}. Choose the model it was trained on.",
            field="continue_from",
        )
