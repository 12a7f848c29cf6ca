"""Dify's external knowledge: POST /retrieval gives a Dify workflow the passages of a base, scored."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, BeforeValidator, Field
from starlette.responses import Response

from kbqa.errors import UnknownKnowledgeBase
from kbqa.server.auth import Caller, allow
from kbqa.server.dialects.conditions import Condition, Conditions, metadata_of
from kbqa.server.errors import NoKey, Problem, Unauthorized
from kbqa.server.request import ERRORS, BadRequestRoute, Json, Text, service_of, trace_of
from kbqa.server.service import Service
from kbqa.types import Hit

__all__ = ["knowledge_shape", "router"]

NO_KEY, WRONG_KEY, NO_KNOWLEDGE = 1001, 1002, 2001  # as Dify numbers them; else the code is the status
MOST_CONDITIONS = 100

Scalar = Text | int | float


class ConditionFields(BaseModel):
    name: Text | list[Text] = Field(description="A field of `metadata`, or several of which one is enough.")
    comparison_operator: Text
    value: Scalar | list[Scalar] | None = None


class MetadataCondition(BaseModel):
    logical_operator: Literal["and", "or"] | None = "and"
    conditions: list[ConditionFields] | None = Field(default=None, max_length=MOST_CONDITIONS)


class RetrievalSetting(BaseModel):
    top_k: int | None = Field(default=None, ge=1, le=1000, description="retrieval.k of config.yaml unless given.")
    score_threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)


class RetrievalRequest(BaseModel):
    knowledge_id: Text = Field(description="The name of a base.", examples=["default"])
    query: Text = Field(examples=["年假有几天？"])
    retrieval_setting: Annotated[RetrievalSetting, BeforeValidator(lambda value: {} if value is None else value)] = (
        RetrievalSetting()
    )
    metadata_condition: MetadataCondition | None = None


class RecordFields(BaseModel):
    content: str
    score: float
    title: str
    metadata: dict[str, Any]


class RecordsFields(BaseModel):
    """`confidence` that the records answer the query, in [0, 1]; Dify does not look at it."""

    records: list[RecordFields]
    confidence: float


class KnowledgeError(BaseModel):
    error_code: int = Field(description="1001 no key, 1002 a wrong one, 2001 no such base; else the status.")
    error_msg: str


def knowledge_shape(problem: Problem) -> dict[str, Any]:
    code = problem.status
    if isinstance(problem.error, NoKey):
        code = NO_KEY
    elif problem.status in (401, 403):
        code = WRONG_KEY
    elif problem.type == UnknownKnowledgeBase.__name__:
        code = NO_KNOWLEDGE
    return {"error_code": code, "error_msg": problem.message}


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**said, "model": KnowledgeError} for status, said in ERRORS.items()
}


class _Route(BadRequestRoute):
    """Dify tries a key when it is entered, and takes it for a right one unless the status is 403."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthorized as error:
                error.status = 403
                raise

        return handled


router = APIRouter(tags=["dify"], route_class=_Route)


@router.post("/retrieval", response_model=RecordsFields, responses=_ERRORS, summary="Dify's external knowledge")
async def retrieve(
    body: RetrievalRequest, request: Request, caller: Annotated[Caller, Depends(allow("read"))]
) -> Response:
    service, setting = service_of(request), body.retrieval_setting
    caller.check("read", body.knowledge_id)
    conditions = _conditions(body.metadata_condition)
    found = await service.search(
        trace_of(request), body.knowledge_id, body.query, setting.top_k, conditions.among if conditions else None
    )
    hits = [hit for hit in found.hits if hit.score >= (setting.score_threshold or 0)]
    return Json(
        {"records": await service.run(_records, service, body.knowledge_id, hits), "confidence": found.confidence}
    )


def _conditions(given: MetadataCondition | None) -> Conditions | None:
    if given is None or not given.conditions:
        return None
    parts = (
        Condition(tuple([it.name] if isinstance(it.name, str) else it.name), it.comparison_operator, it.value)
        for it in given.conditions
    )
    return Conditions(tuple(parts), given.logical_operator or "and")


def _records(service: Service, base: str, hits: list[Hit]) -> list[dict[str, Any]]:
    store = service.store(base)
    documents = {source: store.document(source) for source in {hit.chunk.source for hit in hits}}
    return [
        {
            "content": hit.chunk.passage,
            "score": hit.score,
            "title": hit.chunk.title or hit.chunk.source,
            "metadata": metadata_of(hit.chunk, documents[hit.chunk.source]),
        }
        for hit in hits
    ]
