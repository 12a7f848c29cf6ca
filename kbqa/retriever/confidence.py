"""Can the hits answer the question at all? A probability, from the sentence or row that speaks most for an answer.

What counts is how much of the question it holds together with its headings and neighbours; whether it holds something
that could fill the question's gap, where the question word tells what that is; whether it is about the very year, model
or class that the question names; and how many words the question has, because a long one never meets all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kbqa.evidence import gather
from kbqa.questions import gap_fillers
from kbqa.types import Hit

__all__ = ["confidence"]

LOOKED_AT = 5  # hits; an answer further down is hardly the one that was asked for
LONG = 25  # words, from which on a question's length does not matter any more

# Logistic regression on the questions of cmrc2018-a and drcd-dev: those that can be answered against those whose
# paragraph was taken out of the corpus and those whose answering sentences were taken out of the hits, both kinds
# weighing half (docs/evidence.md, scripts/fit_evidence.py).
_OWN, _CONTEXT, _NEIGHBOURS, _PAIRS, _NO_FILLER, _PINNED = 5.86, 6.32, 4.93, 4.48, -0.78, 1.61
_WORD, _INTERCEPT = 0.143, -7.31


def confidence(question: str, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How likely one of the first hits answers `question`, in [0, 1]; `weights`: its words' idf in this base."""
    best = max(gather(question, weights, hits[:LOOKED_AT]), key=lambda candidate: candidate.score, default=None)
    if best is None:
        return 0.0
    evidence = (
        _OWN * best.own
        + _CONTEXT * best.context
        + _NEIGHBOURS * (best.before + best.after)
        + _PAIRS * best.pairs
        + _NO_FILLER * (not best.gap and bool(gap_fillers(question)))
        + _PINNED * best.pinned
        + _WORD * min(len(weights), LONG)
    )
    return 1 / (1 + math.exp(-(evidence + _INTERCEPT)))
