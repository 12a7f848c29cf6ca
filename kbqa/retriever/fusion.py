"""Scores of words, of vectors and of a reranker, made comparable by the question and added. Touches no store, no model.

Fusing by rank was tried and lost: with a weak embedder it threw away a third of what BM25 alone had in first place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbqa.retriever.subject import named, titles_in
from kbqa.types import Chunk

__all__ = ["Candidates", "Ranking", "calibrated", "reordered"]

SUBJECT = 0.2  # of the best BM25 score, for a passage of a document that the question names
SPREAD = 0.05  # scores that lie closer together than this say little about which candidate is the best

Ranking = list[tuple[int, float]]  # (chunk id, score in [0, 1]), best first


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both arms know of the passages that may answer one question; every mapping is from chunk id.

    `lexical` are BM25 scores of what the words found, `dense` cosines of all (none where the arm has no weight).
    `words` and `meaning` are the same calibrated, in [0, 1], for all.
    """

    chunks: Mapping[int, Chunk]
    lexical: Mapping[int, float]
    dense: Mapping[int, float]
    words: Mapping[int, float]
    meaning: Mapping[int, float]

    def ranked(self, weight: float) -> Ranking:
        """By both, the dense arm counting `weight` and the lexical one the rest."""
        return _best_first({i: (1 - weight) * self.words[i] + weight * self.meaning[i] for i in self.chunks})


def calibrated(
    question: str,
    chunks: Mapping[int, Chunk],
    titles: Mapping[int, str],
    lexical: Mapping[int, float],
    dense: Mapping[int, float],
) -> Candidates:
    """BM25, with something added for a document that the question names, is divided by the best one; cosines are
    stretched from the lowest to the highest among the candidates. What an arm did not find has 0 from it.

    Looks at chunks only where the question holds one of their `titles`.
    """
    lexical = {i: score for i, score in lexical.items() if i in chunks}
    dense = {i: cosine for i, cosine in dense.items() if i in chunks}
    stretched = dict(zip(dense, _stretched(list(dense.values())), strict=True))
    return Candidates(
        chunks, lexical, dense, _words(question, chunks, titles, lexical), {i: stretched.get(i, 0.0) for i in chunks}
    )


def reordered(ranking: Ranking, judged: Sequence[float], weight: float) -> Ranking:
    """The ranking once its first ones have been judged, in its order, by a reranker whose word counts `weight`.

    Judgements are stretched as cosines are: where all come out alike, the order stays. What was not judged cannot
    overtake what was.
    """
    counted = [*_stretched(judged), *[0.0] * (len(ranking) - len(judged))]
    return _best_first(
        {i: (1 - weight) * score + weight * word for (i, score), word in zip(ranking, counted, strict=True)}
    )


def _best_first(scores: Mapping[int, float]) -> Ranking:
    return sorted(scores.items(), key=lambda candidate: (-candidate[1], candidate[0]))


def _stretched(scores: Sequence[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low + SPREAD) for score in scores]


def _words(
    question: str, chunks: Mapping[int, Chunk], titles: Mapping[int, str], lexical: Mapping[int, float]
) -> dict[int, float]:
    best = max(lexical.values(), default=0.0) or 1.0
    subject: Mapping[str, float] = {}
    if titles_in(question, (titles[i] for i in lexical)):
        subject = named(question, [chunks[i] for i in lexical if i in chunks])
    scores = {i: lexical.get(i, 0.0) / best + SUBJECT * subject.get(title, 0.0) for i, title in titles.items()}
    highest = max(scores.values(), default=1.0) or 1.0
    return {i: score / highest for i, score in scores.items()}
