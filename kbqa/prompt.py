"""The question, the passages and the history as the messages that a model gets.

Training rows are built by the same functions, so a tuned model is asked the way it was taught.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kbqa.config import DEFAULT_TEMPLATE
from kbqa.errors import QuestionError
from kbqa.types import Message, Turn

__all__ = ["PASSAGE_SEPARATOR", "checked", "fill", "fit", "messages"]

PASSAGE_SEPARATOR = "\n\n"
QUOTED = "> "


def fill(question: str, passages: Iterable[str], template: str = DEFAULT_TEMPLATE) -> str:
    """The template with its two placeholders filled; what stands in the texts is never taken for a placeholder.

    Nor is a line of a passage taken for one of the template's own (`根据已知信息回答问题:`), behind which a document
    could put questions and orders: such a line is marked as a quotation.
    """
    filled = {"{context}": PASSAGE_SEPARATOR.join(passages), "{question}": question}
    first, second = sorted(filled, key=template.index)
    head, _, rest = template.partition(first)
    middle, _, tail = rest.partition(second)
    filled["{context}"] = _quoting(filled["{context}"], f"{head}\n{middle}\n{tail}")
    return head + filled[first] + middle + filled[second] + tail


def _quoting(context: str, own: str) -> str:
    """`context`, where lines that begin as one of those of `own` are marked."""
    delimiters = tuple(line.strip() for line in own.splitlines() if line.strip())
    if not any(delimiter in context for delimiter in delimiters):
        return context
    lines = context.splitlines(keepends=True)
    return "".join(QUOTED + line if line.lstrip().startswith(delimiters) else line for line in lines)


def fit(passages: Sequence[str], max_characters: int) -> list[str]:
    """The first passages that fit together, separators counted; the best one is cut rather than left out."""
    kept: list[str] = []
    room = max_characters
    for passage in passages:
        if len(passage) > room:
            break
        kept.append(passage)
        room -= len(passage) + len(PASSAGE_SEPARATOR)
    return kept or [passage[:max_characters] for passage in passages[:1]]


def messages(prompt: str, history: Sequence[Turn] = (), turns: int | None = None) -> tuple[Message, ...]:
    """The conversation with the filled prompt as its last message; history is bare, its last `turns` turns."""
    recent = history if turns is None else history[max(0, len(history) - turns) :]
    said: list[Message] = []
    for question, answer in recent:
        said += [Message("user", question), Message("assistant", answer)]
    return (*said, Message("user", prompt))


def checked(conversation: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation, if a generator can go on with it: somebody waits for an answer, and tools answer calls.

    QuestionError tells what is wrong, messages counted from 1.
    """
    if not conversation or conversation[-1].role not in ("user", "tool"):
        last = f"it is the {conversation[-1].role}'s" if conversation else "there is none"
        raise QuestionError(
            f"the last message must be the user's or a tool's, so that there is an answer to give; {last}"
        )
    called: set[str] = set()
    for number, message in enumerate(conversation, 1):
        if message.role == "tool" and message.tool_call_id not in called:
            raise QuestionError(
                f"message {number} answers the tool call {message.tool_call_id!r}, which no message before it made; "
                "send the assistant's message with its tool_calls too"
            )
        called |= {call["id"] for call in message.tool_calls}
    return conversation
