"""Conversations as the models of the family know them, whatever shape they come in.

Knows neither tokenizers nor how a family writes anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kbqa.chatglm.architecture import Family
from kbqa.errors import BeyondModel
from kbqa.types import Message, Turn

__all__ = ["WITH_ROLES", "ChatMessage", "Said", "ToolCall", "conversation", "from_messages"]

WITH_ROLES: tuple[Family, ...] = ("chatglm3", "glm4")

ChatRole = Literal["system", "user", "assistant", "observation"]
ROLE_OF: Mapping[str, ChatRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "observation": "observation",
    "tool": "observation",
    "function": "observation",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as the models know them. An observation is what a tool gave back.

    `metadata` is the line before the content: in an assistant's message the name of the tool that it calls. `calls`
    are further calls, not yet written in the family's way. `tools`, in a system message, are those on offer.
    """

    role: ChatRole
    content: str = ""
    metadata: str = ""
    calls: tuple[ToolCall, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


Said = ChatMessage | Message | Mapping[str, Any]  # a mapping is OpenAI's, or that of the original chat()


def conversation(
    query: str,
    history: Sequence[Said | Turn] = (),
    system: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    role: str = "user",
) -> tuple[ChatMessage, ...]:
    """History is pairs of question and answer, or messages; with `role` "observation", the query is a tool's output."""
    before: list[Said] = [ChatMessage("system", system)] if system else []
    for item in history:
        if isinstance(item, (ChatMessage, Message, Mapping)):
            before.append(item)
        else:
            question, answer = item
            before += [ChatMessage("user", question), ChatMessage("assistant", answer)]
    return from_messages([*before, ChatMessage(_role(role), query)], tools)


def from_messages(
    messages: Sequence[Said], tools: Sequence[Mapping[str, Any]] | None = None
) -> tuple[ChatMessage, ...]:
    """Messages of any kind as ours; `tools` join the first system message, or one that is put in front."""
    ours = [_message(message) for message in messages]
    if tools:
        at = next((at for at, message in enumerate(ours) if message.role == "system"), None)
        if at is None:
            ours.insert(0, ChatMessage("system", tools=tuple(tools)))
        else:
            ours[at] = replace(ours[at], tools=(*ours[at].tools, *tools))
    return tuple(ours)


def _message(message: Said) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    if isinstance(message, Message):
        return ChatMessage(_role(message.role), message.content, calls=_calls(getattr(message, "tool_calls", ())))
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise BeyondModel(f"a message's content must be text, not {type(content).__name__}")
    return ChatMessage(
        _role(message.get("role")),
        content or "",
        metadata=str(message.get("metadata") or ""),
        calls=_calls(message.get("tool_calls") or ()),
        tools=tuple(message.get("tools") or ()),
    )


def _role(role: object) -> ChatRole:
    if not isinstance(role, str) or role not in ROLE_OF:
        raise BeyondModel(f"{role!r} is no role; a message has one of: {', '.join(ROLE_OF)}")
    return ROLE_OF[role]


def _calls(calls: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """Of an assistant's message: OpenAI's, whose arguments are JSON text, or {"name", "arguments"}."""
    found = []
    for call in calls:
        function = call.get("function") or call
        arguments = function.get("arguments") or {}
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as error:
            raise BeyondModel(f"the arguments of the call of {function.get('name')} are no JSON: {error}") from error
        if not isinstance(arguments, Mapping):
            raise BeyondModel(f"the arguments of the call of {function.get('name')} are no JSON object")
        found.append(ToolCall(str(function.get("name") or ""), arguments))
    return tuple(found)
