"""What programs get: the same fields from `--json` and over HTTP."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kbqa.types import REFUSAL

if TYPE_CHECKING:
    from kbqa.registry import Feedback
    from kbqa.retriever import Retrieval
    from kbqa.store import StoredDocument
    from kbqa.store.catalogue import Counts, Passport
    from kbqa.types import Answer, Citation, FileReport, Hit, Sentence, Verdict

__all__ = [
    "DOUBTED",
    "answer_fields",
    "base_fields",
    "citation_fields",
    "document_fields",
    "feedback_fields",
    "file_fields",
    "passport_fields",
    "search_fields",
    "sentence_fields",
    "without_markers",
]

# How a sentence is marked in text, where the documents do not bear it out.
DOUBTED: dict[Verdict, str] = {"not": "[未证实]", "partly": "[部分证实]"}

_LIKE_MARKERS = re.compile(r"\[(\d+)\]")


def without_markers(text: str) -> str:
    """`text` for where numbers in brackets stand for sources: in those of a document or a model they get others.

    Also behind a word, where they might be code (`rows[1]`): there nothing tells them from a forged source.
    """
    return _LIKE_MARKERS.sub(r"［\1］", text)


def answer_fields(answer: Answer) -> dict[str, Any]:
    return {
        "question": answer.question,
        "answer": answer.text,
        "grounded": answer.grounded,
        "confidence": answer.confidence,
        "citations": [citation_fields(citation) for citation in answer.citations],
        "sentences": [sentence_fields(sentence) for sentence in answer.sentences],
        "seconds": round(answer.seconds, 3),
    }


def citation_fields(citation: Citation) -> dict[str, Any]:
    return {
        "marker": citation.marker,
        "source": citation.source,
        "page": citation.page,
        "heading": citation.heading,
        "quote": citation.quote,
        "span": list(citation.span),
    }


def sentence_fields(sentence: Sentence) -> dict[str, Any]:
    return {"text": sentence.text, "verdict": sentence.verdict, "markers": list(sentence.markers)}


def search_fields(question: str, found: Retrieval) -> dict[str, Any]:
    hits = [_hit_fields(rank, hit) for rank, hit in enumerate(found.hits, 1)]
    return {"question": question, "confidence": found.confidence, "hits": hits}


def _hit_fields(rank: int, hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "rank": rank,
        "score": hit.score,
        "source": chunk.source,
        "page": chunk.page,
        "heading": chunk.heading,
        "span": list(chunk.span),
        "text": chunk.text,
    }


def base_fields(name: str, counts: Counts | None) -> dict[str, Any]:
    """`counts` None: the base is not built yet."""
    return {
        "name": name,
        "built": counts is not None,
        "documents": counts.documents if counts else 0,
        "failed": counts.failed if counts else 0,
        "chunks": counts.chunks if counts else 0,
        "bytes": counts.bytes if counts else 0,
    }


def passport_fields(passport: Passport) -> dict[str, Any]:
    return asdict(passport)


def document_fields(document: StoredDocument) -> dict[str, Any]:
    return {
        "source": document.source,
        "title": document.title,
        "status": document.status,
        "origin": document.origin,
        "reader": document.reader,
        "chunks": document.chunks,
        "pages": document.pages,
        "tables": document.tables,
        "bytes": document.size,
        "error": document.error,
        "error_kind": document.error_kind,
        "warnings": list(document.warnings),
        "updated_at": datetime.fromtimestamp(document.updated_at, UTC).isoformat(timespec="seconds"),
    }


def file_fields(file: FileReport) -> dict[str, Any]:
    return {
        "source": file.source,
        "status": file.status,
        "reader": file.reader,
        "chunks": file.chunks,
        "pages": file.pages,
        "error": file.error,
        "error_kind": file.error_kind,
        "seconds": file.seconds,
    }


def feedback_fields(feedback: Feedback) -> dict[str, Any]:
    """A row of questions as `kbqa eval answers` takes them: `answer` is what was told, good only where the rating is
    up; `source` is where it stood."""
    return {
        "id": feedback.id,
        "time": datetime.fromtimestamp(feedback.created_at, UTC).isoformat(timespec="seconds"),
        "base": feedback.base,
        "who": feedback.who,
        "user": feedback.user,
        "rating": feedback.rating,
        "comment": feedback.comment,
        "question": feedback.question,
        "answer": [feedback.answer],  # a list, because a text of several lines would be several answers there
        "answerable": REFUSAL not in feedback.answer,
        "source": list(dict.fromkeys(citation["source"] for citation in feedback.citations)),
        "citations": list(feedback.citations),
    }
