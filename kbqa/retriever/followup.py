"""A follow-up question made self-contained from the history, before it is searched for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kbqa.analyzer import question_terms
from kbqa.types import Turn

__all__ = ["leans", "standalone"]

_LEANS_ON_HISTORY = re.compile(
    r"^(那么?|还有|另外|然后|其中|以及|此外|and\b|what about|how about)|"
    r"(它|他们?|她们?|这个|那个|这些|那些|该|上述|前者|后者|呢[？?]?$)|"
    r"\b(it|its|they|them|their|that|those|this|these|he|she|his|her)\b",
    re.IGNORECASE,
)
FEW_WORDS = 2  # telling words in a question that may not stand alone


def leans(question: str) -> bool:
    """Whether the question points back: 「那上海呢？」, 「它的保修期多长？」."""
    return _LEANS_ON_HISTORY.search(question.strip()) is not None


def standalone(question: str, history: Sequence[Turn]) -> str:
    """The question with what it may leave unsaid taken from the question before it.

    A question that points back or has next to no telling word of its own gets the words of the previous question in
    front, which retrieval weighs with its own. Others stay as they are.
    """
    if not history:
        return question
    telling = [word for word in question_terms(question).words if len(word) > 1]
    if not leans(question) and len(telling) > FEW_WORDS:
        return question
    previous = standalone(history[-1][0], history[:-1])[-500:]
    return f"{previous} {question}"
