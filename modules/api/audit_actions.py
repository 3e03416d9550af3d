"""What is noted in the audit log of the requests that come in: a name for each route that changes what belongs to all, to an account, or to the server.

A route that nobody named here is noted under its method and path, so nothing that changes something is left out; what is left out on purpose is listed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from modules.api.needs import READING, need_of

TYPED_NAME = "paddock.typed_name"  # where a request says who wants to log in: it may be written in a way that only its reader knows
QUIET_NEEDS = frozenset({"open", "known", "page", "chat"})  # one's own conversations, notebooks and questions
LOUD_PATHS = re.compile(r"/login|/logout|/ui/account/.+")  # that need no more, and are noted all the same
# Searches, looks, previews and notes; Gradio's own routes (what its buttons do is noted by the services)
QUIET_PATHS = re.compile(
    r"/gradio_api/.*|/ui/hub/(search|open)|/ui/remote/test|/ui/fit/.*|/ui/(library|adapter-library)/(note|check-update|folder)|/ui/datasets/(preview|conversations/preview)"
    r"|/ui/training/(compare|runs/[^/]+/notes)|/ui/templates/try|/ui/adapters/try|/ui/perplexity/rows/[^/]+/comment"
)


class Named(NamedTuple):
    """What a request is called in the log, and which fields of its body say to what it was done."""

    action: str
    fields: tuple[str, ...] = ()
    only_refused: bool = False  # what was done is noted by the service that did it, whoever asked


class _Row(NamedTuple):
    method: str
    path: re.Pattern[str]
    named: Named


def _row(route: str, action: str, *fields: str, only_refused: bool = False) -> _Row:
    """A part of the path in braces is the object."""
    method, path = route.split(" ")
    return _Row(method, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), Named(action, fields, only_refused))


ROWS: tuple[_Row, ...] = (
    _row("POST /login", "login", "name"),
    _row("POST /logout", "logout"),
    _row("POST /ui/account/password", "account.password"),
    _row("DELETE /ui/account/sessions/{id}", "account.session.end"),
    _row("POST /ui/account/sessions/end-others", "account.session.end-others"),
    _row("POST /ui/account/keys", "key.create", "name", "scopes"),
    _row("DELETE /ui/account/keys/{id}", "key.revoke"),
    _row("POST /ui/users", "user.create", "name", "role"),
    _row("PATCH /ui/users/{id}", "user.change", "name", "role", "disabled"),
    _row("PUT /ui/users/{id}/quota", "user.quota", "daily_tokens"),
    _row("DELETE /ui/users/{id}", "user.delete"),
    _row("POST /ui/users/{id}/password", "user.password"),
    _row("DELETE /ui/users/{id}/sessions", "user.log-out"),
    _row("DELETE /ui/users/{id}/keys/{key}", "key.revoke"),
    _row("POST /ui/restart", "server.restart"),
    _row("POST /v1/internal/restart", "server.restart"),
    _row("PUT /ui/hub/token", "settings.hub-token"),
    _row("POST /ui/hub/download", "download.start", "repo", "revision"),
    _row("POST /ui/jobs/{id}/cancel", "job.cancel"),
    _row("POST /ui/jobs/{id}/pause", "job.pause"),
    _row("POST /ui/jobs/{id}/resume", "job.resume"),
    _row("DELETE /ui/jobs/{id}", "job.remove"),
    _row("POST /ui/remote/add", "remote-server.add", "name"),
    _row("POST /ui/remote/remove", "remote-server.remove", "name"),
    _row("POST /ui/model-folders/add", "model-folder.add", "path"),
    _row("POST /ui/model-folders/remove", "model-folder.remove", "tag"),
    _row("POST /ui/library/pin", "model.pin", "name"),
    _row("POST /ui/library/verify", "model.verify", "name"),
    _row("POST /ui/library/rename", "model.rename", "name", "new_name"),
    _row("POST /ui/library/delete", "model.delete", "name"),
    _row("POST /ui/library/restore", "model.restore", "id"),
    _row("POST /ui/library/discard", "model.discard", "id"),
    _row("POST /ui/adapter-library/verify", "adapter.verify", "name"),
    _row("POST /ui/adapter-library/rename", "adapter.rename", "name", "new_name"),
    _row("POST /ui/adapter-library/delete", "adapter.delete", "name"),
    _row("POST /ui/adapter-library/restore", "adapter.restore", "id"),
    _row("POST /ui/adapter-library/discard", "adapter.discard", "id"),
    _row("PUT /ui/adapters", "adapter.use", "model"),
    _row("POST /ui/adapters/files/convert", "adapter.convert", "name"),
    _row("POST /ui/adapters/files/merge", "adapter.merge", "name", "target"),
    _row("POST /ui/datasets/fetching", "dataset.fetch", "reference"),
    _row("POST /ui/datasets/upload", "dataset.upload"),
    _row("POST /ui/datasets/delete", "dataset.delete", "name"),
    _row("POST /ui/datasets/conversations", "dataset.from-conversations", "name"),
    _row("POST /ui/training/check", "training.check", "name"),
    _row("POST /ui/training/start", "training.start", "name"),
    _row("POST /ui/training/runs/{id}/finish", "training.finish"),
    _row("POST /ui/training/runs/{id}/pause", "training.pause"),
    _row("POST /ui/training/runs/{id}/cancel", "training.cancel"),
    _row("POST /ui/training/runs/{id}/resume", "training.resume"),
    _row("DELETE /ui/training/runs/{id}", "training.remove"),
    _row("PUT /ui/templates/choice", "template.choose", "model", "template"),
    _row("PUT /ui/templates/files/{name}", "template.save"),
    _row("DELETE /ui/templates/files/{name}", "template.delete"),
    _row("POST /ui/templates/bin/{id}/restore", "template.restore"),
    _row("DELETE /ui/templates/bin/{id}", "template.discard"),
    _row("POST /ui/characters", "character.save", "name"),
    _row("DELETE /ui/characters/{name}", "character.delete"),
    _row("POST /ui/profiles", "profile.save", "name"),
    _row("DELETE /ui/profiles/{name}", "profile.delete"),
    _row("POST /ui/perplexity", "evaluation.start", "models"),
    _row("POST /ui/perplexity/jobs/{id}/cancel", "evaluation.cancel"),
    _row("DELETE /ui/perplexity/rows/{id}", "evaluation.remove"),
    _row("POST /v1/internal/model/load", "model.load", "model_name", only_refused=True),
    _row("POST /v1/internal/model/unload", "model.unload", "model_name", only_refused=True),
    _row("PUT /v1/internal/adapters", "adapter.use", "model"),
    _row("POST /v1/internal/lora/load", "adapter.use", "model", "lora_names"),
    _row("POST /v1/internal/lora/unload", "adapter.use", "model"),
    _row("POST /v1/internal/jobs/download", "download.start", "repo", "revision"),
    _row("POST /v1/internal/jobs/train", "training.start", "name"),
    _row("POST /v1/internal/jobs/examine", "training.check", "name"),
    _row("POST /v1/internal/jobs/perplexity", "evaluation.start", "models"),
    _row("POST /v1/internal/jobs/verify", "model.verify", "name", "what"),
    _row("POST /v1/internal/jobs/convert_adapter", "adapter.convert", "name"),
    _row("POST /v1/internal/jobs/merge_adapter", "adapter.merge", "name", "target"),
    _row("POST /v1/internal/jobs/{id}/cancel", "job.cancel"),
    _row("POST /v1/internal/jobs/{id}/pause", "job.pause"),
    _row("POST /v1/internal/jobs/{id}/resume", "job.resume"),
    _row("POST /v1/internal/jobs/{id}/finish", "training.finish"),
    _row("DELETE /v1/internal/jobs/{id}", "job.remove"),
)


def is_noted(method: str, path: str) -> bool:
    """Whether a request is one that the log tells of."""
    if method in READING or method == "OPTIONS" or method == "WEBSOCKET" or QUIET_PATHS.fullmatch(path):
        return False
    return need_of(method, path) not in QUIET_NEEDS or LOUD_PATHS.fullmatch(path) is not None


def named(method: str, path: str) -> tuple[Named, str]:
    """What a request is called, and what of its path says to what it is done."""
    for row in ROWS:
        match = row.path.fullmatch(path) if row.method == method else None
        if match is not None:
            return row.named, " ".join(match.groups())
    return Named(f"{method} {path}"), ""
