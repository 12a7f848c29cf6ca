"""What each family is fed for a conversation, and what its output means.

    ChatGLM-6B     the bare question; with history, rounds counted from 0; [gMASK] <sop> behind
    ChatGLM2-6B    [gMASK] sop, then rounds counted from 1
    ChatGLM3-6B    [gMASK] sop, then for each message: its role, a line of metadata, the content; then <|assistant|>
    GLM-4          [gMASK] <sop>, then the same, encoded a little differently

The metadata of a reply names the tool that it calls. Calls are parsed and never evaluated, and whatever is no call of
a tool that was offered is text. Knows tokenizers, and nothing about tensors.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from kbqa.chatglm.architecture import Family
from kbqa.chatglm.tokenizers import Tokenizer, need
from kbqa.errors import BeyondModel, ModelError
from kbqa.importing import one_line
from kbqa.types import Message, Turn

__all__ = [
    "ChatMessage",
    "Fitted",
    "Reply",
    "ReplyStream",
    "SamplingDefaults",
    "ToolCall",
    "before_json",
    "chat_ids",
    "conversation",
    "fit",
    "from_messages",
    "message_ids",
    "process_response",
    "prompt_ids",
    "read_reply",
    "sampling_defaults",
    "stop_ids",
]

ASSISTANT = "<|assistant|>"
WITH_ROLES: tuple[Family, ...] = ("chatglm3", "glm4")
NAMES: Mapping[Family, str] = {
    "chatglm": "ChatGLM-6B",
    "chatglm2": "ChatGLM2-6B",
    "chatglm3": "ChatGLM3-6B",
    "glm4": "GLM-4",
}

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


def chat_ids(
    tokenizer: Tokenizer,
    query: str,
    history: Sequence[Said | Turn] = (),
    system: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    role: str = "user",
) -> list[int]:
    """What the original chat() hands to generate()."""
    return prompt_ids(tokenizer, conversation(query, history, system, tools, role))


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """The ids of a conversation that waits for the assistant. BeyondModel where the family cannot hold such a one."""
    if not messages or messages[-1].role not in ("user", "observation"):
        raise BeyondModel("the last message must be the user's or a tool's: the assistant has nothing to answer")
    if tokenizer.family not in WITH_ROLES:
        return tokenizer.prompt(tokenizer.encode(_rounds(tokenizer.family, messages)))
    ids = [token for message in messages for token in message_ids(tokenizer, message)]
    return tokenizer.prompt([*ids, tokenizer.specials[ASSISTANT]])


def message_ids(tokenizer: Tokenizer, message: ChatMessage) -> list[int]:
    """One message, its role first, for the families in which messages have roles."""
    written = _chatglm3_message if tokenizer.family == "chatglm3" else _glm4_message
    return list(written(tokenizer, message))


def before_json(tokenizer: Tokenizer) -> list[int]:
    """What a reply that is to be nothing but JSON is begun with: where messages have roles, the line of metadata that
    no schema has room for."""
    return tokenizer.encode("\n") if tokenizer.family in WITH_ROLES else []


def stop_ids(tokenizer: Tokenizer, declared: Sequence[int] = ()) -> tuple[int, ...]:
    """The ids that end a reply: those `declared` by the config, and the family's own.

    ChatGLM3's config does not list that the turn goes to the user or to a tool, which ends a reply too.
    """
    turns = ("<|user|>", "<|observation|>") if tokenizer.family in WITH_ROLES else ()
    return tuple(sorted({*declared, tokenizer.eos, *(tokenizer.specials[name] for name in turns)}))


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Of the original chat(). `max_length` counts the prompt too; `top_k` is the default of transformers."""

    temperature: float
    top_p: float
    max_length: int
    top_k: int = 50


def sampling_defaults(family: Family) -> SamplingDefaults:
    return SamplingDefaults(0.95, 0.7, 2048) if family == "chatglm" else SamplingDefaults(0.8, 0.8, 8192)


# --- the context budget -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits, and how many of the oldest turns it lacks."""

    ids: list[int]
    messages: tuple[ChatMessage, ...]
    dropped: int


def fit(tokenizer: Tokenizer, messages: Sequence[ChatMessage], budget: int) -> Fitted:
    """The prompt in at most `budget` ids, without the oldest turns where it must be.

    System messages stay, and so does everything from the last question on. BeyondModel when these alone need more.
    """
    system = [message for message in messages if message.role == "system"]
    turns = _turns([message for message in messages if message.role != "system"])
    older, last = turns[:-1], turns[-1] if turns else []

    def without(dropped: int) -> list[ChatMessage]:
        return [*system, *(message for turn in older[dropped:] for message in turn), *last]

    def length(dropped: int) -> int:
        return len(prompt_ids(tokenizer, without(dropped)))

    dropped = 0
    if length(0) > budget:
        if (least := length(len(older))) > budget:
            raise BeyondModel(
                f"the question needs {least} tokens together with its prompt, and the model's context has room for "
                f"{max(budget, 0)} beside the answer: ask with less text, or for a shorter answer"
            )
        dropped = bisect_left(range(len(older)), True, key=lambda count: length(count) <= budget)
    kept = without(dropped)
    return Fitted(prompt_ids(tokenizer, kept), tuple(kept), dropped)


def _turns(messages: Sequence[ChatMessage]) -> list[list[ChatMessage]]:
    """A turn is a user's message and all that follows it up to the next one."""
    turns: list[list[ChatMessage]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return turns


# --- messages in ------------------------------------------------------------------------------------------------------


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


# --- rounds: ChatGLM-6B, ChatGLM2-6B ----------------------------------------------------------------------------------


def _rounds(family: Family, messages: Sequence[ChatMessage]) -> str:
    """The prompt as one text. These two know no system message: what it says stands before the last question."""
    for message in messages:
        if message.tools or message.calls or message.metadata or message.role == "observation":
            raise BeyondModel(f"{NAMES[family]} knows no tools; ChatGLM3-6B and GLM-4 do")
    system = "\n".join(message.content for message in messages if message.role == "system" and message.content)
    turns = [_question_and_answer(turn) for turn in _turns([said for said in messages if said.role != "system"])]
    query = "\n".join(part for part in (system, turns.pop()[0]) if part)
    if family == "chatglm" and not turns:
        return query
    first, gap = (0, "\n") if family == "chatglm" else (1, "\n\n")
    rounds = enumerate([*turns, (query, "")], first)
    return gap.join(f"[Round {number}]{gap}问：{question}{gap}答：{answer}" for number, (question, answer) in rounds)


def _question_and_answer(turn: Sequence[ChatMessage]) -> Turn:
    return (
        "\n".join(message.content for message in turn if message.role == "user"),
        "\n".join(message.content for message in turn if message.role == "assistant"),
    )


# --- roles: ChatGLM3-6B, GLM-4 ----------------------------------------------------------------------------------------

CHATGLM3_TOOLS = "Answer the following questions as best as you can. You have access to the following tools:"
# For GLM-4 folders whose chat template knows no tools. The other releases bring their own wording in it.
GLM4_TOOLS = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
GLM4_TOOL = "\n\n## {name}\n\n{function}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
GLM4_BUILT_IN = ("python", "simple_browser", "cogview")


def _chatglm3_message(tokenizer: Tokenizer, message: ChatMessage) -> Iterator[int]:
    """Metadata and content are encoded each on its own, which shows in the ids."""
    content = message.content
    if message.tools:
        functions = [_function(tool) for tool in message.tools]
        content = f"{content or CHATGLM3_TOOLS}\n{_json(functions, indent=4)}"
    for metadata, text in _spoken(replace(message, content=content), _chatglm3_call):
        yield tokenizer.specials[f"<|{message.role}|>"]
        yield from tokenizer.encode(f"{metadata}\n")
        yield from tokenizer.encode(text)


def _glm4_message(tokenizer: Tokenizer, message: ChatMessage) -> Iterator[int]:
    """Tools are a system message of their own; an empty message is none."""
    said = list(_spoken(message, lambda call: _json(call.arguments)))
    if message.tools:
        said.insert(0, ("", _glm4_tools(tokenizer.chat_template, message.tools)))
    for metadata, text in said:
        if text:
            yield tokenizer.specials[f"<|{message.role}|>"]
            yield from tokenizer.encode(f"{metadata}\n{text}")


def _spoken(message: ChatMessage, written: Callable[[ToolCall], str]) -> Iterator[tuple[str, str]]:
    """(metadata, content) of each message that this one is to the model: every call is one."""
    if message.content or not message.calls:
        yield message.metadata, message.content
    for call in message.calls:
        yield call.name, written(call)


def _chatglm3_call(call: ToolCall) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    return f"```python\ntool_call({arguments})\n```"


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as ChatGLM3 knows them: the bare function."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not function.get("name"):
        raise BeyondModel("a tool must be a function with a name: its JSON has none")
    return function


def _glm4_tools(template: str | None, tools: Sequence[Mapping[str, Any]]) -> str:
    """The system text that offers the tools, in the words of the model's own template.

    Only this text is taken from the template: what users say goes past it, so that no control token arises from it.
    """
    offered = [tool if "type" in tool else {"type": "function", "function": tool} for tool in tools]
    names = [_name(tool) for tool in offered]
    system = {"role": "system", "content": "", "tools": offered}
    tries: tuple[dict[str, Any], ...] = ({"messages": [system]}, {"messages": [], "tools": offered})
    for variables in tries if template and "tools" in template else ():
        text = _rendered(str(template), variables).partition("<|system|>\n")[2].removesuffix("<|system|>\n")
        if text and all(f"## {name}" in text for name in names):
            return text
    if built_in := next((name for name in names if name in GLM4_BUILT_IN), None):
        raise BeyondModel(f"this model's chat template does not describe the tool {built_in}")
    functions = [_function(tool) for tool in offered]
    return GLM4_TOOLS + "".join(
        GLM4_TOOL.format(name=function["name"], function=_json(function, indent=4)) for function in functions
    )


def _name(tool: Mapping[str, Any]) -> str:
    if tool.get("type") in GLM4_BUILT_IN:
        return str(tool["type"])
    if "type" in tool and tool["type"] != "function" and "function" not in tool and "name" not in tool:
        raise BeyondModel(f"{tool['type']} is no type of tool; GLM-4 knows: function, {', '.join(GLM4_BUILT_IN)}")
    return str(_function(tool)["name"])


def _rendered(template: str, variables: Mapping[str, Any]) -> str:
    try:
        return str(_compiled(template).render(add_generation_prompt=False, **variables))
    except ModelError:
        raise
    except Exception as error:  # the template is the model's, and so is what it raises
        raise BeyondModel(f"the model's chat template cannot be filled with these tools: {one_line(error)}") from error


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """Templates come with the model, so they run in jinja's sandbox; the options are those they are written for."""
    need("jinja2")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None, **_: _json(value, indent=indent)
    return environment.from_string(template)


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise BeyondModel(f"tools and the arguments of calls must be JSON: {error}") from error


# --- replies out ------------------------------------------------------------------------------------------------------

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
    return frozenset(_name(tool) for tool in tools)


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
