"""What happens to every request, whatever it asks: a name, limits, a line in the log, figures.

A plain ASGI application around the other: it sees the last byte of every answer, and an error that nobody foresaw.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kbqa.server.errors import Overloaded, Problem, RequestError, Shapes, TooLarge, problem_of, shaped
from kbqa.server.logs import Trace, log
from kbqa.server.stream import ClientGone

if TYPE_CHECKING:
    from kbqa.server.service import Service

__all__ = ["Front"]

PATIENCE = 30.0  # seconds for which a client may send nothing of a body that it has announced
STALLED = 60.0  # seconds for which a client may take nothing of its answer, while no more of it fits into the buffers
CLIENT_GONE = 499  # in logs and figures alone, as nginx has it
ALWAYS = ("/healthz", "/readyz", "/metrics")  # are answered however much there is to do

_ID = re.compile(r"[\w.\-]{1,64}", re.ASCII)


class Front:
    def __init__(self, app: ASGIApp, service: Service, shapes: Shapes) -> None:
        self._app = app
        self._service = service
        self._shapes = shapes
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = Trace(_request_id(Headers(scope=scope)))
        scope.setdefault("state", {})["trace"] = trace
        outgoing = _Outgoing(send, trace)
        self._inside += 1
        self._service.metrics.in_flight.inc()
        try:
            self._check_room(scope)
            await self._app(scope, _Incoming(scope, receive, self._service.body_limit(scope["path"])), outgoing)
        except asyncio.CancelledError:  # the service is stopped
            trace.error = "Cancelled"
            raise
        except ClientGone:
            outgoing.status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001  (the last place where it can become an answer)
            await self._fail(error, scope["path"], trace, outgoing)
        finally:
            self._inside -= 1
            self._service.metrics.in_flight.dec()
            for call in trace.at_end:
                call()
            self._write_down(scope, trace, outgoing)

    def _check_room(self, scope: Scope) -> None:
        most = self._service.config.concurrent_requests
        if self._inside > most and scope["path"] not in ALWAYS:
            raise Overloaded(f"{most} requests are being answered (server.concurrent_requests); try again in a moment")

    async def _fail(self, error: Exception, path: str, trace: Trace, outgoing: _Outgoing) -> None:
        problem = problem_of(error)
        trace.error = problem.type
        if not isinstance(error, RequestError):
            log.error(f"{type(error).__name__} in request {trace.id}", exc_info=error)
        if not outgoing.status:
            await outgoing.say(problem, shaped(problem, path, self._shapes))

    def _write_down(self, scope: Scope, trace: Trace, outgoing: _Outgoing) -> None:
        seconds = time.perf_counter() - trace.started
        route = getattr(scope.get("route"), "path", None) or "unknown"
        status = outgoing.status or CLIENT_GONE
        self._service.metrics.requests.labels(route, scope["method"], str(status)).inc()
        self._service.metrics.request_seconds.labels(route).observe(seconds)
        fields: dict[str, Any] = {
            "request": trace.id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            "bytes": outgoing.sent,
            "client": (scope.get("client") or ("",))[0],
            "who": trace.who,
            "base": trace.base,
            "error": trace.error,
        }
        log.info("request", extra={"fields": {key: value for key, value in fields.items() if value is not None}})


def _request_id(headers: Headers) -> str:
    """The client's own if it is one that can stand in a log."""
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else secrets.token_hex(8)


class _Outgoing:
    """An answer on its way out."""

    def __init__(self, send: Send, trace: Trace) -> None:
        self._send = send
        self._trace = trace
        self.status = 0  # until the answer has begun
        self.sent = 0  # bytes of the body

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._trace.id
            headers["X-Content-Type-Options"] = "nosniff"
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        try:
            async with asyncio.timeout(STALLED):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None

    async def say(self, problem: Problem, content: Any) -> None:
        body = json.dumps(content, ensure_ascii=False).encode(errors="replace")
        headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self({"type": "http.response.body", "body": body})


class _Incoming:
    """A request's body on its way in: no larger than it may be, and not for ever."""

    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._got = 0
        self._whole = False
        self._check(_announced(Headers(scope=scope)))

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(PATIENCE):
                message = await self._receive()
        except TimeoutError:
            # As an HTTPException, because that is what passes through FastAPI while it reads a body.
            said = f"nothing of the body came for {PATIENCE:.0f} seconds"
            raise HTTPException(408, said, dict(TooLarge.headers)) from None
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            try:
                self._check(self._got)
            except TooLarge as error:
                raise HTTPException(413, str(error), dict(error.headers)) from None
        return message

    def _check(self, size: int) -> None:
        if size > self._most:
            raise TooLarge(f"the body is larger than {self._most / 2**20:g} MiB")


def _announced(headers: Headers) -> int:
    """The length of the body, as far as it is told; what has more than 18 digits is too long in any case."""
    text = headers.get("content-length", "")
    return int(text[:19]) if text.isascii() and text.isdigit() else 0
