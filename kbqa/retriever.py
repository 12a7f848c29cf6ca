"""A question to Hits: the lexical and the dense arm, fused by calibrated scores, and how far they can be trusted.

Both arms give their best `candidates`; each candidate gets a score from both, so that nothing is ranked by where it
was found. BM25 is put on [0, 1] by the best score of this question, the cosine by how far it stands out of the
cosines that unrelated texts have under this embedder. Rank fusion was tried and lost: with a weak embedder it threw
away a third of what BM25 alone had in first place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kbqa.analyzer import Terms, analyze, question_terms
from kbqa.config import RetrievalConfig
from kbqa.errors import QuestionError
from kbqa.types import Chunk, Embedder, Hit, Turn

if TYPE_CHECKING:
    from kbqa.store import Store

__all__ = ["Retrieval", "Retriever", "expand", "standalone"]

DEFAULT_DENSE_WEIGHT = 0.2


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
        own = getattr(embedder, "fusion_weight", DEFAULT_DENSE_WEIGHT)
        self._dense_weight = own if config.dense_weight is None else config.dense_weight

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
        for chunk_id, other in self._store.vectors(lexical.keys() - dense.keys()).items():
            dense[chunk_id] = float(other @ vector)
        scored = self._fuse(lexical, dense)
        best = sorted(scored, key=lambda hit: (-hit[1], hit[0]))[:wanted]
        chunks = self._store.chunks([chunk_id for chunk_id, _ in best])
        hits = [
            Hit(chunks[chunk_id], score, lexical.get(chunk_id), dense.get(chunk_id))
            for chunk_id, score in best
            if chunk_id in chunks
        ]
        hits = hits[:k]
        return Retrieval(tuple(hits), confidence(terms, weights, hits), weights)

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
        top = max(lexical.values(), default=0.0) or 1.0
        weight = self._dense_weight
        floor = getattr(self._embedder, "unrelated_cosine", 0.0)
        return [
            (
                chunk_id,
                (1 - weight) * lexical.get(chunk_id, 0.0) / top
                + weight * max(0.0, (dense.get(chunk_id, 0.0) - floor) / (1 - floor)),
            )
            for chunk_id in lexical.keys() | dense.keys()
        ]

    def _weights(self, terms: Terms) -> dict[str, float]:
        """idf of the question's words, as BM25 has it; a word that no chunk holds weighs as one that a single does."""
        total = self._store.chunk_count
        frequencies = self._store.word_frequencies(terms.words)
        return {
            word: math.log(1 + (total - max(n, 1) + 0.5) / (max(n, 1) + 0.5)) if total else 0.0
            for word, n in zip(terms.words, frequencies, strict=True)
        }


# --- can the hits answer at all? ------------------------------------------------------------------------------------


def confidence(terms: Terms, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How likely one of the first hits answers a question with these terms, in [0, 1]."""
    return max((coverage(terms, weights, hit.chunk) for hit in hits[:3]), default=0.0)


def coverage(terms: Terms, weights: Mapping[str, float], chunk: Chunk) -> float:
    """The share of the question's idf mass that stands in the chunk or in what it belongs to."""
    found = analyze(chunk.searchable)
    words, bigrams = set(found.words), set(found.bigrams)
    mass = sum(weights.values())
    if not mass:
        return 0.0
    share = sum(weight * _presence(word, words, bigrams) for word, weight in weights.items()) / mass
    return share


def _presence(word: str, words: set[str], bigrams: set[str]) -> float:
    """1 where the word stands, else the share of its character pairs that do (报销制度 in 报销办法: a third)."""
    if word in words:
        return 1.0
    pairs = [word[i : i + 2] for i in range(len(word) - 1)] if not word.isascii() else []
    return sum(pair in bigrams for pair in pairs) / len(pairs) if pairs else 0.0


# --- follow-up questions --------------------------------------------------------------------------------------------

_LEANS_ON_HISTORY = re.compile(
    r"^(那么?|还有|另外|然后|其中|以及|此外|and\b|what about|how about)|"
    r"(它|他们?|她们?|这个|那个|这些|那些|该|上述|前者|后者|呢[？?]?$)|"
    r"\b(it|its|they|them|their|that|those|this|these|he|she|his|her)\b",
    re.IGNORECASE,
)
FEW_WORDS = 2  # telling words in a question that can hardly stand alone


def standalone(question: str, history: Sequence[Turn]) -> str:
    """The question with what it leaves unsaid taken from the question before it.

    A question that points back (「那上海呢？」, 「它的保修期多长？」) or has next to no telling word of its own gets
    the words of the previous question in front, which retrieval weighs with its own. Others stay as they are.
    """
    if not history:
        return question
    telling = [word for word in question_terms(question).words if len(word) > 1]
    if not _LEANS_ON_HISTORY.search(question.strip()) and len(telling) > FEW_WORDS:
        return question
    previous = standalone(history[-1][0], history[:-1])[-500:]
    return f"{previous} {question}"


# --- passages -------------------------------------------------------------------------------------------------------


def expand(hits: Iterable[Hit], store: Store, neighbours: int) -> list[tuple[str, tuple[Chunk, ...]]]:
    """Each hit with the chunks around it in the same section, as one text and the chunks it was made of.

    A hit that already stands in the passage of a better one gets none of its own.
    """
    passages: list[tuple[str, tuple[Chunk, ...]]] = []
    shown: set[int] = set()
    for hit in hits:
        chunk = hit.chunk
        if chunk.id in shown:
            continue
        around = store.neighbours(chunk.source, chunk.ordinal - neighbours, chunk.ordinal + neighbours)
        run = [other for other in around if other.heading == chunk.heading and other.id not in shown] or [chunk]
        run = _run_around(run, chunk.ordinal)
        shown |= {other.id for other in run}
        passages.append((_joined(run), tuple(run)))
    return passages


def _run_around(chunks: Sequence[Chunk], ordinal: int) -> list[Chunk]:
    """The unbroken run of ordinals that holds `ordinal`."""
    by_ordinal = {chunk.ordinal: chunk for chunk in chunks}
    first = last = ordinal
    while first - 1 in by_ordinal:
        first -= 1
    while last + 1 in by_ordinal:
        last += 1
    return [by_ordinal[at] for at in range(first, last + 1)]


def _joined(chunks: Sequence[Chunk]) -> str:
    """Neighbouring chunks as one text: the context first, overlaps once."""
    first = chunks[0]
    text = first.passage
    end = first.span[1]
    for chunk in chunks[1:]:
        overlap = end - chunk.span[0]
        text += chunk.text[overlap:] if overlap >= 0 else f"\n{chunk.text}"
        end = chunk.span[1]
    return f"{first.context}\n{text}" if first.context else text
