"""The native API: /api/v1. Its answers have the fields that `--json` has on the command line."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from kbqa.fields import answer_fields, citation_fields, search_fields, sentence_fields
from kbqa.server.auth import Caller, allow
from kbqa.server.errors import native_shape, problem_of
from kbqa.server.logs import Trace, log
from kbqa.server.request import ERRORS, EVENTS, Json, Route, Text, service_of, trace_of
from kbqa.server.service import Part
from kbqa.server.stream import event, event_stream, last
from kbqa.types import Answer, Generator, Piece, Queued, Sentence

__all__ = ["FIGURES", "UNREADY", "router"]


class AskRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text = Field(examples=["年假有几天？"])
    history: list[tuple[Text, Text]] = Field(default=[], max_length=100, description="Earlier questions and answers.")
    stream: bool = Field(default=False, description="Answer with Server-Sent Events.")


class SearchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text = Field(examples=["年假"])
    k: int = Field(default=10, ge=1, le=1000, description="How many passages.")


class CitationFields(BaseModel):
    """`quote` is the document's text at `span`."""

    marker: int
    source: str
    page: int | None
    heading: str
    quote: str
    span: tuple[int, int]


class SentenceFields(BaseModel):
    text: str
    verdict: str = Field(description="supported, partly or not: whether the documents bear it out")
    markers: list[int]


class AnswerFields(BaseModel):
    """`grounded` false: the documents do not tell."""

    question: str
    answer: str
    grounded: bool
    confidence: float
    citations: list[CitationFields]
    sentences: list[SentenceFields]
    seconds: float


class HitFields(BaseModel):
    rank: int
    score: float
    source: str
    page: int | None
    heading: str
    span: tuple[int, int]
    text: str


class SearchFields(BaseModel):
    question: str
    confidence: float
    hits: list[HitFields]


class BaseFields(BaseModel):
    """The counts are null where a base cannot be opened; `error` says why, `error_type` in a word."""

    name: str
    built: bool
    documents: int | None
    failed: int | None
    chunks: int | None
    bytes: int | None
    error: str | None = None
    error_type: str | None = None


class BasesFields(BaseModel):
    bases: list[BaseFields]


class PassportFields(BaseModel):
    """What the base was built with."""

    embedder: str
    embedder_fingerprint: str
    dim: int
    splitter: str
    analyzer: str
    format: int


class WholeBaseFields(BaseFields):
    passport: PassportFields


_WITHOUT_BODY = {status: said for status, said in ERRORS.items() if status not in (400, 408, 413, 502)}
UNREADY: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (500, 503)}
FIGURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    **{status: ERRORS[status] for status in (401, 403, 429, 503)},
}

router = APIRouter(prefix="/api/v1", tags=["native"], route_class=Route)
Reader = Annotated[Caller, Depends(allow("read"))]
STREAM = {
    "description": "The answer; or, with `stream`, the events token, citation, sentence, done and error.",
    "content": EVENTS,
}


@router.get("/kb", response_model=BasesFields, responses=_WITHOUT_BODY, summary="The knowledge bases that you may use")
async def list_bases(request: Request, caller: Reader) -> Response:
    service = service_of(request)
    return Json({"bases": await service.run(service.bases, caller.sees)})


@router.get("/kb/{kb}", response_model=WholeBaseFields, responses=_WITHOUT_BODY, summary="What a base holds")
async def show_base(kb: str, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    trace_of(request).base = kb
    return Json(await service.run(service.show, kb))


@router.post("/kb/{kb}/search", response_model=SearchFields, responses=ERRORS, summary="The passages that are found")
async def search(kb: str, body: SearchRequest, request: Request, caller: Reader) -> Response:
    found = await service_of(request).search(trace_of(request), kb, body.question, body.k)
    return Json(search_fields(body.question, found))


@router.post(
    "/kb/{kb}/ask", response_model=AnswerFields, responses={**ERRORS, 200: STREAM}, summary="An answer with citations"
)
async def ask(kb: str, body: AskRequest, request: Request, caller: Reader) -> Response:
    trace = trace_of(request)
    feed = await service_of(request).answer(trace, kb, body.question, body.history)
    if body.stream:
        service = service_of(request)
        return await event_stream(
            feed, _Events(), lambda error: _failed(trace, error), waiting=lambda: _waiting(service.generator)
        )
    answer = await last(feed, request)
    if not isinstance(answer, Answer):
        raise AssertionError("a stream ends with an Answer")
    return Json(answer_fields(answer))


class _Events:
    """The parts of an answer as events. A citation comes before the first sentence that it belongs to."""

    def __init__(self) -> None:
        self._cited: set[int] = set()

    def __call__(self, part: Part) -> bytes:
        match part:
            case Piece():
                return event("token", {"text": part.text})
            case Sentence():
                new = [citation for citation in part.citations if citation.marker not in self._cited]
                self._cited.update(citation.marker for citation in new)
                cited = b"".join(event("citation", citation_fields(citation)) for citation in new)
                return cited + event("sentence", {**sentence_fields(part), "span": list(part.span)})
            case Answer():
                return event("done", answer_fields(part))


def _waiting(generator: Generator) -> bytes:
    """How many it is worked for, and how many are in line, where the model is in this process."""
    if not isinstance(generator, Queued):
        return b": waiting\n\n"
    load = generator.load
    return event("waiting", {"running": load.running, "waiting": load.waiting})


def _failed(trace: Trace, error: BaseException) -> bytes:
    problem = problem_of(error)
    trace.error = problem.type
    if problem.type == "InternalError":
        log.error(f"{type(error).__name__} in request {trace.id}", exc_info=error)
    return event("error", native_shape(problem))
