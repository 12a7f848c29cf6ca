"""The application: the service behind its dialects. What a dialect adds here is its router and, perhaps, its errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from kbqa import __version__
from kbqa.errors import KbqaError
from kbqa.server import documents, feedback, jobs, native, page, passages, status
from kbqa.server.apipage import api_page
from kbqa.server.auth import allow
from kbqa.server.dialects import chatglm, dify, dify_knowledge, mcp, openai
from kbqa.server.dialects.dify_shapes import dify_shape
from kbqa.server.errors import NotInstalled, Shapes, problem_of, shaped
from kbqa.server.front import Front
from kbqa.server.logs import log
from kbqa.server.metrics import CONTENT_TYPE
from kbqa.server.request import Json
from kbqa.server.service import Service

__all__ = ["create_app"]

ROUTERS = (
    native.router,
    documents.router,
    jobs.router,
    passages.router,
    feedback.router,
    status.router,
    openai.router,
    chatglm.router,
    dify.router,
    dify_knowledge.router,
    mcp.router,
    page.router,
)

# How errors look where a dialect has a shape of its own, by how the path begins.
SHAPES: Shapes = {
    **dict.fromkeys(("/v1/models", "/v1/chat/completions", "/v1/embeddings"), openai.openai_shape),
    **dict.fromkeys(dify.PATHS, dify_shape),
    "/retrieval": dify_knowledge.knowledge_shape,
}


def create_app(service: Service) -> FastAPI:
    """Closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.runner.start()
        threading.Thread(target=service.warm, name="kbqa-warm", daemon=True).start()
        app.state.mcp = mcp.Hall(service)
        try:
            async with app.state.mcp.kept():
                yield
        finally:
            service.close()

    # FastAPI's own pages of documentation load their scripts from a CDN; /docs here is ours.
    app = FastAPI(
        title="kbqa",
        version=__version__,
        summary="Answers from your own documents, with citations.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    _operations(app, service)
    for kind in (KbqaError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _say)
    app.add_middleware(Front, service=service, shapes=SHAPES)
    return app


async def _say(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    request.state.trace.error = problem.type
    if problem.status >= 500 and not isinstance(error, NotInstalled):  # which is no fault, whoever asks for it
        level = logging.WARNING if "Retry-After" in problem.headers else logging.ERROR
        log.log(level, f"{problem.type} in request {request.state.trace.id}: {error}")
    return Json(shaped(problem, request.url.path, SHAPES), problem.status, dict(problem.headers))


def _operations(app: FastAPI, service: Service) -> None:
    """What those who run the service ask."""

    @app.get("/healthz", tags=["operation"], summary="Whether the process lives")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__}

    @app.get("/readyz", tags=["operation"], summary="Whether questions can be answered", responses=native.UNREADY)
    async def ready() -> dict[str, Any]:
        await service.run(service.check_ready)
        return {"status": "ready"}

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Figures for Prometheus",
        dependencies=[Depends(allow("read"))],
        responses=native.FIGURES,
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(await service.run(service.metrics.render), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(
            api_page(app.openapi()),
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )
