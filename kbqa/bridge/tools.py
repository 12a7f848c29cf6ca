"""Tools as LangChain hands them over, and calls that a model must make: its whole answer is then held to a schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.json_schema import dereference_refs

from kbqa.errors import ConfigError, GeneratorError
from kbqa.types import Piece

__all__ = ["as_calls", "as_tool", "calls_schema", "closed", "must_call"]

Tool = Mapping[str, Any]


def as_tool(tool: Tool | type | Callable[..., Any] | BaseTool, strict: bool | None = None) -> Tool:
    """As OpenAI has them. {"type": "python"} and the like are built into a model (GLM-4) and stay as they are."""
    if isinstance(tool, Mapping) and tool.keys() == {"type"}:
        return dict(tool)
    return convert_to_openai_tool(tool, strict=strict)


def must_call(tools: Sequence[Tool], choice: str | bool | Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The functions of which `choice`, as LangChain's models know it, demands a call; none where the model may choose.

    ConfigError for a tool that is not offered.
    """
    if choice in (None, False, "auto", "none"):
        return []
    functions = [tool.get("function", tool) for tool in tools]
    named = [function for function in functions if "name" in function]
    if choice is True or choice in ("any", "required"):
        if not named:
            raise ConfigError(f"tool_choice is {choice!r}, but no function is offered")
        return named
    wanted = choice.get("function", choice).get("name") if isinstance(choice, Mapping) else choice
    chosen = [function for function in named if function["name"] == wanted]
    if not chosen:
        offered = ", ".join(function["name"] for function in named) or "none"
        raise ConfigError(f"tool_choice is {choice!r}; it must be auto, any, none or a function (offered: {offered})")
    return chosen


def calls_schema(functions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a text that is a call of one of them."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    "arguments": closed(
                        dereference_refs(function.get("parameters") or {"type": "object", "properties": {}})
                    ),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for function in functions
        ]
    }


def as_calls(pieces: Iterator[Piece], name: str) -> Iterator[Piece]:
    """An answer by `calls_schema`, as the call that it is; calls that a server makes of it itself go through."""
    said, called, last = "", False, Piece(finish="stop")
    for piece in pieces:
        said += piece.text
        if piece.tool_call:
            called = True
            yield replace(piece, text="")
        if piece.finish:
            last = piece
    if not called:
        try:
            call = json.loads(said)
            call = {"id": f"call_{uuid4().hex[:24]}", "name": call["name"], "arguments": dict(call["arguments"])}
        except (ValueError, TypeError, KeyError) as error:
            why = "max_tokens is too small for it" if last.finish == "length" else f"it said: {said[:100]}"
            raise GeneratorError(f"{name} did not bring the tool call to an end: {why}") from error
        yield Piece(tool_call=call)
    yield replace(last, text="", finish="tool_calls")


def closed(schema: Any) -> Any:
    """The schema with objects that hold nothing but their properties, wherever it does not say otherwise.

    Objects that are put together of several schemas stay open: each part would forbid what the others ask for.
    """
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    put_together = "properties" in schema and schema.keys() & _PARTS
    shut = "properties" in schema and not put_together
    return ({"additionalProperties": False} if shut else {}) | {
        key: {name: closed(part) for name, part in value.items()}
        if key in _NAMED and isinstance(value, dict)
        else value
        if key in _VALUES or (key in _PARTS and (put_together or key == "allOf"))
        else closed(value)
        for key, value in schema.items()
    }


_PARTS = {"allOf", "anyOf", "oneOf", "$ref", "if", "then", "else"}
_NAMED = {"properties", "patternProperties", "$defs", "definitions"}  # of names and schemas
_VALUES = {"const", "default", "enum", "example", "examples"}
