"""What happens to every request, whatever it asks: a name, limits, a line in the log, figures.

A plain ASGI application around the other: it sees the last byte of every answer, and an error that nobody foresaw.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kbqa.server.errors import Overloaded, Problem, RequestError, Shapes, TooLarge, problem_of, shaped
from kbqa.server.logs import Trace, log
from kbqa.server.stream import ClientGone

if TYPE_CHECKING:
    from kbqa.server.service import Service

__all__ = ["Front"]

PATIENCE = 30.0  # seconds for which a client may send nothing of a body that it has announced, and ...
LEAST_RATE = 4096  # ... bytes of it that buy a second more: slower ones would hold their places for days
# Seconds for which the rest of a body that is too large is still taken, because one who sends does not hear, ...
LINGER = 10.0
PAUSE = 1.0  # ... while no more than so many go by without any of it
STALLED = 60.0  # seconds for which a client may take nothing of its answer, while no more of it fits into the buffers
CLIENT_GONE = 499  # in logs and figures alone, as nginx has it
ALWAYS = ("/healthz", "/readyz", "/metrics")  # are answered however much there is to do

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # others are one in the figures
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
        incoming = _Incoming(scope, receive, self._service.body_limit(scope["path"]))
        outgoing = _Outgoing(send, trace, incoming)
        self._inside += 1
        self._service.metrics.in_flight.inc()
        try:
            self._check_room(scope)
            incoming.check_announced()
            await self._app(scope, incoming, outgoing)
        except asyncio.CancelledError:  # the service is stopped
            trace.error = "Cancelled"
            raise
        except (ClientGone, ClientDisconnect):
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
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._service.metrics.requests.labels(route, method, str(status)).inc()
        self._service.metrics.request_seconds.labels(route).observe(seconds)
        self._service.metrics.count_tokens(route, trace.prompt_tokens, trace.completion_tokens)
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
            "prompt_tokens": trace.prompt_tokens or None,
            "completion_tokens": trace.completion_tokens or None,
            "error": trace.error,
        }
        log.info("request", extra={"fields": {key: value for key, value in fields.items() if value is not None}})


def _request_id(headers: Headers) -> str:
    """The client's own if it is one that can stand in a log."""
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else secrets.token_hex(8)


class _Outgoing:
    """An answer on its way out."""

    def __init__(self, send: Send, trace: Trace, incoming: _Incoming) -> None:
        self._send = send
        self._trace = trace
        self._incoming = incoming
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
            if self.status == TooLarge.status and not message.get("more_body", False):
                await self._pass({**message, "more_body": True})
                await self._incoming.drain()
                message = {"type": "http.response.body", "body": b""}
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
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
    """A request's body on its way in: no larger than it may be, not slower, and not for ever."""

    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        headers = Headers(scope=scope)
        self._announced = _announced(headers)
        self._asks_first = "expect" in headers  # and sends nothing when it is refused
        self._got = 0
        self._waited = 0.0  # seconds, for the client: what is done with the body meanwhile does not count
        self._whole = False

    def check_announced(self) -> None:
        self._check(self._announced)

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(min(PATIENCE, PATIENCE + self._got / LEAST_RATE - self._waited)):
                message = await self._receive()
        except TimeoutError:
            # As an HTTPException, because that is what passes through FastAPI while it reads a body.
            said = f"the body came too slowly: nothing for {PATIENCE:g} seconds, or under {LEAST_RATE} bytes each"
            raise HTTPException(408, said, dict(TooLarge.headers)) from None
        self._waited += loop.time() - start
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            try:
                self._check(self._got)
            except TooLarge as error:
                raise HTTPException(413, str(error), dict(error.headers)) from None
        return message

    async def drain(self) -> None:
        """Throws away what is still on its way. A connection that is closed before that takes the answer with it."""
        if self._asks_first and not self._got:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + LINGER
        with suppress(TimeoutError):
            while not self._whole and loop.time() < until:
                async with asyncio.timeout(PAUSE):
                    message = await self._receive()
                self._whole = message["type"] != "http.request" or not message.get("more_body", False)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise TooLarge(f"the body is larger than {self._most / 2**20:g} MiB")


def _announced(headers: Headers) -> int:
    """The length of the body, as far as it is told; what has more than 18 digits is too long in any case."""
    text = headers.get("content-length", "")
    return int(text[:19]) if text.isascii() and text.isdigit() else 0
