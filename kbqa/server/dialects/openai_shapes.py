"""What the OpenAI dialect takes and gives: requests and what they ask of a generator, answers as OpenAI words them.

Knows nothing of routes, and of the service only what it yields.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kbqa.fields import citation_fields
from kbqa.prompt import checked
from kbqa.server.dialects.cited import Cited, plain, whole_text
from kbqa.server.errors import BadRequest, Problem, problem_of
from kbqa.server.logs import Trace, log
from kbqa.server.request import Text
from kbqa.server.service import Part, Written
from kbqa.types import Answer, GenerationRequest, Message, Piece, Role, Turn

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = [
    "BARE",
    "BASE",
    "DONE",
    "AnswerEvents",
    "ChatRequest",
    "EmbeddingsRequest",
    "OpenAIError",
    "Reply",
    "WrittenEvents",
    "answered",
    "asked",
    "check_able",
    "embedded",
    "failed",
    "generation",
    "openai_shape",
    "options",
    "texts",
    "written",
]

T = TypeVar("T")
BARE = "chatglm"  # the bare model, whatever its name is
BASE = "kb:"  # what the name of a base has before it as a model's
MOST_TEXTS = 2048  # to be embedded with one request, as at OpenAI
LARGEST = 2**63  # of a seed

# Fields that would change the answer, and the values that they may have because they ask for nothing.
UNABLE: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
}


# --- what comes in ----------------------------------------------------------------------------------------------------


class CallFunction(BaseModel):
    name: Text
    arguments: Text = Field(description="JSON")


class Call(BaseModel):
    id: Text
    type: Literal["function"] = "function"
    function: CallFunction


class ChatMessage(BaseModel):
    """`content` may be a list of parts of the type text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[dict[str, Any]] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: Text | None = None


class StreamOptions(BaseModel):
    include_usage: bool | None = None


Strings = Annotated[
    list[Annotated[Text, Field(min_length=1)]],
    Field(max_length=16),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


class ChatRequest(BaseModel):
    """`model` is `kb:<name>` to be answered from that base with citations, or `chatglm` for the model itself."""

    model_config = ConfigDict(extra="allow")

    model: Text = Field(examples=["kb:default"])
    messages: list[ChatMessage] = Field(min_length=1, examples=[[{"role": "user", "content": "年假有几天？"}]])
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="0: no chance in it")
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    stop: Strings | None = None
    seed: int | None = Field(default=None, ge=-LARGEST, lt=LARGEST)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class EmbeddingsRequest(BaseModel):
    """`model` is the embedder of config.yaml by its name."""

    model: Text = Field(examples=["static"])
    input: Any = Field(description="A text, or a list of up to 2048.", examples=[["年假", "病假"]])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class OpenAIErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    error: OpenAIErrorFields


# --- errors -----------------------------------------------------------------------------------------------------------

_CODES = {
    "UnknownModel": "model_not_found",
    "UnknownKnowledgeBase": "model_not_found",
    "Unauthorized": "invalid_api_key",
    "TooManyRequests": "rate_limit_exceeded",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_shape(problem: Problem) -> dict[str, Any]:
    code = _CODES.get(problem.type)
    kind = _TYPES.get(problem.status) or ("server_error" if problem.status >= 500 else "invalid_request_error")
    param = "model" if code == "model_not_found" else None
    return {"error": {"message": problem.message, "type": kind, "param": param, "code": code or problem.type}}


# --- what a request asks for ----------------------------------------------------------------------------------------


def check_able(body: ChatRequest) -> None:
    """BadRequest for what would be left out."""
    for name, value in (body.model_extra or {}).items():
        if name in UNABLE and value is not None and value not in UNABLE[name]:
            raise BadRequest(f"{name} is {_short(value)}: this service cannot do that; leave it out")
    if isinstance(body.tool_choice, dict) or body.tool_choice == "required":
        raise BadRequest("tool_choice can be auto or none: this service cannot make the model call a tool")
    wanted = _schema(body.response_format) is not None
    if wanted and body.tools and body.tool_choice != "none":
        raise BadRequest("tools and response_format exclude each other: an answer that is held to JSON calls no tool")
    if body.model.startswith(BASE) and (wanted or body.tools or any(said.role == "tool" for said in body.messages)):
        raise BadRequest(
            f"{body.model} answers in sentences from its documents; tools and response_format are for {BARE}, the "
            "model itself"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _schema(wanted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    match wanted:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return _clean(schema)
    raise BadRequest(
        'response_format must be {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}, '
        '{"type": "json_object"} or {"type": "text"}'
    )


def options(body: ChatRequest) -> dict[str, Any]:
    """Fields of a GenerationRequest. By top_p 0 only the likeliest word is left, as by temperature 0."""
    return {
        "temperature": 0.0 if body.top_p == 0 else body.temperature,
        "top_p": body.top_p or None,
        "top_k": body.top_k,
        "repetition_penalty": body.repetition_penalty,
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "stop": tuple(body.stop or ()),
        "seed": body.seed,
    }


def generation(body: ChatRequest) -> GenerationRequest:
    return GenerationRequest(
        messages=_conversation(body.messages),
        tools=() if body.tool_choice == "none" else tuple(_tool(tool) for tool in body.tools or ()),
        response_schema=_schema(body.response_format),
        **options(body),
    )


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    match tool:
        case {"type": "function", "function": {"name": str(name)}} if name:
            return _clean(tool)
        case {"type": str(kind)} if kind != "function" and len(tool) == 1:  # built into a model: GLM-4's python
            return {"type": kind}
    raise BadRequest(
        f'a tool must be {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}, not {_short(tool)}'
    )


def _clean(value: T) -> T:
    """JSON without halves of characters, which no tokenizer knows."""
    text = json.dumps(value, ensure_ascii=False)
    cleaned: T = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return cleaned


# --- conversations ----------------------------------------------------------------------------------------------------


def _conversation(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """As a generator takes them; the error tells which message cannot be taken, counted from 1, and why."""
    ours = tuple(_message(number, message) for number, message in enumerate(messages, 1))
    return checked(ours)


def _message(number: int, message: ChatMessage) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    if message.content is None and not message.tool_calls:
        raise BadRequest(f"message {number}, the {message.role}'s, has no content")
    return Message(
        role,
        _text(number, message.content),
        tuple(_call(number, call) for call in message.tool_calls or ()),
        message.tool_call_id or "",
    )


def _text(number: int, content: str | list[dict[str, Any]] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = []
    for part in content:
        if part.get("type") not in ("text", "refusal") or not isinstance(text := part.get(part["type"]), str):
            raise BadRequest(f"message {number} has content of the type {part.get('type')!r}; only text can be read")
        texts.append(text)
    return _clean("".join(texts))


def _call(number: int, call: Call) -> Mapping[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest(f"message {number} calls {call.function.name} with arguments that are no JSON object")
    return {"id": call.id, "name": call.function.name, "arguments": arguments}


def asked(body: ChatRequest) -> tuple[str, list[Turn]]:
    """The question to a base, and what was asked and answered before it.

    Who puts the question to the model, and in which words, is config.yaml's to say: what a system message says of that
    has no place here.
    """
    messages = [message for message in _conversation(body.messages) if message.role != "system"]
    turns: list[list[str]] = []
    for message in messages:
        if message.role == "user" and (not turns or turns[-1][1]):
            turns.append([message.content, ""])
        elif message.role == "user":
            turns[-1][0] += f"\n{message.content}"
        elif turns:
            turns[-1][1] += plain(message.content)
    (question, _), history = turns.pop(), turns
    return question, [(asked, said) for asked, said in history]


# --- what goes out ----------------------------------------------------------------------------------------------------

DONE = b"data: [DONE]\n\n"
Finish = Literal["stop", "length", "tool_calls"]


class Reply:
    """Completions and their chunks, which share what names them."""

    def __init__(self, model: str, id: str, usage: bool) -> None:
        self._common = {"id": f"chatcmpl-{id}", "created": int(time.time()), "model": model}
        self._usage = usage
        self._begun = False

    def whole(self, message: Mapping[str, Any], finish: Finish, usage: Mapping[str, int]) -> dict[str, Any]:
        said = {"role": "assistant", "refusal": None, **message}
        choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(self, delta: Mapping[str, Any], finish: Finish | None = None) -> bytes:
        role = {} if self._begun else {"role": "assistant", "content": ""}
        self._begun = True
        choice = {"index": 0, "delta": {**role, **delta}, "logprobs": None, "finish_reason": finish}
        return self._event([choice], None)

    def end(self, delta: Mapping[str, Any], finish: Finish, usage: Mapping[str, int]) -> bytes:
        return self.chunk(delta, finish) + (self._event([], usage) if self._usage else b"")

    def _event(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, int] | None) -> bytes:
        counted = {"usage": usage} if self._usage else {}
        return _event({**self._common, "object": "chat.completion.chunk", "choices": choices, **counted})


def _event(data: Any) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode(errors="replace")


def _usage(of: Answer | Written) -> dict[str, int]:
    return {
        "prompt_tokens": of.prompt_tokens,
        "completion_tokens": of.completion_tokens,
        "total_tokens": of.prompt_tokens + of.completion_tokens,
    }


def answered(answer: Part) -> tuple[dict[str, Any], Finish, dict[str, int]]:
    if not isinstance(answer, Answer):
        raise AssertionError("a stream ends with an Answer")
    cited = [citation_fields(citation) for citation in answer.citations]
    message = {"content": whole_text(answer), "citations": cited, "grounded": answer.grounded}
    return message, "length" if answer.cut_off else "stop", _usage(answer)


def written(written: Piece | Written) -> tuple[dict[str, Any], Finish, dict[str, int]]:
    if not isinstance(written, Written):
        raise AssertionError("what is written ends with all of it")
    message: dict[str, Any] = {"content": written.text}
    if written.calls:
        message = {"content": written.text or None, "tool_calls": [_called(call) for call in written.calls]}
    return message, written.finish, _usage(written)


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


class AnswerEvents:
    """The parts of an answer as chunks: a sentence each, then where they stand."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._cited = Cited()
        self._begun = False

    def __call__(self, part: Part) -> bytes:
        text = self._cited.add(part)
        if isinstance(part, Answer):
            _, finish, usage = answered(part)
            cited = [citation_fields(citation) for citation in self._cited.citations]
            said = self._reply.chunk({"content": text}) if text else b""
            return said + self._reply.end({"citations": cited, "grounded": part.grounded}, finish, usage)
        if text or not self._begun:  # the first one says that an answer is on its way
            self._begun = True
            return self._reply.chunk({"content": text})
        return b""


class WrittenEvents:
    """What a model says as chunks; a tool call is one."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._calls = 0

    def __call__(self, part: Piece | Written) -> bytes:
        if isinstance(part, Written):
            return self._reply.end({}, part.finish, _usage(part))
        return b"".join(self._chunks(part))

    def _chunks(self, piece: Piece) -> Iterator[bytes]:
        if piece.text:
            yield self._reply.chunk({"content": piece.text})
        if piece.tool_call:
            yield self._reply.chunk({"tool_calls": [{"index": self._calls, **_called(piece.tool_call)}]})
            self._calls += 1


def failed(trace: Trace) -> Callable[[BaseException], bytes]:
    def event(error: BaseException) -> bytes:
        problem = problem_of(error)
        trace.error = problem.type
        if problem.type == "InternalError":
            log.error(f"{type(error).__name__} in request {trace.id}", exc_info=error)
        return _event(openai_shape(problem))

    return event


# --- embeddings -------------------------------------------------------------------------------------------------------


def texts(given: Any) -> list[str]:
    texts = given if isinstance(given, list) else [given]
    if not texts or len(texts) > MOST_TEXTS:
        raise BadRequest(f"input has {len(texts)} texts; it must have 1 to {MOST_TEXTS}")
    if any(isinstance(text, int | list) for text in texts):
        raise BadRequest(
            "input has token numbers, and those of another model say nothing here: send text (LangChain's "
            "OpenAIEmbeddings does with check_embedding_ctx_length=False)"
        )
    if not all(isinstance(text, str) and text for text in texts):
        raise BadRequest("input must be text that is not empty, or a list of such texts")
    return [_clean(text) for text in texts]


def embedded(body: EmbeddingsRequest, vectors: Vectors) -> bytes:
    """The answer. Its vectors are written one by one, because Python does nothing else while it makes one long text."""
    written = _base64 if body.encoding_format == "base64" else _numbers
    rows = ({"object": "embedding", "index": at, "embedding": written(row)} for at, row in enumerate(vectors))
    # How many tokens these were only the embedder knows, and it does not tell.
    rest = {"model": body.model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    return f'{{"object":"list","data":[{",".join(map(json.dumps, rows))}],{json.dumps(rest)[1:]}'.encode()


def _numbers(row: Vectors) -> list[float]:
    numbers: list[float] = row.tolist()
    return numbers


def _base64(row: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode()
