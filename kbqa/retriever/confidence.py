"""Can the hits answer the question at all? A probability, from the sentence or row that speaks most for an answer.

What counts is how much of the question it holds together with its headings and the rest of its passage; whether it
holds something that could fill the question's gap, where the question word tells what that is; whether the passage is
about the very year, model or class that the question names; and how many words the question has, because a long one
never meets all of them.

A question about several things (「甲和乙分别……」, 「比较……」) is as sure as each of them is: the geometric mean. For a
summary all passages count as one. What only says what to do with the passages (比较, 总结) need not stand in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kbqa.analyzer import question_terms, stop_words
from kbqa.evidence import Candidate, gather, together
from kbqa.questions import gap_fillers, identifiers, share_held, task
from kbqa.types import Hit

__all__ = ["confidence"]

LOOKED_AT = 3  # hits; an answer further down is hardly the one that was asked for
LOOKED_AT_FOR_SEVERAL = 5
LONG = 25  # words, from which on a question's length does not matter any more

# Logistic regression on the questions of cmrc2018-a and drcd-dev, single ones and compounds of two or three: those that
# can be answered against those whose paragraph was taken out of the corpus and those whose answering sentences were
# taken out of the hits (docs/evidence.md, scripts/fit_evidence.py).
COEFFICIENTS = {
    "own": 6.04,
    "context": 7.07,
    "neighbours": 6.53,
    "elsewhere": 8.06,
    "pieces": 5.05,
    "no filler": -0.47,
    "pinned": 1.50,
    "words": 0.128,
}
INTERCEPT = -7.62


def confidence(question: str, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How likely the first hits answer `question`, in [0, 1]; `weights`: its words' idf in this base."""
    if stop_words().issuperset(question_terms(question).words):
        return 0.0  # a, 什么: said of nothing
    asked = task(question)
    match asked.kind:
        case "one":
            return _of_one(asked.parts[0], _of_part(asked.parts[0], question, weights), hits[:LOOKED_AT])
        case "several":
            hits = hits[:LOOKED_AT_FOR_SEVERAL]
            sure = [_of_one(part, _of_part(part, question, weights), hits) for part in asked.parts]
            return math.prod(sure) ** (1 / len(sure))
        case "summary":
            (part,) = asked.parts
            hits = hits[:LOOKED_AT_FOR_SEVERAL]
            weights = _of_part(part, question, weights)
            passages = "\n".join(hit.chunk.searchable for hit in hits)
            best = together(part, weights, hits)
            return _probability(features(part, len(weights), best, passages)) if best else 0.0


def _of_part(part: str, question: str, weights: Mapping[str, float]) -> Mapping[str, float]:
    """The weights of the words that a part of the question has; of all, if it has none of its own."""
    if part == question:
        return weights
    words = set(question_terms(part).words)
    return {word: weight for word, weight in weights.items() if word in words} or weights


def _of_one(question: str, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    best = max(gather(question, weights, hits), key=lambda candidate: candidate.score, default=None)
    if best is None:
        return 0.0
    return _probability(features(question, len(weights), best, hits[best.rank].chunk.searchable))


def _probability(found: Mapping[str, float]) -> float:
    return 1 / (1 + math.exp(-INTERCEPT - sum(COEFFICIENTS[name] * value for name, value in found.items())))


def features(question: str, words: int, best: Candidate, passage: str) -> dict[str, float]:
    """What the regression looks at: of the best candidate, of its passage, and how many telling words are asked for."""
    return {
        "own": best.own,
        "context": best.context,
        "neighbours": best.before + best.after,
        "elsewhere": best.elsewhere,
        "pieces": best.pieces,
        "no filler": float(not best.gap and bool(gap_fillers(question))),
        "pinned": share_held(identifiers(question), passage),
        "words": float(min(words, LONG)),
    }
