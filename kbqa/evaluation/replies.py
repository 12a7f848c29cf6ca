"""Questions asked, and what came back: the same for answers, refusals and a user's own questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kbqa.chain import KnowledgeBase
from kbqa.errors import QuestionError
from kbqa.evaluation.benchmark import Question
from kbqa.evaluation.scores import contains
from kbqa.types import REFUSAL

__all__ = ["OnReply", "Reply", "Verdict", "ask"]

Verdict = Literal["right", "wrong answer", "wrong source", "refused wrongly", "refused rightly", "answered wrongly"]


@dataclass(frozen=True, slots=True)
class Reply:
    """`cited`: the source of each citation, in order."""

    question: Question
    text: str
    refused: bool
    confidence: float
    cited: tuple[str, ...]
    seconds: float

    @property
    def contains(self) -> bool:
        """Whether a gold answer stands in it; a refusal holds none."""
        return not self.refused and contains(self.text, self.question.answers)

    @property
    def cites(self) -> bool:
        """Whether a judged document is cited."""
        return any(source in self.question.relevant for source in self.cited)

    @property
    def verdict(self) -> Verdict:
        """Where there are gold answers, one must stand in the reply; where documents are judged, one must be cited."""
        question = self.question
        if not question.answerable:
            return "refused rightly" if self.refused else "answered wrongly"
        if self.refused:
            return "refused wrongly"
        if question.answers and not self.contains:
            return "wrong answer"
        return "wrong source" if question.relevant and not self.cites else "right"

    @property
    def good(self) -> bool:
        return self.verdict in ("right", "refused rightly")

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.question.id,
            "question": self.question.text,
            "verdict": self.verdict,
            "answer": self.text,
            "expected": list(self.question.answers),
            "cited": list(self.cited),
            "confidence": round(self.confidence, 4),
            "seconds": round(self.seconds, 4),
        }


OnReply = Callable[[Reply], None]


def ask(kb: KnowledgeBase, questions: Sequence[Question], on_reply: OnReply | None = None) -> list[Reply]:
    """Each question put to `kb` as a user puts it. One that cannot be asked (empty, overlong) counts as refused."""
    replies = []
    for question in questions:
        try:
            answer = kb.ask(question.text)
        except QuestionError:
            reply = Reply(question, REFUSAL, True, 0.0, (), 0.0)
        else:
            cited = tuple(citation.source for citation in answer.citations)
            reply = Reply(question, answer.text, not answer.grounded, answer.confidence, cited, answer.seconds)
        if on_reply:
            on_reply(reply)
        replies.append(reply)
    return replies
