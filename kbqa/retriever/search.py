"""A question to Hits: the lexical and the dense arm, fused by calibrated scores, and how far they can be trusted.

Both arms give their best `candidates`; each candidate gets a score from both, so that nothing is ranked by where it
was found. Scores are calibrated by the question: BM25 is divided by the best one, cosines are stretched from the
lowest to the highest among the candidates. Then they are added. Fusing by rank was tried and lost: with a weak
embedder it threw away a third of what BM25 alone had in first place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kbqa.analyzer import Terms, question_terms
from kbqa.config import RetrievalConfig
from kbqa.errors import QuestionError
from kbqa.retriever.confidence import confidence
from kbqa.types import Embedder, Hit

if TYPE_CHECKING:
    from kbqa.store import Store

__all__ = ["Retrieval", "Retriever"]

SPREAD = 0.05  # cosines that lie closer together than this say little about which candidate is the best


@dataclass(frozen=True, slots=True)
class Retrieval:
    """`hits`, best first; `confidence` in [0, 1] that they answer the question; `weights`: word -> idf."""

    hits: tuple[Hit, ...]
    confidence: float
    weights: Mapping[str, float]


class Retriever:
    """Searches one store. Safe to use from many threads."""

    def __init__(self, store: Store, embedder: Embedder, config: RetrievalConfig) -> None:
        self._store = store
        self._embedder = embedder
        self._config = config

    def search(self, question: str, k: int | None = None) -> Retrieval:
        """The `k` best chunks (config.k unless given); QuestionError for an empty or overlong question."""
        question = self._usable(question)
        k = self._config.k if k is None else k
        wanted = max(k, self._config.candidates)
        terms = question_terms(question)
        weights = self._weights(terms)
        lexical = dict(self._store.search_words(terms, wanted))
        vector = self._embedder.embed_query(question)
        dense = dict(self._store.search_vectors(vector, wanted))
        unseen = lexical.keys() - dense.keys()
        dense |= dict.fromkeys(unseen, 0.0)  # a chunk may be removed while we look
        dense |= {chunk_id: float(other @ vector) for chunk_id, other in self._store.vectors(unseen).items()}
        ranked = sorted(self._fuse(lexical, dense), key=lambda candidate: (-candidate[1], candidate[0]))
        chunks = self._store.chunks([chunk_id for chunk_id, _ in ranked[:k]])
        if len(chunks) < min(k, len(ranked)):  # some were removed while we looked: others take their places
            chunks = self._store.chunks([chunk_id for chunk_id, _ in ranked])
        hits = [
            Hit(chunks[chunk_id], score, lexical.get(chunk_id), dense.get(chunk_id))
            for chunk_id, score in ranked
            if chunk_id in chunks
        ][:k]
        return Retrieval(tuple(hits), confidence(question, weights, hits), weights)

    def _usable(self, question: str) -> str:
        question = question.strip()
        if not question:
            raise QuestionError("the question is empty")
        limit = self._config.max_question_characters
        if len(question) > limit:
            raise QuestionError(
                f"the question has {len(question)} characters; at most {limit} are allowed "
                "(retrieval.max_question_characters)"
            )
        return question

    def _fuse(self, lexical: Mapping[int, float], dense: Mapping[int, float]) -> list[tuple[int, float]]:
        """(chunk id, score in [0, 1]) of every candidate. Every one of them has a cosine; BM25 may be missing: 0."""
        best = max(lexical.values(), default=0.0) or 1.0
        low, high = min(dense.values(), default=0.0), max(dense.values(), default=0.0)
        weight = self._config.dense_weight
        return [
            (i, (1 - weight) * lexical.get(i, 0.0) / best + weight * (cosine - low) / (high - low + SPREAD))
            for i, cosine in dense.items()
        ]

    def _weights(self, terms: Terms) -> dict[str, float]:
        """idf of the question's words, as BM25 has it; a word that no chunk holds weighs as one that a single does."""
        total = self._store.chunk_count
        frequencies = self._store.word_frequencies(terms.words)
        return {
            word: math.log(1 + (total - max(n, 1) + 0.5) / (max(n, 1) + 0.5)) if total else 0.0
            for word, n in zip(terms.words, frequencies, strict=True)
        }
