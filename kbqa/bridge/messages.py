"""LangChain's messages as ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from kbqa.errors import QuestionError
from kbqa.prompt import checked
from kbqa.types import Message, Role

__all__ = ["conversation"]

_ROLES: dict[type[BaseMessage], Role] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
}
_BY_NAME: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Parts of a model's own message that are not what it said: calls stand in `tool_calls` too, thoughts are not sent back.
_UNSAID = {"tool_call", "tool_call_chunk", "tool_use", "function_call", "reasoning", "thinking", "redacted_thinking"}


def conversation(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """What waits for an answer. QuestionError tells which message cannot be taken, counted from 1, and why."""
    ours = tuple(_message(number, message) for number, message in enumerate(messages, 1))
    return checked(ours)


def _message(number: int, message: BaseMessage) -> Message:
    role = _role(number, message)
    content = message.content
    text = content if isinstance(content, str) else "".join(_text(number, role, part) for part in content)
    if isinstance(message, AIMessage):
        calls = [
            {"id": call["id"] or "", "name": call["name"], "arguments": call["args"]} for call in message.tool_calls
        ]
        return Message(role, text, tool_calls=tuple(calls))
    return Message(role, text, tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else "")


def _role(number: int, message: BaseMessage) -> Role:
    if isinstance(message, ChatMessage):
        if message.role in _BY_NAME:
            return _BY_NAME[message.role]
        raise QuestionError(f"message {number} has the role {message.role!r}; there are: {', '.join(_BY_NAME)}")
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise QuestionError(
        f"message {number} is a {type(message).__name__}; a conversation is made of: "
        + ", ".join(kind.__name__ for kind in _ROLES)
    )


def _text(number: int, role: Role, part: str | dict[str, Any]) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if role == "assistant" and kind in _UNSAID:
        return ""
    raise QuestionError(
        f"message {number} has content of the type {kind!r}; kbqa's generators read text and nothing else"
    )
