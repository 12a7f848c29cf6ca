"""What the handlers of every dialect share: who and what they talk to, text as it comes in, JSON as it goes out."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel
from starlette.responses import JSONResponse, Response

from kbqa.server.errors import BadRequest, Forbidden, problem_of
from kbqa.server.logs import Trace

if TYPE_CHECKING:
    from kbqa.server.auth import Caller
    from kbqa.server.service import Service

__all__ = ["ERRORS", "EVENTS", "BadRequestRoute", "Error", "Json", "Route", "Text", "base_of", "service_of", "trace_of"]

MOST_VALUES = 20_000  # in a JSON body


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def trace_of(request: Request) -> Trace:
    trace: Trace = request.state.trace
    return trace


def base_of(service: Service, caller: Caller, given: str | None, where: str) -> str:
    """The base that is `given`, else the only one that the key opens, else knowledge.default of config.yaml.

    Forbidden when it is not the caller's to ask; `where` says where he may name another.
    """
    if given:
        caller.check("read", given)
        return given
    if caller.bases is not None and len(caller.bases) == 1:
        return next(iter(caller.bases))
    default = service.installation.name(None)
    if not caller.sees(default):
        raise Forbidden(f"the key {caller.name} opens several bases; name one of them in {where}")
    return default


def _whole(text: str) -> str:
    """Halves of characters, as JavaScript leaves them where it cuts a text, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Text = Annotated[str, AfterValidator(_whole)]


class Json(JSONResponse):
    """Any text can be in it, also what a client sent that is none."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


class Route(APIRoute):
    """Refuses JSON of so many values that to tell what is wrong with each would hold up everybody else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            if self.body_field is not None:
                await _check_values(request)
            return await handle(request)

        return handled


async def _check_values(request: Request) -> None:
    try:
        whole = await request.json()  # once: the request keeps it
    except UnicodeDecodeError:  # as a Chinese Windows makes it on its command line
        raise BadRequest("the body is not UTF-8, as JSON must be; send it from a file that was saved so") from None
    except (ValueError, RecursionError):  # which FastAPI tells of
        return
    left = MOST_VALUES
    waiting: list[dict[Any, Any] | list[Any]] = [[whole]]
    while waiting:
        value = waiting.pop()
        inside = list(value.values()) if isinstance(value, dict) else value
        left -= len(inside)
        if left < 0:
            raise BadRequest(f"the body has more than {MOST_VALUES} values; send several requests")
        waiting += [part for part in inside if isinstance(part, dict | list)]


class BadRequestRoute(Route):
    """For dialects in which a request that is not as it should be has status 400, whatever is wrong with it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise BadRequest(problem_of(error).message) from None
            except RecursionError:
                raise BadRequest("the body is nested too deeply") from None

        return handled


# Server-Sent Events, as OpenAPI tells of each of them.
EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON"}},
            "required": ["data"],
        }
    }
}


class ErrorFields(BaseModel):
    type: str
    message: str


class Error(BaseModel):
    error: ErrorFields


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": description}
    for status, description in {
        400: "The question cannot be asked, or the body is no JSON.",
        401: "A key is needed, or this one is none.",
        403: "The key does not open this base, or may not do this.",
        404: "There is no such knowledge base.",
        408: "The body did not come.",
        413: "The body is too large.",
        422: "A field is missing or not as it should be.",
        429: "The key has sent too many requests; Retry-After says when to try again.",
        500: "The service failed; its log says why.",
        502: "The model failed.",
        503: "All is busy (Retry-After says when to try again), the base must be rebuilt, or "
        "vectorstore/kbqa.sqlite, where keys, jobs, feedback and conversations are kept, cannot be used or written.",
    }.items()
}
