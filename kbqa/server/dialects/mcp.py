"""MCP: POST /mcp (streamable HTTP, without sessions) and standard input and output (`kbqa mcp`).

Over HTTP the keys of all other dialects count. The SDK is loaded by the first request: few services are asked this way.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kbqa.errors import ConfigError
from kbqa.server.auth import NOBODY, Caller, allow
from kbqa.server.errors import NotInstalled
from kbqa.server.logs import Trace
from kbqa.server.request import trace_of
from kbqa.server.service import Service

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from kbqa.build import Installation
    from kbqa.server.dialects.mcp_tools import Context

__all__ = ["Hall", "router", "serve_stdio"]

MISSING = "MCP needs the package mcp: pip install 'kbqa[mcp]'"


class Hall:
    """Where the SDK's part of the service lives, from the first who comes until the service ends."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._opening = asyncio.Lock()
        self._manager: StreamableHTTPSessionManager | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._closing.set()
            if self._task is not None:
                await self._task

    async def manager(self) -> StreamableHTTPSessionManager:
        """NotInstalled where the extra is not."""
        async with self._opening:
            if self._manager is None:
                if find_spec("mcp") is None:
                    raise NotInstalled(MISSING)
                made = await asyncio.to_thread(_manager, self._service)
                opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._task = asyncio.create_task(self._run(made, opened))
                await opened
                self._manager = made
        return self._manager

    async def _run(self, manager: StreamableHTTPSessionManager, opened: asyncio.Future[None]) -> None:
        """In a task of its own, because the SDK wants to be left by the task that entered."""
        try:
            async with manager.run():
                opened.set_result(None)
                await self._closing.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)  # for who waits; the next one tries again


def _manager(service: Service) -> StreamableHTTPSessionManager:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from kbqa.server.dialects.mcp_tools import make_server

    # Who may ask, from where, and how much at once has been looked at before anything comes here.
    return StreamableHTTPSessionManager(make_server(service, _of_request), stateless=True)


def _of_request(context: Context) -> tuple[Caller, Trace]:
    request = cast(Request, context.request)  # over HTTP there always is one
    return request.state.caller, trace_of(request)


router = APIRouter()


@router.post("/mcp", include_in_schema=False)  # MCP describes itself
async def mcp(request: Request, caller: Annotated[Caller, Depends(allow("read"))]) -> Response:
    request.state.caller = caller
    hall: Hall = request.app.state.mcp
    return _Handed(await hall.manager())


class _Handed(Response):
    """An answer that the SDK gives."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        super().__init__()
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)


# --- standard input and output ----------------------------------------------------------------------------------------


def serve_stdio(installation: Installation, base: str | None) -> None:
    """Until standard input ends. `base`: the only one that may be asked; ConfigError without the extra."""
    if find_spec("mcp") is None:
        raise ConfigError(MISSING)
    if base is not None:
        installation.store(base).close()  # UnknownKnowledgeBase now, and not with the first question
    # Ctrl-C ends it at once, as SIGTERM does: to read standard input cannot be broken off, and nothing is lost here.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(_serve_stdio(installation, Caller(NOBODY, "read", None if base is None else frozenset([base]))))


async def _serve_stdio(installation: Installation, caller: Caller) -> None:
    from mcp.server.stdio import stdio_server

    from kbqa.server.dialects.mcp_tools import make_server

    async with stdio_server() as (incoming, outgoing):  # from here on what others print goes to standard error
        service = await asyncio.to_thread(Service, installation)
        try:
            server = make_server(service, lambda context: (caller, Trace(secrets.token_hex(8), who=caller.name)))
            await server.run(incoming, outgoing, server.create_initialization_options())
        finally:
            service.close()
