"""What a model's output means: text for the user, calls of tools, and what the history keeps.

Calls are parsed and never evaluated, and whatever is no call of a tool that was offered is text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kbqa.chatglm.architecture import Family
from kbqa.chatglm.messages import WITH_ROLES, ChatMessage, ToolCall
from kbqa.chatglm.tokens import ASSISTANT
from kbqa.chatglm.tools import tool_name

__all__ = ["Reply", "ReplyStream", "process_response", "read_reply"]

TRAINED, TRAINED_AS = "[[训练时间]]", "2023年"
HALF_WIDTH, FULL_WIDTH = ",!:;?", "，！：；？"
BESIDE_CHINESE = re.compile(rf"(?<=[\u4e00-\u9fff])[{HALF_WIDTH}]|[{HALF_WIDTH}](?=[\u4e00-\u9fff])")
WIDEN = str.maketrans(HALF_WIDTH, FULL_WIDTH)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an output comes to.

    `text` is for the user: all of it but the calls. `messages` are what the history keeps. `response` is what the
    original chat() returns: the last part of the output, as text or as {"name", "parameters" or "content"}.
    """

    text: str
    calls: tuple[ToolCall, ...]
    messages: tuple[ChatMessage, ...]
    response: str | dict[str, Any]


def process_response(family: Family, output: str, tools: Sequence[Mapping[str, Any]] = ()) -> str | dict[str, Any]:
    """As the original, but that it parses what the original evaluates; a call that cannot be parsed is text."""
    return read_reply(family, output, tools).response


def read_reply(family: Family, output: str, tools: Sequence[Mapping[str, Any]] = ()) -> Reply:
    """`tools` are those that were on offer."""
    if family not in WITH_ROLES:
        text = _polished(family, output.strip())
        return Reply(text, (), (ChatMessage("assistant", text),), text)
    offered = _offered(tools)
    texts, calls, messages = [], [], []
    response: str | dict[str, Any] = ""
    for part in output.split(ASSISTANT):
        metadata, content = part.split("\n", maxsplit=1) if "\n" in part else ("", part)
        name = metadata.strip()
        call = _parsed_call(family, name, content) if name in offered else None
        text = _polished(family, part.strip())
        if call:
            calls.append(call)
            response = {"name": name, "parameters": dict(call.arguments)}
        else:
            texts += [text] if text else []
            response = {"name": name, "content": content} if name and not offered else text
        messages.append(ChatMessage("assistant", content if name else content.strip(), metadata))
    return Reply("\n".join(texts), tuple(calls), tuple(messages), response)


class ReplyStream:
    """The text of a reply while it is written: what `push` and, once, `end` return joins to `Reply.text`.

    A character is held back only while the next ones decide about it: blanks that may be the last, the beginning of a
    marker, ChatGLM-6B's punctuation; and, with tools on offer, a first line that may be the name of one.
    """

    def __init__(self, family: Family, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._family: Family = family
        self._tools = tools
        self._offered = _offered(tools) if family in WITH_ROLES else frozenset()
        self._all: list[str] = []
        self._held = ""  # may begin the marker that ends a part
        self._said = False  # anything, in any part
        self._begin()

    def push(self, text: str) -> str:
        self._all.append(text)
        return self._read(text)

    def end(self) -> str:
        return self._read("", final=True)

    @property
    def reply(self) -> Reply:
        """What all of it comes to; for after `end`."""
        return read_reply(self._family, "".join(self._all), self._tools)

    def _begin(self) -> None:
        """A new part."""
        self._kind: Literal["text", "call"] | None = None if self._offered else "text"  # None: not known yet
        self._part = ""  # what of it is not said yet
        self._last = ""  # the last character said of it

    def _read(self, text: str, final: bool = False) -> str:
        if self._family not in WITH_ROLES:
            return self._take(text, ends=final)
        *whole, rest = (self._held + text).split(ASSISTANT)
        said = ""
        for part in whole:
            said += self._take(part, ends=True)
            self._begin()
        keep = 0 if final else _beginning(rest, ASSISTANT)
        self._held = rest[len(rest) - keep :]
        return said + self._take(rest[: len(rest) - keep], ends=final)

    def _take(self, text: str, ends: bool) -> str:
        """More of the present part, or the last of it."""
        self._part += text
        line, newline, content = self._part.partition("\n") if self._kind != "text" else ("", "", "")
        name = line.strip()
        if self._kind is None:
            if newline and name in self._offered:
                self._kind = "call"
            elif newline or ends or not any(offered.startswith(name) for offered in self._offered):
                self._kind = "text"
        if self._kind == "call" and ends:
            if _parsed_call(self._family, name, content):
                return ""
            self._kind = "text"
        return self._say(ends) if self._kind == "text" else ""

    def _say(self, ends: bool) -> str:
        text = self._part if self._last else self._part.lstrip()
        keep = len(text) - len(text.rstrip()) if ends else self._undecided(text)
        ready, self._part = text[: len(text) - keep], text[len(text) - keep :]
        if not ready:
            return ""
        between = "\n" if self._said and not self._last else ""
        said = _polished(self._family, self._last + ready)[len(self._last) :]
        self._last, self._said = said[-1], True
        return between + said

    def _undecided(self, text: str) -> int:
        """How many of the last characters hang on what follows."""
        if marker := _beginning(text, TRAINED):
            return marker
        blanks = len(text) - len(text.rstrip())
        return blanks or int(self._family == "chatglm" and text.endswith(tuple(HALF_WIDTH)))


def _beginning(text: str, marker: str) -> int:
    """How much of `marker`'s beginning stands at the end of `text`."""
    return next((size for size in range(len(marker) - 1, 0, -1) if text.endswith(marker[:size])), 0)


def _polished(family: Family, text: str) -> str:
    text = text.replace(TRAINED, TRAINED_AS)
    if family == "chatglm":  # whose vocabulary folds full-width punctuation to half-width
        return BESIDE_CHINESE.sub(lambda mark: mark[0].translate(WIDEN), text)
    return text


def _offered(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(tool_name(tool) for tool in tools)


def _parsed_call(family: Family, name: str, content: str) -> ToolCall | None:
    """None when it is none: no JSON object (GLM-4), no `tool_call(a=1)` of literals between two lines (ChatGLM3)."""
    between = "\n".join(content.split("\n")[1:-1])  # ChatGLM3 writes ``` around it
    try:
        arguments = _keywords(between) if family == "chatglm3" else json.loads(content)
        json.dumps(arguments, allow_nan=False)  # what is no JSON could not be handed on
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return ToolCall(name, arguments) if isinstance(arguments, dict) else None


def _keywords(source: str) -> dict[str, Any]:
    """The arguments of `tool_call(...)`, which must all be named literals; ValueError else."""
    call = ast.parse(source.strip(), mode="eval").body
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "tool_call"
    if not isinstance(call, ast.Call) or not named or call.args or any(word.arg is None for word in call.keywords):
        raise ValueError("not a call of tool_call with named arguments")
    return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
