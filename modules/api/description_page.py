"""GET /v1/docs: the OpenAPI description as a page to read, made here, without scripts and without anything from elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from modules.api.description_schemas import FieldRow, Schemas
from modules.services.app import App

SHOWN = ("/v1/", "/api/", "/health")  # what is meant for other programs
GROUPS = (("/v1/", "Asking a model"), ("/v1/internal/", "Models, adapters, jobs and tokens"), ("/api/", "Ollama's API"), ("/", "The server"))
VERBS = ("get", "put", "post", "patch", "delete")
STYLE = """
:root{color-scheme:light dark}html{background:Canvas;color:CanvasText}body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem}h2{margin-top:2.5rem}h3{font-size:1rem;margin:0 0 .3rem;overflow-wrap:anywhere}section{border-top:1px solid #8884;padding:1rem 0}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#8881;padding:.7rem;border-radius:.4rem;white-space:pre-wrap;overflow-wrap:anywhere;margin:.5rem 0}
.verb{display:inline-block;min-width:4em;font-weight:700;color:#2f6b4f}@media (prefers-color-scheme:dark){.verb{color:#8fd0ae}a{color:#9ecbff}}
table{border-collapse:collapse;width:100%;margin:.5rem 0}th,td{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8883}
td{overflow-wrap:anywhere}td:first-child{min-width:11rem}td:nth-child(2){min-width:9rem}td:last-child{min-width:14rem}.needed code{font-weight:700}nav ul{columns:18rem;padding-left:1.2rem}nav li{overflow-wrap:anywhere}
summary{cursor:pointer}@media (max-width:48rem){thead{display:none}tr{display:block;border-bottom:1px solid #8883;padding:.4rem 0}td:nth-child(n){display:block;border:0;padding:0;min-width:0}}
"""


def description_router(app: App, description: Callable[[], Mapping[str, Any]]) -> APIRouter:
    """The page about `description`, which is asked for when the page is."""
    router = APIRouter()

    @router.get("/v1/docs", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        """The page."""
        base = f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}"
        return HTMLResponse(written(description(), base, needs_key=app.settings.api_key is not None))

    return router


def written(description: Mapping[str, Any], base: str, *, needs_key: bool) -> str:
    """The whole page."""
    schemas = Schemas(description)
    operations = [(path, verb, rows[verb]) for path, rows in description["paths"].items() if path.startswith(SHOWN) for verb in VERBS if verb in rows]
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {title: [] for _, title in GROUPS}
    for operation in operations:
        _, title = max((group for group in GROUPS if operation[0].startswith(group[0])), key=lambda group: len(group[0]))
        groups[title].append(operation)
    parts = [_head(needs_key), *_contents(groups)]
    for title, rows in groups.items():
        parts.append(f"<h2>{escape(title)}</h2>" if rows else "")
        parts += [_operation(schemas, path, verb, row, base, needs_key) for path, verb, row in rows]
    return "\n".join([*parts, "</main></body></html>"])


def _head(needs_key: bool) -> str:
    key = " Send its key as <code>Authorization: Bearer …</code>." if needs_key else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Paddock’s API</title><style>{STYLE}</style></head><body><main><h1>Paddock’s API</h1>"
        f'<p>Made from <a href="openapi.json">openapi.json</a>.{key} Names in bold are required. Errors are sentences in <code>error.message</code>, below <code>/api</code> in <code>error</code>.</p>'
    )


def _contents(groups: Mapping[str, Sequence[tuple[str, str, Mapping[str, Any]]]]) -> Iterator[str]:
    yield '<nav aria-label="Routes"><ul>'
    for rows in groups.values():
        for path, verb, _ in rows:
            yield f'<li><a href="#{_anchor(path, verb)}">{verb.upper()} {escape(path)}</a></li>'
    yield "</ul></nav>"


def _operation(schemas: Schemas, path: str, verb: str, row: Mapping[str, Any], base: str, needs_key: bool) -> str:
    body = row.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    parts = [f'<section id="{_anchor(path, verb)}"><h3><span class="verb">{verb.upper()}</span> <code>{escape(path)}</code></h3>']
    parts.append(f"<p>{_words(row.get('description') or row.get('summary', ''))}</p>")
    parameters = [_parameter(schemas, one) for one in row.get("parameters", ())]
    if parameters:
        parts.append(_table(parameters))
    if body is not None:
        whole = _without_null(body)
        parts.append(_table(schemas.fields(whole)))
        for name, inner in schemas.inner(whole):
            parts.append(f"<details><summary>{escape(name)}</summary>{_table(schemas.fields(inner))}</details>")
    example = schemas.example(_without_null(body)) if body is not None else None
    parts.append(f"<pre>{escape(_curl(base + path, verb, example, needs_key))}</pre></section>")
    return "\n".join(parts)


def _without_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A body that may be left out, as if it were there."""
    return next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)


def _parameter(schemas: Schemas, one: Mapping[str, Any]) -> FieldRow:
    schema = {**one.get("schema", {}), **({"description": one["description"]} if "description" in one else {})}
    return schemas.field(f"{one['name']} ({one['in']})", schema, required=bool(one.get("required")))


def _table(rows: Sequence[FieldRow]) -> str:
    if not rows:
        return ""
    cells = [
        f"<tr><td{' class=needed' if row.required else ''}><code>{escape(row.name)}</code></td><td>{escape(row.kind)}</td>"
        f"<td><code>{escape(row.default)}</code></td><td>{_words(row.meaning)}</td></tr>"
        for row in rows
    ]
    return f'<table><thead><tr><th>field</th><th>value</th><th>default</th><th>meaning</th></tr></thead><tbody>{"".join(cells)}</tbody></table>'


def _curl(address: str, verb: str, example: Any, needs_key: bool) -> str:
    parts = [f"curl {'' if verb == 'get' else f'-X {verb.upper()} '}{shlex.quote(address)}"]
    if needs_key:
        parts.append('-H "Authorization: Bearer $PADDOCK_API_KEY"')
    if example is not None:
        parts += ["-H 'Content-Type: application/json'", "-d " + shlex.quote(json.dumps(example, ensure_ascii=False))]
    return " \\\n  ".join(parts)


def _words(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(" ".join(text.split())))


def _anchor(path: str, verb: str) -> str:
    return quote(f"{verb}{path}", safe="").replace("%", ".")
