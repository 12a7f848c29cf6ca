"""Any server with an OpenAI-compatible `POST /chat/completions`: vLLM, Ollama, llama.cpp, transformers, the cloud.

Answers are streamed. One that breaks off before the server has said why it ends is an error, never a short answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Any, Literal

from kbqa.endpoint import Endpoint, NoReply, Reply, complaint_of
from kbqa.errors import ConfigError, GeneratorBusy, GeneratorError
from kbqa.generators.sse import events
from kbqa.generators.stopping import Stopper
from kbqa.types import GenerationRequest, Message, Piece

__all__ = ["OpenAIGenerator"]

Finish = Literal["stop", "length", "tool_calls"]
BUSY = {429, 503}
GLANCE = 3.0  # seconds for finding out whether the server is there
SHORTER = "lower prompt.max_characters or prompt.history_turns"
OWN = {"messages", "model", "response_format", "stop", "stream", "stream_options", "tools"}
NO_JSON = object()
_LENGTH = {"length", "max_tokens"}
_FAILED = {"abort", "cancelled", "content_filter", "error", "insufficient_system_resource"}  # no whole answer


class OpenAIGenerator:
    """`base_url` ends where `/chat/completions` begins, e.g. http://gpu-box:8000/v1.

    `options` are further fields of every request, such as vLLM's chat_template_kwargs. `temperature` and `max_tokens`
    hold where a request says nothing else; what neither says is left to the server. A server may be silent for
    `timeout` seconds. `api_key_env` is only named in messages.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        temperature: float | None = None,
        max_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._endpoint = Endpoint("generator", base_url, "/chat/completions", key=api_key, timeout=timeout)
        self._models = Endpoint("generator", base_url, "/models", key=api_key, timeout=min(timeout, GLANCE))
        self._model = model
        self._key = f"the key in {api_key_env} was refused" if api_key else f"set {api_key_env} to a key for it"
        self._defaults = {"temperature": temperature, "max_tokens": max_tokens}
        self._options = dict(options or {})
        if taken := sorted(OWN & self._options.keys()):
            raise ConfigError(f"generator.options.{taken[0]} is not for config.yaml: kbqa says it in each request")
        self._counts = True  # whether the server can be asked for token counts; not all of them know the question
        self.name = f"openai:{model}"

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        stopper = Stopper(request.stop)
        try:
            with closing(self._ask(self._body(request), request)) as reply:
                answer = _Answer(self._endpoint, json_only=request.response_schema is not None)
                for text in answer.read(reply):
                    request.cancellation.check()
                    if shown := stopper.add(text):
                        yield answer.piece(shown)
                    if stopper.hit:  # the server does not heed `stop`, or not in time; closing stops it
                        yield answer.piece(finish="stop")
                        return
                if held := stopper.end():
                    yield Piece(held)
                yield from (Piece(tool_call=call) for call in answer.tool_calls())
                reply.finish()
        except (NoReply, UnexpectedAnswer) as error:
            request.cancellation.check()  # which breaks the connection off
            raise self._error(str(error)) from error
        yield answer.piece(finish=answer.finish)

    def check(self) -> tuple[bool, str]:
        """Asks which models the server has: (whether this one is among them, as far as it tells; what it said).

        GeneratorError when the server cannot be reached or refuses the key. Takes a few seconds at most.
        """
        try:
            with closing(self._models.get(time.monotonic() + GLANCE)) as reply:
                if reply.status != 200:
                    said = reply.complaint()
                    if reply.status in (401, 403):
                        raise self._refused(reply, said, self._model)
                    return reply.status < 500 or reply.status == 501, f"answers, but tells no models ({reply.status})"
                told = _from_json(reply.read().decode(errors="replace"))
        except NoReply as error:
            raise GeneratorError(f"{self._models.url} {error}") from error
        models = told.get("data") if isinstance(told, dict) else None
        if not isinstance(models, list):
            return False, f"{self._models.url} answers, but not as such a server does; does base_url end in /v1?"
        names = [str(model.get("id")) for model in models if isinstance(model, dict)]
        if self._model in names:
            return True, f"{self._endpoint.url} answers, and has it"
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return False, f"{self._endpoint.url} answers, but has no model of that name ({shown or 'none'})"

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        sampling = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,  # this and the next are not OpenAI's, but vLLM's and others'
            "repetition_penalty": request.repetition_penalty,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        body: dict[str, Any] = {
            "model": request.adapter or self._model,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= {name: value for name, value in self._defaults.items() if value is not None}
        body |= self._options
        body |= {name: value for name, value in sampling.items() if value is not None}
        if request.stop:
            body["stop"] = list(request.stop)
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        if request.response_schema is not None:
            schema = {"name": "answer", "schema": request.response_schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _ask(self, body: dict[str, Any], request: GenerationRequest) -> Reply:
        """The reply to `body`, once the server has accepted it."""
        if not self._counts:
            del body["stream_options"]
        reply = self._endpoint.post(body, request.deadline, request.cancellation)
        if reply.status == 200:
            return reply
        with closing(reply):
            said = reply.complaint()
        if "stream_options" in body and reply.status in (400, 422) and "stream_options" in said:
            self._counts = False
            return self._ask(body, request)
        raise self._refused(reply, said, body["model"])

    def _refused(self, reply: Reply, said: str, model: str) -> GeneratorError:
        status = f"{reply.status} {said}".strip()
        if reply.status in BUSY:
            return GeneratorBusy(f"{self._endpoint.url} is busy ({status}); try again in a few seconds")
        if 300 <= reply.status < 400:
            status, remedy = f"{reply.status}", f"it has moved to {reply.header('Location') or 'another address'}"
            return self._error(f"cannot be used: {status}; {remedy}; change generator.base_url")
        remedy = {
            401: self._key,
            403: self._key,
            404: f"is there a model {model}, and does generator.base_url end as it should (often in /v1)? "
            f"{self._endpoint.url.removesuffix('/chat/completions')}/models lists what there is",
            413: SHORTER,
        }.get(reply.status, SHORTER if "context" in said else "")
        return self._error(f"refused the request: {status}" + (f"; {remedy}" if remedy else ""))

    def _error(self, why: str) -> GeneratorError:
        return GeneratorError(f"{self._endpoint.url} {why}")


class UnexpectedAnswer(Exception):
    """The server answered, but not as a chat endpoint does, or it says itself that it failed."""


class _Answer:
    """An answer while it comes in."""

    def __init__(self, endpoint: Endpoint, json_only: bool) -> None:
        self._endpoint = endpoint
        self._json: list[str] | None = [] if json_only else None
        self._finish = ""
        self._calls: list[dict[str, str]] = []
        self._places: dict[int, int] = {}  # a call's index -> where it stands in _calls
        self._prompt_tokens = self._completion_tokens = 0  # as far as the server has told them

    @property
    def finish(self) -> Finish:
        if self._finish in _LENGTH:
            return "length"
        return "tool_calls" if self._calls else "stop"

    def piece(self, text: str = "", finish: Finish | None = None) -> Piece:
        return Piece(text, finish=finish, prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens)

    def read(self, reply: Reply) -> Iterator[str]:
        """New text, until the server says that this is all."""
        for data in self._data(reply):
            if data.strip() == "[DONE]":
                break
            for text in self._heard(self._parsed(data)):
                if self._json is not None:
                    self._json.append(text)
                yield text
        if not self._finish:
            raise UnexpectedAnswer("broke off in the middle of its answer")
        if self._finish in _FAILED:
            raise UnexpectedAnswer(f"did not finish its answer: {self._finish}")
        if (
            self._json is not None
            and not self._calls
            and self.finish == "stop"
            and _from_json("".join(self._json)) is NO_JSON
        ):
            raise UnexpectedAnswer("answered in prose where JSON was asked for; it does not heed response_format")

    def _data(self, reply: Reply) -> Iterator[str]:
        """The JSON texts of the reply: one an event, or a single one from a server that does not stream."""
        chunks = reply.chunks()
        first = next(chunks, b"")
        chunks = chain([first], chunks)
        try:
            # Not every server that streams says so in its headers.
            if "event-stream" in reply.header("Content-Type") or first.startswith((b"data:", b"event:", b":")):
                yield from events(chunks)
            else:
                yield b"".join(chunks).decode()
        except ValueError as error:
            raise UnexpectedAnswer(f"answered, but not with text that can be read: {error}") from error

    def _parsed(self, data: str) -> dict[str, Any]:
        parsed = _from_json(data)
        if not isinstance(parsed, dict):
            said = self._endpoint.redacted(data)[:100]
            raise UnexpectedAnswer(f"answered, but not with JSON ({said}); does generator.base_url end in /v1?")
        failed = bool(parsed.get("error"))
        if failed or not isinstance(parsed.get("choices"), list):
            said = self._endpoint.redacted(complaint_of(parsed))
            raise UnexpectedAnswer(f"{'failed' if failed else 'answered, but not as a chat endpoint does'}: {said}")
        return parsed

    def _heard(self, chunk: Mapping[str, Any]) -> Iterator[str]:
        try:
            if usage := chunk.get("usage"):
                self._prompt_tokens = int(usage.get("prompt_tokens") or 0)
                self._completion_tokens = int(usage.get("completion_tokens") or 0)
            for choice in chunk["choices"][:1]:
                delta = choice.get("delta") or choice.get("message") or {}
                self._finish = choice.get("finish_reason") or self._finish
                for at, call in enumerate(delta.get("tool_calls") or ()):
                    self._call(call, at)
                if text := delta.get("content"):
                    yield text if isinstance(text, str) else "".join(part.get("text") or "" for part in text)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UnexpectedAnswer(f"answered, but not as a chat endpoint does: {error!r}") from error

    def _call(self, delta: Mapping[str, Any], at: int) -> None:
        """Name and arguments of a call come in parts, which its index holds together.

        Some servers give all calls the index 0: a new id begins a new call.
        """
        index = at if delta.get("index") is None else int(delta["index"])
        place = self._places.get(index)
        if place is None or (delta.get("id") and self._calls[place]["id"] not in ("", delta["id"])):
            place = self._places[index] = len(self._calls)
            self._calls.append({"id": "", "name": "", "arguments": ""})
        call, function = self._calls[place], delta.get("function") or {}
        call["id"] = delta.get("id") or call["id"]
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""

    def tool_calls(self) -> Iterator[dict[str, Any]]:
        if self.finish == "length" and self._calls:
            raise UnexpectedAnswer("broke off in the middle of a tool call: max_tokens is too small for it")
        for call in self._calls:
            arguments = _from_json(call["arguments"] or "{}")
            if not isinstance(arguments, dict):
                said = self._endpoint.redacted(call["arguments"])
                raise UnexpectedAnswer(f"calls {call['name']} with arguments that are no JSON object: {said}")
            yield {"id": call["id"], "name": call["name"], "arguments": arguments}


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        said["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
    return said


def _from_json(text: str) -> Any:
    """NO_JSON for what is none, or is nested so deeply that nobody means it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NO_JSON


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """As OpenAI wraps them; a bare {"name", "description", "parameters"}, as ChatGLM3 has it, is a function."""
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
