"""Any LangChain chat model, or plain LLM, as a generator.

Knows nothing about providers. What a request asks of the sampling is set on the model's own fields, not handed to
the call: models drop or refuse call arguments that they do not know (ChatOllama), but heed their fields.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

from kbqa.errors import BeyondModel, Cancelled, GeneratorError
from kbqa.importing import make, one_line
from kbqa.types import GenerationRequest, Message, Piece

if TYPE_CHECKING:
    from langchain_core.language_models import BaseLanguageModel
    from langchain_core.messages import AIMessageChunk, BaseMessage

__all__ = ["LangChainGenerator"]

_FIELDS = {  # our name -> what models call it, the first that one has is set
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "max_tokens": ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    "seed": ("seed",),
}
_REASONS = ("finish_reason", "stop_reason", "done_reason")
_CUT_OFF = {"length", "max_tokens", "max_output_tokens"}


class LangChainGenerator:
    """`target` is the class by its import path, made with `options` as arguments, or a model that is ready to use.

    `temperature` and `max_tokens` hold where a request says nothing else. Sampling values are heeded as far as the
    model has a field for them. Errors of the model come out as GeneratorError.
    """

    def __init__(
        self,
        target: str | BaseLanguageModel[Any],
        options: Mapping[str, Any] | None = None,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> None:
        model = make("generator", target, options or {}) if isinstance(target, str) else target
        self._model = _with_fields(model, {"temperature": temperature, "max_tokens": max_tokens})
        self.name = f"langchain:{target if isinstance(target, str) else type(target).__name__}"

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        asked = request.tools or request.response_schema is not None
        if asked or any(message.role == "tool" for message in request.messages):
            raise BeyondModel(f"{self.name} is only used to write text: no tools, no response schema")
        model = _with_fields(self._model, {ours: getattr(request, ours) for ours in _FIELDS})
        stop = list(request.stop) or None
        request.cancellation.check()
        finish: Literal["stop", "length"] = "stop"
        prompt_tokens = completion_tokens = 0
        try:
            with closing(model.stream(_input(model, request.messages), stop=stop)) as chunks:
                for chunk in chunks:
                    if not isinstance(chunk, str):
                        finish = "length" if _cut_off(chunk) else finish
                        usage = chunk.usage_metadata
                        prompt_tokens += usage["input_tokens"] if usage else 0
                        completion_tokens += usage["output_tokens"] if usage else 0
                    if text := chunk if isinstance(chunk, str) else str(chunk.text):
                        yield Piece(text, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
                    request.cancellation.check()
                    if request.deadline is not None and time.monotonic() > request.deadline:
                        raise GeneratorError(f"{self.name} did not finish in time")
        except (GeneratorError, Cancelled):
            raise
        except Exception as error:  # each provider's library has exceptions of its own
            raise GeneratorError(f"{self.name} failed: {one_line(error)}") from error
        yield Piece(finish=finish, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def _with_fields(model: Any, wanted: Mapping[str, Any]) -> Any:
    """`model`, or a copy of it with the values that are not None and that it has a field for."""
    declared = getattr(type(model), "model_fields", {})
    values: dict[str, Any] = {}
    for ours, value in wanted.items():
        field = next((name for name in _FIELDS[ours] if name in declared), None)
        if field and value is not None:
            values[field] = value
    return model.model_copy(update=values) if values else model


def _input(model: Any, messages: tuple[Message, ...]) -> str | list[BaseMessage]:
    """Messages by role. A plain LLM gets a single prompt as it stands, without 「Human:」 in front."""
    from langchain_core.language_models import BaseLLM
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    if isinstance(model, BaseLLM) and len(messages) == 1:
        return messages[0].content
    kinds: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    return [kinds[message.role](content=message.content) for message in messages]


def _cut_off(chunk: AIMessageChunk) -> bool:
    return any(str(chunk.response_metadata.get(key)).lower() in _CUT_OFF for key in _REASONS)
