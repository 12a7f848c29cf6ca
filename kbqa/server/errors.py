"""Errors to answers: which status, and in which shape. The one place where that is decided.

A dialect may have a shape of its own (`create_app` knows them by the path they begin with); what an error is called and
which status it has is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from kbqa.errors import (
    BeyondModel,
    DocumentError,
    GeneratorBusy,
    GeneratorError,
    IndexMismatch,
    KbqaError,
    KnowledgeBaseBusy,
    KnowledgeBaseClosed,
    QuestionError,
    RegistryError,
    UnknownConversation,
    UnknownFeedback,
    UnknownJob,
    UnknownKnowledgeBase,
)

__all__ = [
    "BadRequest",
    "Conflict",
    "Forbidden",
    "NoKey",
    "NotFound",
    "NotInstalled",
    "NotStored",
    "Overloaded",
    "Problem",
    "RequestError",
    "Shape",
    "Shapes",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unprocessable",
    "native_shape",
    "problem_of",
    "shaped",
]

LONGEST = 200  # characters of what a client calls a field that are said again
AGAIN = 5  # seconds after which somebody who was told that all is busy may try again


class RequestError(KbqaError):
    """The request cannot be granted as it is, whatever it asks."""

    type = ""  # else the name of the class
    status = 400
    headers: Mapping[str, str] = {}
    details: Mapping[str, Any] = {}  # further fields of the error


class BadRequest(RequestError):
    pass


class Unauthorized(RequestError):
    status = 401
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class NoKey(Unauthorized):
    """None was sent, or not as keys are sent."""

    type = "Unauthorized"


class Forbidden(RequestError):
    status = 403


class NotFound(RequestError):
    status = 404


class Conflict(RequestError):
    status = 409


class TooLarge(RequestError):
    status = 413
    headers: Mapping[str, str] = {"Connection": "close"}  # nobody reads what else comes


class Unprocessable(RequestError):
    status = 422

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class TooManyRequests(RequestError):
    status = 429

    def __init__(self, message: str, after: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(after)}


class Overloaded(RequestError):
    status = 503
    headers: Mapping[str, str] = {"Retry-After": str(AGAIN)}


class NotInstalled(RequestError):
    """What is asked for needs a package that is not there."""

    status = 501


class NotStored(RequestError):
    """The disk cannot take in what was sent."""

    status = 507


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a client gets to know it. `type` is a word that a program can test; `error` is for shapes."""

    status: int
    type: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    error: BaseException | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


Shape = Callable[[Problem], Any]  # the JSON that says it
Shapes = Mapping[str, Shape]  # how a path begins -> what errors look like there

# The first that fits; a KbqaError that is not among them is a fault of this side.
_STATUS: tuple[tuple[type[KbqaError], int], ...] = (
    (QuestionError, 400),
    (UnknownKnowledgeBase, 404),
    (UnknownJob, 404),
    (UnknownFeedback, 404),
    (UnknownConversation, 404),
    (DocumentError, 422),
    (KnowledgeBaseBusy, 503),
    (KnowledgeBaseClosed, 503),
    (IndexMismatch, 503),
    (RegistryError, 503),
    (GeneratorBusy, 503),
    (BeyondModel, 400),
    (GeneratorError, 502),
    (KbqaError, 500),
)


def native_shape(problem: Problem) -> dict[str, Any]:
    return {"error": {"type": problem.type, "message": problem.message, **problem.details}}


def shaped(problem: Problem, path: str, shapes: Shapes) -> Any:
    shape = next((shape for start, shape in shapes.items() if path.startswith(start)), native_shape)
    return shape(problem)


def problem_of(error: BaseException) -> Problem:
    """What `error` is to a client. Of one that nobody foresaw it is told nothing but that it happened."""
    match error:
        case RequestError():
            name = error.type or type(error).__name__
            return Problem(error.status, name, str(error), error.headers, error, error.details)
        case KbqaError():
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            busy = isinstance(error, GeneratorBusy | KnowledgeBaseBusy | KnowledgeBaseClosed)
            return Problem(status, type(error).__name__, str(error), {"Retry-After": str(AGAIN)} if busy else {})
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            name = HTTPStatus(error.status_code).phrase
            return Problem(error.status_code, name.replace(" ", ""), str(error.detail), dict(error.headers or {}))
    return Problem(500, "InternalError", "something went wrong in the service; its log says what")


def _invalid(error: RequestValidationError) -> Problem:
    """One line for all that is wrong with a request: `question: Field required`."""
    first: list[str] = []
    for fault in error.errors():
        if fault["type"] == "json_invalid":
            why = fault.get("ctx", {}).get("error", "")
            return Problem(400, "InvalidRequest", f"the body is not valid JSON: {why}")
        if fault["type"] == "model_attributes_type" and fault["loc"] == ("body",):
            message = "the body must be a JSON object, sent with the header Content-Type: application/json"
            return Problem(422, "InvalidRequest", message)
        where = ".".join(str(part) for part in fault["loc"] if part != "body")[:LONGEST] or "the body"
        first.append(f"{where}: {fault['msg']}")
    shown = "; ".join(first[:5]) + (f"; and {len(first) - 5} more" if len(first) > 5 else "")
    return Problem(422, "InvalidRequest", shown)
