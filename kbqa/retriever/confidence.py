"""Can the hits answer the question at all? A probability, from what the question asks for and the best hit holds.

What counts is whether the question's telling words stand close together, in a sentence and the one before it, with
the heading and the table header that go with it. Whether what the question pins down by number (a year, a model, a
class) is in the passage weighs on its own: one about another year looks alike in everything else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from kbqa.analyzer import Passage
from kbqa.questions import identifiers
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import Chunk, Hit

__all__ = ["confidence"]

LOOKED_AT = 3  # hits; an answer further down is hardly the one that was asked for

# Logistic regression on answerable and unanswerable questions, every set and either kind weighing the same: cmrc2018-a
# and drcd-dev (questions put while looking at the text), a company's files and knowledge/samples (questions in a
# user's own words, few). AUC 0.988, 0.944, 0.941, 0.898. At 0.3 it refuses 3, 10, 2 and 11 of 100 questions that can
# be answered and lets 10, 13, 30 and 33 of 100 pass that cannot.
_WORDS, _STRENGTH, _IDENTIFIERS, _INTERCEPT = 5.3, 2.35, 5.0, -11.0


def confidence(question: str, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How likely one of the first hits answers `question`, in [0, 1]; `weights`: its words' idf in this base."""
    mass = sum(weights.values())
    if not mass or not hits:
        return 0.0
    pinned = identifiers(question)
    best = max(
        _STRENGTH * (hit.lexical or 0.0) / mass  # what only the dense arm found has no strength
        + _IDENTIFIERS * _share(pinned, identifiers(hit.chunk.searchable))
        + _WORDS * max((_held(weights, window) / mass for window in _windows(hit.chunk)), default=0.0)
        for hit in hits[:LOOKED_AT]
    )
    return 1 / (1 + math.exp(-(best + _INTERCEPT)))


def _held(weights: Mapping[str, float], window: Passage) -> float:
    """The idf mass of the question's words that the window holds."""
    return sum(weight * window.share(word) for word, weight in weights.items())


def _share(wanted: Collection[str], found: set[str]) -> float:
    """The share of `wanted` that is there; 1 when nothing is wanted."""
    return sum(term in found for term in wanted) / len(wanted) if wanted else 1.0


def _windows(chunk: Chunk) -> Iterator[Passage]:
    """Each sentence with the one before it and with the headings and the table header that it stands under."""
    before = ""
    for start, end in sentence_spans(chunk.text):
        here = f"{header_of(chunk.text, start, chunk.preface)}\n{chunk.text[start:end]}"
        yield Passage(f"{chunk.context}\n{before}\n{here}")
        before = here
