"""A question to Hits: the lexical and the dense arm, fused by calibrated scores, and how far they can be trusted.

Both arms give their best `candidates`; each candidate gets a score from both, so that nothing is ranked by where it
was found. Scores are calibrated by the question: BM25, with something added for a document that the question names, is
divided by the best one; cosines are stretched from the lowest to the highest among the candidates. Then they are added.
Fusing by rank was tried and lost: with a weak embedder it threw away a third of what BM25 alone had in first place.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kbqa.analyzer import Terms, question_terms
from kbqa.config import RetrievalConfig
from kbqa.errors import QuestionError
from kbqa.retriever.confidence import confidence
from kbqa.retriever.subject import named
from kbqa.types import Chunk, Embedder, Hit

if TYPE_CHECKING:
    from kbqa.store import Store
    from kbqa.types import Vectors

__all__ = ["Retrieval", "Retriever"]

SUBJECT = 0.2  # of the best BM25 score, for a passage of a document that the question names
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
        vector, near = self._nearest(question, wanted)
        dense = near | self._cosines(vector, lexical.keys() - near.keys())
        chunks = self._store.chunks(dense.keys() | lexical.keys())  # some may be removed while we look
        lexical = {chunk_id: score for chunk_id, score in lexical.items() if chunk_id in chunks}
        dense = {chunk_id: cosine for chunk_id, cosine in dense.items() if chunk_id in chunks}
        ranked = sorted(
            self._fuse(question, chunks, lexical, dense), key=lambda candidate: (-candidate[1], candidate[0])
        )
        hits = [
            Hit(chunks[chunk_id], score, lexical.get(chunk_id), dense.get(chunk_id)) for chunk_id, score in ranked[:k]
        ]
        return Retrieval(tuple(hits), confidence(question, weights, hits), weights)

    def _nearest(self, question: str, wanted: int) -> tuple[Vectors | None, dict[int, float]]:
        """The question's vector and the cosines of the `wanted` nearest chunks; nothing where the arm has no weight."""
        if not self._config.dense_weight:
            return None, {}
        vector = self._embedder.embed_query(question)
        return vector, dict(self._store.search_vectors(vector, wanted))

    def _cosines(self, vector: Vectors | None, ids: Collection[int]) -> dict[int, float]:
        """Of chunks that the dense arm did not find itself; 0 for one that is removed while we look."""
        if vector is None:
            return {}
        stored = self._store.vectors(ids)
        return {i: float(stored[i] @ vector) if i in stored else 0.0 for i in ids}

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

    def _fuse(
        self,
        question: str,
        chunks: Mapping[int, Chunk],
        lexical: Mapping[int, float],
        dense: Mapping[int, float],
    ) -> list[tuple[int, float]]:
        """(chunk id, score in [0, 1]) of every candidate; what an arm did not find has 0 from it."""
        words = _calibrated(question, chunks, lexical)
        low, high = min(dense.values(), default=0.0), max(dense.values(), default=0.0)
        weight = self._config.dense_weight
        return [
            (i, (1 - weight) * words[i] + weight * (dense.get(i, low) - low) / (high - low + SPREAD)) for i in chunks
        ]

    def _weights(self, terms: Terms) -> dict[str, float]:
        """idf of the question's words, as BM25 has it; a word that no chunk holds weighs as one that a single does."""
        total = self._store.chunk_count
        frequencies = self._store.word_frequencies(terms.words)
        return {
            word: math.log(1 + (total - max(n, 1) + 0.5) / (max(n, 1) + 0.5)) if total else 0.0
            for word, n in zip(terms.words, frequencies, strict=True)
        }


def _calibrated(question: str, chunks: Mapping[int, Chunk], lexical: Mapping[int, float]) -> dict[int, float]:
    """The lexical score of every candidate, in [0, 1]."""
    best = max(lexical.values(), default=0.0) or 1.0
    subject = named(question, [chunks[i] for i in lexical])
    scores = {i: lexical.get(i, 0.0) / best + SUBJECT * subject.get(chunk.title, 0.0) for i, chunk in chunks.items()}
    highest = max(scores.values(), default=1.0) or 1.0
    return {i: score / highest for i, score in scores.items()}
