"""Feedback over HTTP: whoever may ask may say what the answer was worth; who looks after the base may read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from kbqa.fields import feedback_fields
from kbqa.registry import Feedback, Rating
from kbqa.server.auth import Caller, allow
from kbqa.server.request import ERRORS, Json, Route, Text, service_of, trace_of

__all__ = ["router"]

LONGEST_QUESTION, LONGEST_ANSWER, LONGEST_COMMENT, LONGEST_QUOTE = 10_000, 100_000, 10_000, 20_000
MOST_CITED = 200

# Lengths stand here and not in the models: there they would be looked at before halves of characters are mended.
Asked = Annotated[Text, Field(min_length=1, max_length=LONGEST_QUESTION)]
Told = Annotated[Text, Field(max_length=LONGEST_ANSWER)]
Comment = Annotated[Text, Field(max_length=LONGEST_COMMENT)]
Name = Annotated[Text, Field(max_length=2_000)]


class CitedFields(BaseModel):
    """As in `citations` of an answer; what else it holds is left out."""

    marker: int = Field(default=0, ge=0, le=10**6)
    source: Name
    page: int | None = Field(default=None, ge=0, le=10**9)
    heading: Name = ""
    quote: Annotated[Text, Field(max_length=LONGEST_QUOTE)] = ""
    span: tuple[Annotated[int, Field(ge=0, le=10**12)], Annotated[int, Field(ge=0, le=10**12)]] = (0, 0)


class FeedbackRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Asked = Field(examples=["年假有几天？"])
    answer: Told = Field(examples=["每年享有10天年假。"])
    rating: Rating
    comment: Comment = ""
    citations: list[CitedFields] = Field(default=[], max_length=MOST_CITED)
    id: Annotated[Text, Field(max_length=64)] | None = Field(
        default=None,
        description="Of your earlier feedback that this one replaces.",
    )


class FeedbackIdFields(BaseModel):
    id: str


_LINES: dict[int | str, dict[str, Any]] = {
    **{status: said for status, said in ERRORS.items() if status not in (400, 408, 413, 502)},
    200: {
        "description": "A line of JSON each, as `kbqa eval answers FILE.jsonl` takes them where the rating is up.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    },
}

router = APIRouter(prefix="/api/v1", tags=["native"], route_class=Route)


@router.post(
    "/kb/{kb}/feedback",
    status_code=201,
    response_model=FeedbackIdFields,
    responses={**ERRORS, 200: {"model": FeedbackIdFields, "description": "Earlier feedback was changed."}},
    summary="What an answer was worth",
)
async def give(
    kb: str, body: FeedbackRequest, request: Request, caller: Annotated[Caller, Depends(allow("read"))]
) -> Response:
    service, trace = service_of(request), trace_of(request)
    trace.base = kb
    await service.run(service.store, kb)  # UnknownKnowledgeBase
    feedback = Feedback(
        base=service.installation.name(kb),
        who=caller.name,
        rating=body.rating,
        question=body.question,
        answer=body.answer,
        comment=body.comment,
        citations=tuple(citation.model_dump(mode="json") for citation in body.citations),
    )
    if body.id is not None:
        feedback = replace(feedback, id=body.id)
    await service.run(service.feedback.add if body.id is None else service.feedback.change, feedback)
    return Json({"id": feedback.id}, 201 if body.id is None else 200)


@router.get("/kb/{kb}/feedback", responses=_LINES, response_class=Response, summary="The feedback, as lines of JSON")
async def export(
    kb: str,
    request: Request,
    caller: Annotated[Caller, Depends(allow("write"))],
    rating: Annotated[Rating | None, Query(description="Only these.")] = None,
    since: Annotated[datetime | None, Query(description="Only what was given from then on.")] = None,
) -> Response:
    service = service_of(request)
    trace_of(request).base = kb
    await service.run(service.store, kb)
    found = service.feedback.all(service.installation.name(kb), rating, None if since is None else _seconds(since))
    return StreamingResponse(_lines(found), media_type="application/x-ndjson")


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _lines(found: Iterable[Feedback]) -> Iterator[bytes]:
    for feedback in found:
        yield json.dumps(feedback_fields(feedback), ensure_ascii=False).encode(errors="replace") + b"\n"
