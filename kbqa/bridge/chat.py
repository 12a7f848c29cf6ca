"""A kbqa generator, ChatGLM above all, as a LangChain chat model."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Yields
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema, ValidationError
from pydantic_core.core_schema import no_info_plain_validator_function

from kbqa.bridge.messages import conversation
from kbqa.bridge.tools import as_calls, as_tool, calls_schema, closed, must_call
from kbqa.build import Installation
from kbqa.cancellation import Cancellation
from kbqa.config import find_home
from kbqa.errors import ConfigError
from kbqa.types import GenerationRequest, Generator, Piece

__all__ = ["KbqaChatModel", "chat_model"]


def _usable(generator: Any) -> Generator:
    if not callable(getattr(generator, "stream", None)) or not isinstance(getattr(generator, "name", None), str):
        raise ValueError(f"a {type(generator).__name__} is no kbqa generator: it has no name, or no stream(request)")
    if generator.name == "extractive":
        raise ConfigError(
            "the extractive generator quotes documents and cannot chat; name a model in config.yaml "
            "(generator.kind: chatglm, openai or transformers)"
        )
    checked: Generator = generator
    return checked


_Generator = Annotated[Generator, GetPydanticSchema(lambda cls, handler: no_info_plain_validator_function(_usable))]
_Strings = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class _Settings(BaseModel):
    """What a call may ask for, and the model's fields say for calls that do not. None: the generator's own default."""

    model_config = ConfigDict(extra="forbid")

    temperature: float | None = Field(default=None, ge=0)  # 0 is greedy
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    repetition_penalty: float | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: _Strings | None = None
    adapter: str | None = None
    timeout: float | None = Field(default=None, gt=0)  # seconds until the answer must be there


# What else a call may be given; `stream` and `ls_structured_output_format` are LangChain's own business.
_NO_SETTINGS = {"tools", "tool_choice", "response_format", "stream", "ls_structured_output_format"}


class KbqaChatModel(BaseChatModel, _Settings):
    """Any kbqa generator: streaming, tools, answers by a JSON schema, token counts.

    The settings hold for every call and can be given with a call too (`invoke(..., temperature=0)`, `bind(seed=1)`).
    Closing a stream, or cancelling an asynchronous call, stops the work. Errors are kbqa's: GeneratorBusy when the
    queue is full, QuestionError for messages that cannot be answered, ConfigError for a setting that there is not.
    """

    generator: _Generator = Field(exclude=True)
    streaming: bool = False  # whether `invoke` tells callbacks of each new token

    @property
    def model_name(self) -> str:
        return self.generator.name

    @property
    def _llm_type(self) -> str:
        return "kbqa"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model_name": self.model_name, **{name: getattr(self, name) for name in _Settings.model_fields}}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": "kbqa"}

    def get_token_ids(self, text: str) -> list[int]:
        """By `custom_get_token_ids`; ConfigError without it, where LangChain would download GPT-2's tokenizer."""
        if self.custom_get_token_ids is None:
            raise ConfigError(
                "KbqaChatModel cannot count tokens before it is asked; pass custom_get_token_ids=, "
                "or token_counter='approximate' to trim_messages"
            )
        return self.custom_get_token_ids(text)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._chunks(messages, stop, kwargs, Cancellation()))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with closing(self._chunks(messages, stop, kwargs, Cancellation())) as chunks:
            for chunk in chunks:
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        given_up = Cancellation()
        chunks = self._chunks(messages, stop, kwargs, given_up)
        try:
            return await run_in_executor(None, generate_from_stream, chunks)
        finally:
            given_up.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        given_up = Cancellation()
        chunks = self._chunks(messages, stop, kwargs, given_up)
        try:
            while chunk := await run_in_executor(None, partial(next, chunks, None)):
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        finally:
            given_up.cancel()
            with suppress(ValueError):  # a thread waits for the next piece, and will find that it is not wanted
                chunks.close()

    def _chunks(
        self,
        messages: list[BaseMessage],
        stop: Sequence[str] | None,
        options: Mapping[str, Any],
        given_up: Cancellation,
    ) -> Yields[ChatGenerationChunk, None, None]:
        """The answer, which breaks off once nobody waits for it any more."""
        request, must = self._request(messages, stop, options)
        request = replace(request, cancellation=given_up)
        calls = 0
        with closing(_unless(given_up, self.generator.stream(request))) as pieces:
            for piece in as_calls(pieces, self.model_name) if must else pieces:
                yield _chunk(piece, calls, self.model_name)
                calls += piece.tool_call is not None

    def _request(
        self, messages: list[BaseMessage], stop: Sequence[str] | None, options: Mapping[str, Any]
    ) -> tuple[GenerationRequest, bool]:
        """And whether the answer must be a tool call."""
        tools = [as_tool(tool) for tool in options.get("tools") or ()]
        choice = options.get("tool_choice")
        demanded = must_call(tools, choice)
        schema = _response_schema(options.get("response_format"))
        if demanded and schema:
            raise ConfigError(f"tool_choice {choice!r} and response_format exclude each other")
        settings = self._settings({**options, "stop": stop})
        request = GenerationRequest(
            conversation(messages),
            **settings.model_dump(exclude={"stop", "timeout"}),
            stop=settings.stop or (),
            tools=() if choice == "none" else tuple(tools),
            response_schema=calls_schema(demanded) if demanded else schema,
            deadline=time.monotonic() + settings.timeout if settings.timeout else None,
        )
        return request, bool(demanded)

    def _settings(self, options: Mapping[str, Any]) -> _Settings:
        """The model's own, with those of a call put over them."""
        own = {name: getattr(self, name) for name in _Settings.model_fields}
        said = {name: value for name, value in options.items() if value is not None and name not in _NO_SETTINGS}
        try:
            return _Settings.model_validate(own | said)
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            if first["type"] == "extra_forbidden":
                known = ", ".join(sorted({*_Settings.model_fields, *_NO_SETTINGS}))
                raise ConfigError(f"{name} is nothing that a call can ask for; there are: {known}") from None
            raise ConfigError(f"{name} is {(own | said)[str(name)]!r}: {first['msg']}") from None

    # --- tools and schemas -------------------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """With `tool_choice` "any" (or "required", True) the answer is a call of one of them, with a tool's name a call
        of that one, and its arguments hold to the tool's schema; "auto" (the default) leaves it to the model.
        """
        offered = [as_tool(tool, strict) for tool in tools]
        must_call(offered, tool_choice)
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=offered, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """As in LangChain. By "json_schema" the model can write nothing but JSON of the schema; it does not see the
        schema, so that the prompt must say what is wanted. "json_mode" holds it to some JSON object.

        An answer that max_tokens cuts off raises OutputParserException, rather than half an object.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if method not in ("json_schema", "json_mode"):
            raise ValueError(f"method is {method!r}; it must be json_schema, function_calling or json_mode")
        kwargs.pop("strict", None)
        if kwargs:
            raise ValueError(f"Received unsupported arguments {kwargs}")
        wanted = _json_schema(schema)
        llm = self.bind(
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
            if method == "json_schema"
            else {"type": "json_object"},
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
        )
        parser: JsonOutputParser = (
            _ObjectParser(pydantic_object=schema)
            if isinstance(schema, type) and is_basemodel_subclass(schema)
            else _JsonParser()
        )
        if not include_raw:
            return llm | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def chat_model(home: str | Path | None = None, **settings: Any) -> KbqaChatModel:
    """The generator that config.yaml of a home folder names, which is found as for `kbqa ask`; `settings` are fields.

    ConfigError when it names the extractive one, which is no model.
    """
    return KbqaChatModel(generator=Installation(find_home(home)).generator, **settings)


# --- pieces out -------------------------------------------------------------------------------------------------------


def _unless(given_up: Cancellation, pieces: Iterator[Piece]) -> Yields[Piece, None, None]:
    """`pieces`, which are closed with it."""
    try:
        for piece in pieces:
            if given_up.asked:
                return
            yield piece
    finally:
        if close := getattr(pieces, "close", None):  # an iterator need not have one
            close()


def _chunk(piece: Piece, call: int, model_name: str) -> ChatGenerationChunk:
    """`call` counts the tool calls, so that LangChain does not join two of them."""
    calls = (
        [
            tool_call_chunk(
                name=piece.tool_call["name"],
                args=json.dumps(piece.tool_call["arguments"], ensure_ascii=False),
                id=piece.tool_call["id"],
                index=call,
            )
        ]
        if piece.tool_call
        else []
    )
    message = AIMessageChunk(content=piece.text, tool_call_chunks=calls)
    if not piece.finish:
        return ChatGenerationChunk(message=message)
    message.chunk_position = "last"
    if piece.prompt_tokens or piece.completion_tokens:  # not every generator knows them
        message.usage_metadata = UsageMetadata(
            input_tokens=piece.prompt_tokens,
            output_tokens=piece.completion_tokens,
            total_tokens=piece.prompt_tokens + piece.completion_tokens,
        )
    return ChatGenerationChunk(
        message=message, generation_info={"finish_reason": piece.finish, "model_name": model_name}
    )


# --- answers by a schema ----------------------------------------------------------------------------------------------


def _json_schema(schema: dict[str, Any] | type) -> Any:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return closed(schema.model_json_schema())
    plain = isinstance(schema, dict) and not schema.keys() & {"name", "function", "toolSpec"}
    return closed(schema if plain else convert_to_json_schema(schema))


def _response_schema(given: Any) -> Mapping[str, Any] | None:
    """Of a `response_format` in OpenAI's way."""
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise ConfigError(
        f"response_format is {given!r}; it must be {{'type': 'json_schema', 'json_schema': {{'schema': ...}}}}, "
        "{'type': 'json_object'} or {'type': 'text'}"
    )


def _check_whole(result: Sequence[Generation]) -> None:
    """LangChain's parsers close what is open, and would make a shorter answer of one that was cut off."""
    for generation in result:
        said = generation.message.response_metadata if isinstance(generation, ChatGeneration) else {}
        if said.get("finish_reason") == "length":
            raise OutputParserException(
                "the answer was cut off in the middle of its JSON: max_tokens is too small for it",
                llm_output=generation.text,
            )


class _JsonParser(JsonOutputParser):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        _check_whole(result)
        return super().parse_result(result, partial=partial)


class _ObjectParser(PydanticOutputParser[Any]):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        _check_whole(result)
        return super().parse_result(result, partial=partial)
