"""A route for functions that take a body and the request and give a whole response, as those that write text do.

FastAPI describes it as any other, and answers what it cannot read; only the way of a good request is shorter than its own, which costs a tiny model's first
token a tenth of a millisecond (docs/lab-notes.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

JSON = "application/json"


class BodyRoute(APIRoute):
    """For `async def function(body: Model, request: Request) -> Response`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request.

        Raises:
            TypeError: the function is of another kind.
        """
        by_framework = super().get_route_handler()
        kind, function = _kind_of(self), self.endpoint

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                return await by_framework(request)
            try:
                told = await request.json()
            except ClientDisconnect as error:  # nothing is read again: what a limit broke off might come after all
                raise HTTPException(400, "There was an error parsing the body") from error
            except (ValueError, RecursionError):  # its words for that are known
                return await by_framework(request)
            if told is None:
                return await by_framework(request)
            try:
                body = kind.model_validate(told, from_attributes=True)
            except ValidationError as error:
                raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)], body=told) from error
            answer: Awaitable[Response] = function(body=body, request=request)
            return await answer

        return handle


def _kind_of(route: APIRoute) -> type[BaseModel]:
    """The model of the body."""
    needs, kind = route.dependant, route.body_field.field_info.annotation if route.body_field is not None else None
    others = (*needs.dependencies, *needs.path_params, *needs.query_params, *needs.header_params, *needs.cookie_params)
    if others or [one.name for one in needs.body_params] != ["body"] or needs.request_param_name != "request" or route.response_field is not None:
        raise TypeError(f"{route.path} does not take a body and the request, so it is no BodyRoute")
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise TypeError(f"the body of {route.path} is no model")
    return kind
