"""Errors as HTTP: one table from error class to status, and OpenAI's error shape for every answer."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from modules.api.answers import JsonAnswer
from modules.api.guard import Scope
from modules.core import errors
from modules.core.settings import WHERE_LIMIT, problem_words

log = logging.getLogger(__name__)

# The machine's own limits: no defect of ours, and the person can do something about it
NOT_WRITABLE = frozenset({errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)})

# Most special class first: the first match counts.
STATUS: tuple[tuple[type[errors.AppError], int, str], ...] = (
    (errors.NotFound, 404, "not_found_error"),
    (errors.ContextOverflow, 400, "context_length_exceeded"),
    (errors.InvalidRequest, 400, "invalid_request_error"),
    (errors.Busy, 429, "rate_limit_error"),
    (errors.QuotaExceeded, 429, "insufficient_quota"),
    (errors.NoModelLoaded, 503, "service_unavailable"),
    (errors.UnsupportedFormat, 422, "load_failed"),
    (errors.OutOfMemory, 507, "out_of_memory"),
    (errors.LoadFailed, 500, "load_failed"),
    (errors.EngineCrashed, 502, "engine_crashed"),
    (errors.RemoteError, 502, "remote_error"),
    (errors.HubError, 502, "hub_error"),
    (errors.JobConflict, 409, "conflict"),
    (errors.Conflict, 409, "conflict"),
    (errors.Forbidden, 403, "permission_error"),
)


# What the framework says in two words
FRAMEWORK_SENTENCES = (
    (400, "The body could not be read: {detail}. Send JSON in UTF-8."),
    (404, "There is nothing at this address."),
    (405, "This address takes no {method} requests."),
)


Shape = Callable[[int, str], dict[str, Any]]  # the body of an error from status and sentence


class ErrorObject(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Body of every answer that is an error."""

    error: ErrorObject


def documented_errors(shape: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """Every error status for the OpenAPI description; the framework's own 422 is never sent."""
    found: dict[int | str, dict[str, Any]] = {status: {"model": shape, "description": kind} for _, status, kind in STATUS}
    return {**found, "default": {"model": shape, "description": "an error"}}


def status_of(error: errors.AppError) -> tuple[int, str]:
    """HTTP status and error type of an error."""
    for cls, status, kind in STATUS:
        if isinstance(error, cls):
            return status, kind
    return 500, "server_error"


def error_body(message: str, kind: str, *, code: str | None = None, param: str | None = None, **more: Any) -> dict[str, Any]:
    """OpenAI's error object; `more` is added for our own clients."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


def body_of(error: errors.AppError) -> dict[str, Any]:
    """OpenAI's error object of an error of ours."""
    _, kind = status_of(error)
    field = error.details.get("field")
    return error_body(error.message, kind, code=_code(error), param=str(field) if field else None, details=_plain(error.details))


def _code(error: errors.AppError) -> str:
    """OpenAI's own word where it has one, else ours."""
    if isinstance(error, errors.ContextOverflow):
        return "context_length_exceeded"
    return "model_not_found" if isinstance(error, errors.NotFound) and error.details.get("field") == "model" else error.kind


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in details.items() if isinstance(value, str | int | float | bool | list | dict)}


def response_of(error: errors.AppError) -> JsonAnswer:
    """The whole response of an error of ours."""
    return JsonAnswer(body_of(error), status_code=status_of(error)[0], headers=retry_headers(error))


def retry_headers(error: errors.AppError) -> dict[str, str] | None:
    """When to ask again, where that is what helps."""
    return {"retry-after": str(error.details.get("retry_after_s", 1))} if status_of(error)[0] == 429 else None


def validation_message(error: RequestValidationError | ValidationError) -> tuple[str, str]:
    """The first problem of a request body as a sentence, and the field it is about."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if part != "body" and not str(part).startswith(("function-", "constrained-"))]
    where = ".".join(parts)[:WHERE_LIMIT] or "body"
    return f"{where}: {problem_words(first)}.", where


def http_message(error: HTTPException, request: Request) -> str:
    """What the framework says, as a sentence."""
    return dict(FRAMEWORK_SENTENCES).get(error.status_code, "{detail}.").format(detail=error.detail, method=request.method)


def install_error_handlers(api: FastAPI, shape_of: Callable[[Scope], Shape | None] = lambda _: None) -> None:
    """Answer every kind of failure in OpenAI's shape; `shape_of` a request is another one, for defects: those are answered outside of what tells other errors anew."""

    async def on_app_error(_: Request, error: Exception) -> JsonAnswer:
        assert isinstance(error, errors.AppError)
        return response_of(error)

    async def on_validation(_: Request, error: Exception) -> JsonAnswer:
        assert isinstance(error, RequestValidationError)
        message, where = validation_message(error)
        return JsonAnswer(error_body(message, "invalid_request_error", param=where), status_code=400)

    async def on_http(request: Request, error: Exception) -> JsonAnswer:
        assert isinstance(error, HTTPException)
        status = error.status_code
        message = http_message(error, request)
        return JsonAnswer(error_body(message, "invalid_request_error", code=str(status)), status_code=status, headers=error.headers)

    async def on_defect(request: Request, error: Exception) -> JsonAnswer:
        log.error("Defect while answering %s", request.url.path, exc_info=error)
        message = "Something in Paddock itself went wrong; the server goes on. What it wrote where it was started has the details."
        shape = shape_of(request.scope)
        return JsonAnswer(shape(500, message) if shape is not None else error_body(message, "server_error"), status_code=500)

    async def on_os_error(request: Request, error: Exception) -> JsonAnswer:
        assert isinstance(error, OSError)
        if error.errno not in NOT_WRITABLE:
            return await on_defect(request, error)
        log.warning("Cannot write while answering %s: %s", request.url.path, error)
        message = f"This could not be saved: {error.strerror}. Free some space, or make the folder writable, then try again."
        return JsonAnswer(error_body(message, "server_error"), status_code=500)

    api.add_exception_handler(errors.AppError, on_app_error)
    api.add_exception_handler(OSError, on_os_error)
    api.add_exception_handler(RequestValidationError, on_validation)
    api.add_exception_handler(HTTPException, on_http)
    api.add_exception_handler(Exception, on_defect)
