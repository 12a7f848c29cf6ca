"""The OpenAI dialect: /v1. The model `kb:<name>` answers from that base, `chatglm` is whatever model there is, bare,
and `chatglm:<name>` the same with an adapter of that name beside it.

What a request asks for and cannot be given is refused, never left out in silence; what changes no answer (`user`,
`store`, `metadata`, ...) is let through.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from kbqa.server.auth import Caller, allow
from kbqa.server.dialects import openai_shapes as shapes
from kbqa.server.dialects.openai_shapes import BARE, BASE, ChatRequest, EmbeddingsRequest, OpenAIError, openai_shape
from kbqa.server.errors import BadRequest, RequestError
from kbqa.server.request import ERRORS, EVENTS, BadRequestRoute, Json, service_of, trace_of
from kbqa.server.service import Service
from kbqa.server.stream import event_stream, last
from kbqa.types import Adaptable

__all__ = ["openai_shape", "router"]


class UnknownModel(RequestError):
    status = 404


_ERRORS: dict[int | str, dict[str, Any]] = {status: {**said, "model": OpenAIError} for status, said in ERRORS.items()}
_LOOKING = {status: said for status, said in _ERRORS.items() if status not in (400, 408, 413, 502)}

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BadRequestRoute)
Reader = Annotated[Caller, Depends(allow("read"))]


# --- models -----------------------------------------------------------------------------------------------------------


@router.get("/models", responses=_LOOKING, summary="The models that you may use")
async def list_models(request: Request, caller: Reader) -> Response:
    service = service_of(request)
    names = [name for name in await service.run(service.installation.bases) if caller.sees(name)]
    tuned = await service.run(_tuned, service)
    bare = dict.fromkeys((BARE, service.generator.name, *tuned)) if service.writes else ()
    return Json({"object": "list", "data": [_model(name) for name in (*bare, *(BASE + name for name in names))]})


@router.get("/models/{model:path}", responses=_LOOKING, summary="Whether there is this model")
async def show_model(model: str, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    if model.startswith(BASE):
        base = _base_of(model, caller)
        await service.run(service.show, base)
    elif model != service.installation.embedder.name:
        await _adapter(model, service)
    return Json(_model(model))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "kbqa"}


def _base_of(model: str, caller: Caller) -> str:
    """The base that the model answers from; Forbidden when it is not the caller's to ask."""
    base = model.removeprefix(BASE)
    caller.check("read", base)
    return base


def _tuned(service: Service) -> dict[str, str]:
    """The names under which the model can be asked with an adapter -> the adapter."""
    generator = service.generator
    return {f"{BARE}:{name}": name for name in generator.adapters()} if isinstance(generator, Adaptable) else {}


async def _adapter(model: str, service: Service) -> str | None:
    """With which adapter the model named so is asked; UnknownModel when there is none of that name."""
    if not service.writes:
        raise UnknownModel(
            f"there is no model {model!r}: here answers are quoted from documents, by kb:<name of a base>; to talk to "
            "a model itself, name one in config.yaml (generator.kind: chatglm, openai or transformers)"
        )
    if model in (BARE, service.generator.name):
        return None
    tuned = await service.run(_tuned, service)
    if model not in tuned:
        known = ", ".join((BARE, *tuned))
        raise UnknownModel(f"there is no model {model!r}; there are {known} and kb:<name of a base> (GET /v1/models)")
    return tuned[model]


# --- chat -------------------------------------------------------------------------------------------------------------

_STREAM = {
    "description": "A chat.completion; or, with `stream`, chat.completion.chunk objects as events, then [DONE].",
    "content": EVENTS,
}


@router.post("/chat/completions", responses={**_ERRORS, 200: _STREAM}, summary="What the model, or a base, answers")
async def chat(body: ChatRequest, request: Request, caller: Reader) -> Response:
    shapes.check_able(body)
    service, trace = service_of(request), trace_of(request)
    reply = shapes.Reply(body.model, trace.id, usage=bool(body.stream_options and body.stream_options.include_usage))
    if body.model.startswith(BASE):
        base = _base_of(body.model, caller)
        question, history = shapes.asked(body)
        answering = await service.answer(trace, base, question, history, shapes.options(body))
        if body.stream:
            return await event_stream(answering, shapes.AnswerEvents(reply), shapes.failed(trace), shapes.DONE)
        return Json(reply.whole(*shapes.answered(await last(answering, request))))
    adapter = await _adapter(body.model, service)
    writing = await service.write(trace, replace(shapes.generation(body), adapter=adapter))
    if body.stream:
        return await event_stream(writing, shapes.WrittenEvents(reply), shapes.failed(trace), shapes.DONE)
    return Json(reply.whole(*shapes.written(await last(writing, request))))


# --- embeddings -------------------------------------------------------------------------------------------------------


@router.post("/embeddings", responses=_ERRORS, summary="Vectors of texts")
async def embed(body: EmbeddingsRequest, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    embedder = service.installation.embedder
    if body.model != embedder.name:
        raise UnknownModel(f"there is no embedding model {body.model!r} here; there is {embedder.name}")
    if body.dimensions not in (None, embedder.dim):
        raise BadRequest(f"dimensions is {body.dimensions}; {embedder.name} has {embedder.dim} and no others")
    vectors = await service.run(embedder.embed_passages, shapes.texts(body.input))
    content = await service.run(shapes.embedded, body, vectors)  # in a thread: it may be millions of digits
    return Response(content, media_type="application/json")
