"""Dify's dialect: /v1/chat-messages and what its clients need around it. A conversation is kept here, known by its id.

What Dify calls an app is a base: the one that the conversation began with; else the one that `inputs.kb` names; else
the only one that the key opens; else knowledge.default of config.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, BaseModel, Field
from starlette.responses import Response

from kbqa.errors import UnknownFeedback
from kbqa.registry import Conversation, Feedback, Round
from kbqa.registry.conversations import Order
from kbqa.server.auth import Caller, allow
from kbqa.server.dialects.dify_shapes import Answering, DifyError, conversation_fields, message_fields
from kbqa.server.errors import BadRequest
from kbqa.server.feedback import CitedFields, Comment
from kbqa.server.request import ERRORS, EVENTS, BadRequestRoute, Json, Text, base_of, service_of, trace_of
from kbqa.server.service import Service
from kbqa.server.stream import event_stream, last
from kbqa.types import Answer

__all__ = ["PATHS", "router"]

PATHS = ("/v1/chat-messages", "/v1/messages", "/v1/conversations", "/v1/info", "/v1/meta", "/v1/parameters")

HISTORY = 20  # rounds that may say what a question leaves unsaid
LONGEST_INPUTS = 20_000  # characters of JSON
PING = b"event: ping\n\n"

User = Annotated[Text, Field(min_length=1, max_length=200, description="Who sits in front of the program.")]
Id = Annotated[Text, Field(max_length=64)]


def _small(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    text = json.dumps(inputs, ensure_ascii=False)
    if len(text) > LONGEST_INPUTS:
        raise ValueError(f"is larger than {LONGEST_INPUTS} characters")
    small: Mapping[str, Any] = json.loads(text.encode(errors="replace"))  # halves of characters cannot be kept
    return small


class ChatMessageRequest(BaseModel):
    """`inputs.kb` names a base, where the key opens several. `conversation_id` "" or none: a new one."""

    query: Text = Field(examples=["年假有几天？"])
    user: User = Field(examples=["abc-123"])
    inputs: Annotated[dict[str, Any], AfterValidator(_small)] = {}
    response_mode: Literal["blocking", "streaming"] | None = None
    conversation_id: Id | None = None
    files: list[dict[str, Any]] | None = None


class UserRequest(BaseModel):
    user: User


class RenameRequest(UserRequest):
    name: Text | None = None
    auto_generate: bool | None = None


class FeedbackRequest(UserRequest):
    rating: Literal["like", "dislike"] | None = Field(default=None, description="null takes it back.")
    content: Comment | None = None


class ResultFields(BaseModel):
    result: Literal["success"] = "success"


_ERRORS: dict[int | str, dict[str, Any]] = {status: {**said, "model": DifyError} for status, said in ERRORS.items()}
_LOOKING = {status: said for status, said in _ERRORS.items() if status not in (408, 413, 502)}
_STREAM = {
    "description": "The answer; or, streaming, the events message, message_end, error and ping.",
    "content": EVENTS,
}
SUCCESS = {"result": "success"}

router = APIRouter(prefix="/v1", tags=["dify"], route_class=BadRequestRoute)
Reader = Annotated[Caller, Depends(allow("read"))]
AskedBy = Annotated[User, Query()]
Limit = Annotated[int, Query(ge=1, le=100)]


# --- questions --------------------------------------------------------------------------------------------------------


@router.post("/chat-messages", responses={**_ERRORS, 200: _STREAM}, summary="An answer within a conversation")
async def chat(body: ChatMessageRequest, request: Request, caller: Reader) -> Response:
    if body.files:
        raise BadRequest("files cannot be read here: put documents into the base")
    service, trace = service_of(request), trace_of(request)
    known = body.conversation_id or None
    conversation = await (
        service.run(service.conversations.get, known, caller.name, body.user)
        if known
        else service.run(_begin, service, body, caller)
    )
    _check_base(conversation, body, caller)
    history = await service.run(service.conversations.turns, conversation.id, HISTORY) if known else []
    answering = Answering(service.conversations, conversation, body.query)
    trace.at_end.append(service.tasks.add(answering.task, caller.name, body.user, answering.stop))
    feed = await service.answer(trace, conversation.base, body.query, history, through=answering.keep)
    if body.response_mode == "streaming":
        return await event_stream(feed, answering.events, partial(answering.failed, trace), pulse=PING)
    answer = await last(feed, request)
    if not isinstance(answer, Answer):
        raise AssertionError("a stream ends with an Answer")
    return Json(answering.whole(answer))


def _begin(service: Service, body: ChatMessageRequest, caller: Caller) -> Conversation:
    """Not kept yet: that is done with the first word of an answer."""
    given = body.inputs.get("kb")
    base = base_of(service, caller, given if isinstance(given, str) else None, "inputs.kb")
    name = " ".join(body.query.split()) or "?"
    return Conversation(base, caller.name, body.user, name, body.inputs)


def _check_base(conversation: Conversation, body: ChatMessageRequest, caller: Caller) -> None:
    given = body.inputs.get("kb")
    if given not in (None, "", conversation.base):
        raise BadRequest(f"inputs.kb: this conversation is with the base {conversation.base}; begin a new one")
    caller.check("read", conversation.base)


@router.post("/chat-messages/{task_id}/stop", response_model=ResultFields, responses=_ERRORS, summary="Stop an answer")
async def stop(task_id: str, body: UserRequest, request: Request, caller: Reader) -> Response:
    await service_of(request).tasks.stop(task_id, caller.name, body.user)
    return Json(SUCCESS)


# --- conversations ----------------------------------------------------------------------------------------------------


@router.get("/messages", responses=_LOOKING, summary="The rounds of a conversation, the last ones first page")
async def list_messages(
    request: Request,
    caller: Reader,
    user: AskedBy,
    conversation_id: Annotated[Id, Query()],
    first_id: Annotated[Id | None, Query()] = None,
    limit: Limit = 20,
) -> Response:
    return Json(
        await service_of(request).run(_messages, service_of(request), caller, user, conversation_id, first_id, limit)
    )


def _messages(service: Service, caller: Caller, user: str, id: str, first: str | None, limit: int) -> dict[str, Any]:
    conversation = service.conversations.get(id, caller.name, user)
    rounds = service.conversations.rounds(id, caller.name, user, limit + 1, first or None)
    shown = rounds[-limit:]
    ratings = service.feedback.ratings([round.id for round in shown])
    data = [message_fields(conversation, round, ratings.get(round.id)) for round in shown]
    return {"limit": limit, "has_more": len(rounds) > limit, "data": data}


@router.get("/conversations", responses=_LOOKING, summary="The conversations of a user")
async def list_conversations(
    request: Request,
    caller: Reader,
    user: AskedBy,
    last_id: Annotated[Id | None, Query()] = None,
    limit: Limit = 20,
    sort_by: Order = "-updated_at",
) -> Response:
    service = service_of(request)
    found = await service.run(service.conversations.all, caller.name, user, limit + 1, last_id or None, sort_by)
    data = [conversation_fields(one) for one in found[:limit]]
    return Json({"limit": limit, "has_more": len(found) > limit, "data": data})


@router.post("/conversations/{id}/name", responses=_ERRORS, summary="Give a conversation another name")
async def rename(id: str, body: RenameRequest, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    if body.auto_generate:  # its first question, as at the beginning
        first = await service.run(service.conversations.first_question, id, caller.name, body.user)
        name = " ".join(first.split())
    elif body.name and body.name.strip():
        name = body.name.strip()
    else:
        raise BadRequest("name: give one, or auto_generate: true")
    return Json(conversation_fields(await service.run(service.conversations.rename, id, caller.name, body.user, name)))


@router.delete("/conversations/{id}", response_model=ResultFields, responses=_ERRORS, summary="Forget a conversation")
async def forget(id: str, body: UserRequest, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    await service.run(service.conversations.remove, id, caller.name, body.user)
    return Json(SUCCESS)


@router.post(
    "/messages/{id}/feedbacks", response_model=ResultFields, responses=_ERRORS, summary="What an answer was worth"
)
async def rate(id: str, body: FeedbackRequest, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    await service.run(_rate, service, id, body, caller.name)
    return Json(SUCCESS)


def _rate(service: Service, id: str, body: FeedbackRequest, who: str) -> None:
    round, conversation = service.conversations.round(id, who, body.user)
    if body.rating is None:
        service.feedback.remove(id, who)
        return
    given = _feedback(round, conversation, body)
    try:
        service.feedback.change(given)
    except UnknownFeedback:
        service.feedback.add(given)


def _feedback(round: Round, conversation: Conversation, body: FeedbackRequest) -> Feedback:
    return Feedback(
        id=round.id,
        base=conversation.base,
        who=conversation.who,
        user=conversation.user,
        rating="up" if body.rating == "like" else "down",
        question=round.question,
        answer=round.answer,
        comment=body.content or "",
        citations=tuple({name: citation[name] for name in CitedFields.model_fields} for citation in round.citations),
    )


# --- the app ----------------------------------------------------------------------------------------------------------


@router.get("/info", responses=_LOOKING, summary="What the app is called")
async def info(request: Request, caller: Reader) -> Response:
    name = next(iter(caller.bases)) if caller.bases and len(caller.bases) == 1 else "kbqa"
    return Json({"name": name, "description": "", "tags": [], "mode": "chat", "author_name": "kbqa"})


@router.get("/meta", responses=_LOOKING, summary="The icons of its tools; it has none")
async def meta(request: Request, caller: Reader) -> Response:
    return Json({"tool_icons": {}})


@router.get("/parameters", responses=_LOOKING, summary="What the app can do")
async def parameters(request: Request, caller: Reader) -> Response:
    off = {"enabled": False}
    image = {"enabled": False, "number_limits": 0, "transfer_methods": []}
    return Json(
        {
            "opening_statement": "",
            "suggested_questions": [],
            "suggested_questions_after_answer": off,
            "speech_to_text": off,
            "text_to_speech": off,
            "retriever_resource": {"enabled": True},
            "annotation_reply": off,
            "more_like_this": off,
            "sensitive_word_avoidance": off,
            "user_input_form": [],
            "file_upload": {**off, "image": image},
            "system_parameters": {},
        }
    )
