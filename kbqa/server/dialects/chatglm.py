"""The ChatGLM dialect: POST / as ChatGLM-6B's api.py, for the programs that were written for it.

Two things differ. Temperature 0 is heeded, where the original takes 0.95 for it. And `max_length` is that of the
answer: the prompt, which the original counts too, is what the model's context has room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from kbqa.server.auth import Caller, allow
from kbqa.server.dialects.cited import plain, whole_text
from kbqa.server.errors import RequestError
from kbqa.server.request import ERRORS, Json, Route, Text, service_of, trace_of
from kbqa.server.service import Written
from kbqa.server.stream import last
from kbqa.types import Answer, GenerationRequest, Message, Turn

__all__ = ["router"]

MAX_LENGTH, TOP_P, TEMPERATURE = 2048, 0.7, 0.95  # as in api.py


class NoModel(RequestError):
    status = 404


class PromptRequest(BaseModel):
    prompt: Text = Field(examples=["你好"])
    history: list[tuple[Text, Text]] | None = Field(default=None, max_length=1000, examples=[[]])
    max_length: int | None = Field(default=None, ge=1, le=1_000_000, description="Tokens of the answer; 2048.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="0.7")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0.95; 0: no chance in it.")


class ReplyFields(BaseModel):
    response: str
    history: list[tuple[str, str]]
    status: int
    time: str


router = APIRouter(tags=["chatglm"], route_class=Route)
Reader = Annotated[Caller, Depends(allow("read"))]


@router.post("/", response_model=ReplyFields, responses=ERRORS, summary="ChatGLM-6B's api.py")
async def reply(body: PromptRequest, request: Request, caller: Reader) -> Response:
    base = service_of(request).config.chatglm_knowledge
    history = body.history or []
    said = await (_spoken(body, history, request) if base is None else _answered(base, body, history, request, caller))
    told = [*history, (body.prompt, said)]
    return Json({"response": said, "history": told, "status": 200, "time": f"{datetime.now():%Y-%m-%d %H:%M:%S}"})


async def _answered(base: str, body: PromptRequest, history: Sequence[Turn], request: Request, caller: Caller) -> str:
    """From the documents. What the request does not say of the sampling is config.yaml's to say."""
    caller.check("read", base)
    before = [(asked, plain(said)) for asked, said in history]
    given = {"max_tokens": body.max_length, "top_p": body.top_p, "temperature": body.temperature}
    feed = await service_of(request).answer(trace_of(request), base, body.prompt, before, given)
    answer = await last(feed, request)
    if not isinstance(answer, Answer):
        raise AssertionError("a stream ends with an Answer")
    return whole_text(answer)


async def _spoken(body: PromptRequest, history: Sequence[Turn], request: Request) -> str:
    """By the model alone."""
    service = service_of(request)
    if not service.writes:
        raise NoModel(
            "here answers are quoted from documents, and no base is named for this address: set "
            "server.chatglm_knowledge: <base> in config.yaml, or let a model write (generator.kind: chatglm)"
        )
    feed = await service.write(trace_of(request), _generation(body, history))
    written = await last(feed, request)
    if not isinstance(written, Written):
        raise AssertionError("what is written ends with all of it")
    return written.text


def _generation(body: PromptRequest, history: Sequence[Turn]) -> GenerationRequest:
    turns = [(Message("user", asked), Message("assistant", said)) for asked, said in history]
    return GenerationRequest(
        messages=(*(message for turn in turns for message in turn), Message("user", body.prompt)),
        max_tokens=_or(body.max_length, MAX_LENGTH),
        top_p=_or(body.top_p, TOP_P),
        temperature=_or(body.temperature, TEMPERATURE),
    )


def _or(given: Any, usual: Any) -> Any:
    """0 is given too."""
    return usual if given is None else given
