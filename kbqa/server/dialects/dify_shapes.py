"""What Dify's clients are told, in Dify's words, and answers while they are written into a conversation.

Knows nothing of routes.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Generator as Generating
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from kbqa.cancellation import Cancellation
from kbqa.errors import Cancelled
from kbqa.fields import citation_fields
from kbqa.registry import Conversation, Conversations, Rating, Round
from kbqa.registry.conversations import new_id
from kbqa.server.dialects.cited import Cited, whole_text
from kbqa.server.errors import Problem, problem_of
from kbqa.server.logs import Trace, log
from kbqa.types import Answer, Citation, Hit, Piece, Sentence

if TYPE_CHECKING:
    from kbqa.server.service import Part

__all__ = ["Answering", "DifyError", "conversation_fields", "dify_shape", "message_fields"]

CODES = {
    "BadRequest": "invalid_param",
    "InvalidRequest": "invalid_param",
    "QuestionError": "invalid_param",
    "UnknownConversation": "not_found",
    "UnknownKnowledgeBase": "app_unavailable",
    "GeneratorError": "completion_request_error",
    "ModelError": "completion_request_error",
    "InternalError": "internal_server_error",
}
RATINGS: Mapping[Rating, str] = {"up": "like", "down": "dislike"}

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class DifyError(BaseModel):
    code: str
    message: str
    status: int


def dify_shape(problem: Problem) -> dict[str, Any]:
    code = CODES.get(problem.type) or _CAPITAL.sub("_", problem.type).lower()
    return {"code": code, "message": problem.message, "status": problem.status}


# --- conversations and their rounds -----------------------------------------------------------------------------------


def conversation_fields(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "name": conversation.name,
        "inputs": dict(conversation.inputs),
        "status": "normal",
        "introduction": "",
        "created_at": int(conversation.created_at),
        "updated_at": int(conversation.updated_at),
    }


def message_fields(conversation: Conversation, round: Round, rating: Rating | None) -> dict[str, Any]:
    return {
        "id": round.id,
        "conversation_id": conversation.id,
        "parent_message_id": None,
        "inputs": dict(conversation.inputs),
        "query": round.question,
        "answer": round.told,
        "message_files": [],
        "feedback": None if rating is None else {"rating": RATINGS[rating]},
        "retriever_resources": _resources(conversation.base, round.citations),
        "agent_thoughts": [],
        "created_at": int(round.created_at),
        "status": "normal",
        "error": None,
    }


def _resources(base: str, citations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[1] in the text is the one whose position is 1."""
    return [
        {
            "position": citation["marker"],
            "dataset_id": base,
            "dataset_name": base,
            "document_id": citation["source"],
            "document_name": PurePosixPath(citation["source"]).name,
            "data_source_type": "external",
            "segment_id": f"{citation['source']}#{citation['span'][0]}-{citation['span'][1]}",
            "retriever_from": "api",
            "score": citation["score"],
            "content": citation["quote"],
            "page": citation["page"],
            "title": citation["heading"],
        }
        for citation in citations
    ]


def _cited_fields(citation: Citation, hits: Sequence[Hit]) -> dict[str, Any]:
    """`score` is that of the passage in which the quote stands; null where it stands beside those that were found."""
    start, end = citation.span
    scores = (
        hit.score
        for hit in hits
        if hit.chunk.source == citation.source and hit.chunk.span[0] <= start and end <= hit.chunk.span[1]
    )
    return {**citation_fields(citation), "score": next(scores, None)}


# --- an answer --------------------------------------------------------------------------------------------------------


class Answering:
    """One answer within a conversation: what is told of it, and the round that is kept.

    `keep` runs in the thread of the answer, everything else in the event loop.
    """

    def __init__(self, conversations: Conversations, conversation: Conversation, question: str) -> None:
        self.conversation = conversation
        self.task, self.message = new_id(), new_id()
        self._conversations = conversations
        self._question = question
        self._cited = Cited(sources=False)
        self._created_at = int(time.time())
        self._begun = False
        self._stopped = threading.Event()
        self._cancellation: Cancellation | None = None

    # --- while it is written -----------------------------------------------------------------------------------------

    def keep(self, parts: Generating[Part, None, None], cancellation: Cancellation) -> Iterator[Part]:
        """The parts, which make a round once they are whole, or have been stopped."""
        self._cancellation = cancellation
        if self._stopped.is_set():  # while it waited for its turn
            cancellation.cancel()
        said, begun = list[Piece | Sentence](), False
        try:
            with closing(parts):
                for part in parts:
                    if self._stopped.is_set():
                        break
                    if not begun:  # before that nobody has been told its id
                        self._conversations.start(self.conversation)
                        begun = True
                    if isinstance(part, Answer):
                        self._add(part)
                        yield part
                        return
                    said.append(part)
                    yield part
        except Cancelled:
            if not self._stopped.is_set():
                raise
        answer = _so_far(self._question, said)
        if begun:
            self._add(answer)
        yield answer

    def stop(self) -> None:
        self._stopped.set()
        if self._cancellation is not None:
            self._cancellation.cancel()

    def _add(self, answer: Answer) -> None:
        citations = tuple(_cited_fields(citation, answer.hits) for citation in answer.citations)
        told = whole_text(answer, sources=False)
        kept = Round(self.conversation.id, self._question, answer.text, told, citations, id=self.message)
        self._conversations.add(kept)

    # --- what is told ------------------------------------------------------------------------------------------------

    def whole(self, answer: Answer) -> dict[str, Any]:
        told = {"event": "message", **self._names(), "mode": "chat", "answer": whole_text(answer, sources=False)}
        return {**told, "metadata": self._metadata(answer)}

    def events(self, part: Part) -> bytes:
        """A sentence each, as soon as it is checked; the first word says that an answer is on its way."""
        text = self._cited.add(part)
        said = self._event("message", answer=text) if text or not self._begun else b""
        self._begun = True
        if isinstance(part, Answer):
            return said + self._event("message_end", metadata=self._metadata(part), files=[])
        return said

    def failed(self, trace: Trace, error: BaseException) -> bytes:
        problem = problem_of(error)
        trace.error = problem.type
        if problem.type == "InternalError":
            log.error(f"{type(error).__name__} in request {trace.id}", exc_info=error)
        return self._event("error", **dify_shape(problem))

    def _names(self) -> dict[str, Any]:
        return {
            "task_id": self.task,
            "id": self.message,
            "message_id": self.message,
            "conversation_id": self.conversation.id,
            "created_at": self._created_at,
        }

    def _event(self, name: str, **fields: Any) -> bytes:
        data = {"event": name, **self._names(), **fields}
        return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode(errors="replace")

    def _metadata(self, answer: Answer) -> dict[str, Any]:
        cited = [_cited_fields(citation, answer.hits) for citation in answer.citations]
        return {
            "usage": _usage(answer),
            "retriever_resources": _resources(self.conversation.base, cited),
            "annotation_reply": None,
        }


def _so_far(question: str, said: Sequence[Piece | Sentence]) -> Answer:
    """Of an answer that was stopped: the sentences that had been checked."""
    text = "".join(part.text for part in said if isinstance(part, Piece)).lstrip()
    sentences = tuple(part for part in said if isinstance(part, Sentence))
    citations = {citation.marker: citation for sentence in sentences for citation in sentence.citations}
    end = sentences[-1].span[1] if sentences else 0
    last = next((part for part in reversed(said) if isinstance(part, Piece)), Piece())
    return Answer(
        question,
        text[:end],
        tuple(citations.values()),
        (),
        True,
        0.0,
        sentences=sentences,
        cut_off=True,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
    )


def _usage(answer: Answer) -> dict[str, Any]:
    """Nothing here costs money."""
    free = dict.fromkeys(("prompt_unit_price", "prompt_price", "completion_unit_price", "completion_price"), "0")
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        **free,
        "prompt_price_unit": "0",
        "completion_price_unit": "0",
        "total_price": "0",
        "currency": "USD",
        "latency": round(answer.seconds, 3),
    }
