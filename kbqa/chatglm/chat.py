"""What each family is fed for a conversation.

    ChatGLM-6B     the bare question; with history, rounds counted from 0; [gMASK] <sop> behind
    ChatGLM2-6B    [gMASK] sop, then rounds counted from 1
    ChatGLM3-6B    [gMASK] sop, then for each message: its role, a line of metadata, the content; then <|assistant|>
    GLM-4          [gMASK] <sop>, then the same, encoded a little differently

The metadata of a reply names the tool that it calls. Knows tokenizers, and nothing about tensors.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kbqa.chatglm.architecture import Family
from kbqa.chatglm.messages import WITH_ROLES, ChatMessage, Said, ToolCall, conversation
from kbqa.chatglm.tokenizers import Tokenizer
from kbqa.chatglm.tokens import ASSISTANT
from kbqa.chatglm.tools import as_json, chatglm3_offer, glm4_offer
from kbqa.errors import BeyondModel
from kbqa.types import Turn

__all__ = [
    "Fitted",
    "SamplingDefaults",
    "before_json",
    "chat_ids",
    "fit",
    "least",
    "message_ids",
    "prompt_ids",
    "sampling_defaults",
    "stop_ids",
]

NAMES: Mapping[Family, str] = {
    "chatglm": "ChatGLM-6B",
    "chatglm2": "ChatGLM2-6B",
    "chatglm3": "ChatGLM3-6B",
    "glm4": "GLM-4",
}


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
    system, older, last = _parts(messages)

    def without(dropped: int) -> list[ChatMessage]:
        return [*system, *(message for turn in older[dropped:] for message in turn), *last]

    def length(dropped: int) -> int:
        return len(prompt_ids(tokenizer, without(dropped)))

    dropped = 0
    if length(0) > budget:
        if (needed := least(tokenizer, messages)) > budget:
            raise BeyondModel(
                f"the question needs {needed} tokens together with its prompt, and the model's context has room for "
                f"{max(budget, 0)} beside the answer: ask with less text, or for a shorter answer"
            )
        dropped = bisect_left(range(len(older)), True, key=lambda count: length(count) <= budget)
    kept = without(dropped)
    return Fitted(prompt_ids(tokenizer, kept), tuple(kept), dropped)


def least(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> int:
    """Tokens of the prompt without all the turns that `fit` may leave out."""
    system, _, last = _parts(messages)
    return len(prompt_ids(tokenizer, [*system, *last]))


def _parts(
    messages: Sequence[ChatMessage],
) -> tuple[list[ChatMessage], list[list[ChatMessage]], list[ChatMessage]]:
    """(system messages, the turns before the last question, all from there on)"""
    system = [message for message in messages if message.role == "system"]
    turns = _turns([message for message in messages if message.role != "system"])
    return system, turns[:-1], turns[-1] if turns else []


def _turns(messages: Sequence[ChatMessage]) -> list[list[ChatMessage]]:
    """A turn is a user's message and all that follows it up to the next one."""
    turns: list[list[ChatMessage]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return turns


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


def _chatglm3_message(tokenizer: Tokenizer, message: ChatMessage) -> Iterator[int]:
    """Metadata and content are encoded each on its own, which shows in the ids."""
    content = message.content
    if message.tools:
        content = chatglm3_offer(content, message.tools)
    for metadata, text in _spoken(replace(message, content=content), _chatglm3_call):
        yield tokenizer.specials[f"<|{message.role}|>"]
        yield from tokenizer.encode(f"{metadata}\n")
        yield from tokenizer.encode(text)


def _glm4_message(tokenizer: Tokenizer, message: ChatMessage) -> Iterator[int]:
    """Tools are a system message of their own; an empty message is none."""
    said = list(_spoken(message, lambda call: as_json(call.arguments)))
    if message.tools:
        said.insert(0, ("", glm4_offer(tokenizer.chat_template, message.tools)))
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
