"""Can the hits answer the question at all? A probability, from the sentence or row that speaks most for an answer.

What counts is how much of the question it holds together with its headings and the rest of its passage; whether it
holds something that could fill the question's gap, where the question word tells what that is; whether the passage is
about the very year, model or class that the question names; and how many words the question has, because a long one
never meets all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kbqa.evidence import Candidate, gather
from kbqa.questions import gap_fillers, identifiers, share_held
from kbqa.types import Hit

__all__ = ["confidence"]

LOOKED_AT = 3  # hits; an answer further down is hardly the one that was asked for
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
    """How likely one of the first hits answers `question`, in [0, 1]; `weights`: its words' idf in this base."""
    best = max(gather(question, weights, hits[:LOOKED_AT]), key=lambda candidate: candidate.score, default=None)
    if best is None:
        return 0.0
    found = features(question, len(weights), best, hits[best.rank])
    return 1 / (1 + math.exp(-INTERCEPT - sum(COEFFICIENTS[name] * value for name, value in found.items())))


def features(question: str, words: int, best: Candidate, hit: Hit) -> dict[str, float]:
    """What the regression looks at: of the best candidate, of its hit, and how many telling words the question has."""
    return {
        "own": best.own,
        "context": best.context,
        "neighbours": best.before + best.after,
        "elsewhere": best.elsewhere,
        "pieces": best.pieces,
        "no filler": float(not best.gap and bool(gap_fillers(question))),
        "pinned": share_held(identifiers(question), hit.chunk.searchable),
        "words": float(min(words, LONG)),
    }
