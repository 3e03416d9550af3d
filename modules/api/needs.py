"""Which request needs what: one table of routes. What stands in no row is an administrator's, so a route that nobody thought of is closed.

Rows are looked through in order; the first that fits counts. The words are those of core/person.py. It knows no person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from modules.api.elsewhere import SENTENCES
from modules.api.guard import Scope
from modules.core.person import Need

READING = frozenset({"GET", "HEAD"})
WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
ANY = READING | WRITING
# What other servers have and this one says why not
NOT_OFFERED = (
    "audio|realtime|images|videos|moderations|rerank|score|files|uploads|containers|vector_stores|batches|messages/batches|fine_tuning|evals|assistants|threads"
    "|conversations|complete|edits|engines"
)


class Row(NamedTuple):
    """Requests of these methods to paths of this form need so much."""

    need: Need
    methods: frozenset[str]
    paths: re.Pattern[str]


def _row(need: Need, methods: Iterable[str], *paths: str) -> Row:
    return Row(need, frozenset(methods), re.compile("|".join(paths)))


NEEDS: tuple[Row, ...] = (
    _row("open", ANY, "/health", "/login", "/logout"),
    # ---- the API ----
    _row("known", READING, r"/v1/models(/.*)?", r"/v1/openapi\.json", "/v1/docs", r"/v1/internal/(health|usage|requests|model/(info|list))", r"/api/(tags|version|ps)"),
    _row("known", {"POST"}, "/api/show"),
    _row("known", READING, "/v1/internal/(loaders|lora/list|adapters)"),
    _row("chat", {"POST"}, r"/v1/(chat/completions|completions|responses|messages(/count_tokens)?|embeddings)", "/api/(chat|generate|embed|embeddings)"),
    _row("chat", {"POST"}, "/v1/internal/(encode|decode|token-count|logits|score|chat-prompt|stop-generation)"),
    _row("known", ANY, *(f"{prefix}(/.*)?" for prefix, _ in SENTENCES), "/api/(pull|push|create|copy|delete|blobs/.+)"),  # not offered, which is said
    _row("models", READING, "/v1/internal/counters", "/metrics"),
    _row("models", ANY, r"/v1/internal/(model|loaders|adapters|lora)(/.*)?"),
    _row("jobs", ANY, r"/v1/internal/jobs(/.*)?"),
    # ---- what everybody has of their own on the page ----
    _row("page", ANY, r"/ui/(conversations|bin|notebooks?|profiles|account)(/.*)?", "/ui/chat-preferences"),
    _row("page", READING, r"/ui/(messages|files)/.+", "/ui/(person|usage)"),
    _row("page", {"POST"}, "/ui/tokens", "/ui/templates/(look|read)", "/gradio_api/run/predict/?"),
    # ---- what belongs to all: everybody looks at it, but at texts that may come from somebody's conversations ----
    _row("manage", READING, "/ui/datasets/(look|conversations)", "/ui/training/checks/.+"),
    _row("page", READING, r"/ui/(assets|fonts|fit|jobs|characters|templates|training|datasets|perplexity|presets|adapters)(/.*)?"),
    _row("page", READING, "/ui/(figures|palette|models|model-folders|library|adapter-library|hub|remote|restart)"),
    _row("page", READING, r"/", r"/(svelte|static|assets|pwa_icon)(/.*)?", r"/(theme\.css|config/?|favicon\.ico|robots\.txt|manifest\.json)", "/gradio_api/.*"),
    # ---- and who manages changes it; what concerns the server itself is left to administrators ----
    _row("manage", WRITING, r"/ui/(library|adapter-library|adapters|fit|jobs|training|datasets|perplexity|templates|characters)(/.*)?"),
    _row("manage", {"POST"}, "/ui/hub/(open|search|download)", "/gradio_api/(queue/join|upload|cancel|reset)/?"),
    _row("admin", ANY, r"/ui/(users|audit)(/.*)?", "/ui/restart", "/v1/internal/restart", "/ui/hub/token", "/ui/(remote|model-folders)/.+"),
)


def need_of(method: str, path: str) -> Need:
    """What a request needs; one that changes nothing by its nature, such as a browser's question before another, needs nothing."""
    if method == "OPTIONS":
        return "open"
    row = row_of(method, path)
    return row.need if row is not None else "admin"


def method_of(scope: Scope) -> str:
    """The method of a request; a web socket has one of its own, which is in no row."""
    return str(scope["method"]) if scope["type"] == "http" else "WEBSOCKET"


def row_of(method: str, path: str) -> Row | None:
    """The row that a request falls under."""
    return next((row for row in NEEDS if method in row.methods and row.paths.fullmatch(path)), None)
