"""Rows to what a model is trained on: the ids that it reads, and which of them it is to learn to write.

As the original trainers do it, of each family:

    ChatGLM-6B     the prompt, [gMASK] <sop>, the answer, <eop>; <sop> too is to be written
    ChatGLM2-6B    [gMASK] sop, the prompt, the answer, </s>
    ChatGLM3-6B    "multi-turn": messages with their roles, every assistant's is to be learnt; "input-output": the bare
                   prompt and the answer
    GLM-4          as ChatGLM3-6B

A prompt is what `kbqa.chatglm.chat` makes of it when it is asked, so that what was learnt is found again ("multi-turn"
for the last two). What is too long is cut; where messages have roles the oldest turns go first, and the marker behind
which the answer begins always stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kbqa.chatglm import chat
from kbqa.chatglm.messages import WITH_ROLES, ChatMessage
from kbqa.chatglm.tokens import ASSISTANT, Tokenizer
from kbqa.tuning.data import Row

__all__ = ["NOT_COUNTED", "Example", "Format", "Limits", "conversation", "example", "prompt_ids"]

NOT_COUNTED = -100  # the label of what is read and not learnt

Format = Literal["multi-turn", "input-output"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens of the prompt and of the answer, counted as the original trainers' options of these names."""

    max_source_length: int
    max_target_length: int


@dataclass(frozen=True, slots=True)
class Example:
    """`labels` are the ids themselves where they are to be learnt. `cut`: prompt or answer were longer."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    cut: bool = False


def example(tokenizer: Tokenizer, row: Row, limits: Limits, format: Format = "multi-turn") -> Example:
    """One row, without padding."""
    if tokenizer.family == "chatglm":
        return _v1(tokenizer, row, limits)
    if tokenizer.family in WITH_ROLES and format == "multi-turn":
        return _with_roles(tokenizer, row, limits)
    prompt, answer = _whole_prompt(tokenizer, row, format), tokenizer.encode(row.response)
    head, tail = prompt[: limits.max_source_length], [*answer[: limits.max_target_length], tokenizer.eos]
    cut = len(head) < len(prompt) or len(tail) <= len(answer)
    return Example((*head, *tail), (*[NOT_COUNTED] * len(head), *tail), cut)


def prompt_ids(tokenizer: Tokenizer, row: Row, limits: Limits, format: Format = "multi-turn") -> list[int]:
    """What the tuned model is fed to answer the row: what stands before the answer in `example`.

    Of ChatGLM-6B's long prompts the original keeps one token less here, where it counts both tokens behind them.
    """
    if tokenizer.family == "chatglm":
        return tokenizer.prompt(_whole_prompt(tokenizer, row, format)[: limits.max_source_length - 2])
    if tokenizer.family in WITH_ROLES and format == "multi-turn":
        _, asked, _ = _fitted(tokenizer, row, limits.max_source_length)
        return [*asked, tokenizer.specials[ASSISTANT]]
    return _whole_prompt(tokenizer, row, format)[: limits.max_source_length]


def conversation(tokenizer: Tokenizer, said: Iterable[tuple[ChatMessage, bool]], limit: int) -> Example:
    """Messages with roles, each with whether it is to be learnt, in at most `limit` ids.

    Whether a message is done is learnt with it: the token behind it counts, and its own role does not.
    """
    parts = [(chat.message_ids(tokenizer, message), counted) for message, counted in said]
    return _joined(tokenizer, parts, limit)


def _v1(tokenizer: Tokenizer, row: Row, limits: Limits) -> Example:
    prompt, answer = _whole_prompt(tokenizer, row, "input-output"), tokenizer.encode(row.response)
    head = tokenizer.prompt(prompt[: limits.max_source_length - 1])
    tail = [*answer[: limits.max_target_length - 2], tokenizer.eos]
    labels = (*[NOT_COUNTED] * (len(head) - 1), head[-1], *tail)
    return Example((*head, *tail), labels, len(head) - 2 < len(prompt) or len(tail) <= len(answer))


def _whole_prompt(tokenizer: Tokenizer, row: Row, format: Format) -> list[int]:
    """ChatGLM-6B's is without the two tokens behind it, which are not counted when it is cut."""
    if tokenizer.family in WITH_ROLES and format == "input-output":
        return tokenizer.prompt(tokenizer.encode(row.prompt))
    ids = chat.chat_ids(tokenizer, row.prompt, row.history)
    return ids[:-2] if tokenizer.family == "chatglm" else ids


def _with_roles(tokenizer: Tokenizer, row: Row, limits: Limits) -> Example:
    turns, asked, cut = _fitted(tokenizer, row, limits.max_source_length)
    role, *answer = chat.message_ids(tokenizer, ChatMessage("assistant", row.response))
    parts = [(list(tokenizer.prompt_specials), False)]
    for question, reply in turns:
        parts += [(question, False), (reply, True)]
    before = sum(len(ids) for ids, _ in parts)
    parts += [(asked[before:], False), ([role, *answer[: limits.max_target_length]], True)]
    made = _joined(tokenizer, parts, len(asked) + limits.max_target_length + 2)
    return Example(made.ids, made.labels, cut or len(answer) > limits.max_target_length)


def _fitted(tokenizer: Tokenizer, row: Row, limit: int) -> tuple[list[tuple[list[int], list[int]]], list[int], bool]:
    """(earlier turns that fit as (question, reply), all up to the last question, whether anything is missing).

    With the role of the assistant, which is to follow, these are at most `limit` ids.
    """
    turns = [
        (
            chat.message_ids(tokenizer, ChatMessage("user", asked)),
            chat.message_ids(tokenizer, ChatMessage("assistant", replied)),
        )
        for asked, replied in row.history
    ]
    question = chat.message_ids(tokenizer, ChatMessage("user", row.prompt))
    specials = list(tokenizer.prompt_specials)
    room = limit - len(specials) - 1 - len(question)
    kept = list(turns)
    while kept and sum(len(asked) + len(replied) for asked, replied in kept) > room:
        kept.pop(0)
    earlier = [token for asked, replied in kept for token in (*asked, *replied)]
    ids = [*specials, *earlier, *question][: max(limit - 1, len(specials))]
    return kept, ids, len(kept) < len(turns) or room < 0


def _joined(tokenizer: Tokenizer, parts: Sequence[tuple[list[int], bool]], limit: int) -> Example:
    """The parts behind each other and the token that ends them; a token counts when the one before it is of a part
    that does."""
    if not parts or tuple(parts[0][0]) != tokenizer.prompt_specials:
        parts = [(list(tokenizer.prompt_specials), False), *parts]
    ids = [*(token for part, _ in parts for token in part), tokenizer.eos]
    counted = [False, *(counts for part, counts in parts for _ in part)]
    labels = [token if counts else NOT_COUNTED for token, counts in zip(ids, counted, strict=True)]
    return Example(tuple(ids[:limit]), tuple(labels[:limit]), len(ids) > limit)
