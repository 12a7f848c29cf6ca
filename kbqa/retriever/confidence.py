"""Can the hits answer the question at all? A probability, from what the question asks for and the best hit holds.

What counts is whether the question's telling words stand close together, in a sentence and the one before it, with
the heading and the table header that go with it. Whether what the question pins down by number (a year, a model, a
class) is in the passage weighs on its own: one about another year looks alike in everything else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from kbqa.analyzer import Terms, analyze, stop_words
from kbqa.questions import identifiers
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import Chunk, Hit

__all__ = ["confidence"]

LOOKED_AT = 3  # hits; an answer further down is hardly the one that was asked for

# Logistic regression on answerable and unanswerable questions, every set and either kind weighing the same: cmrc2018-a
# and drcd-dev (questions put while looking at the text), a company's files and knowledge/samples (questions in a
# user's own words, few). AUC 0.989, 0.949, 0.937, 0.926.
_WORDS, _BIGRAMS, _STRENGTH, _IDENTIFIERS, _INTERCEPT = 5.4, 0.75, 2.0, 3.35, -9.35


def confidence(question: str, terms: Terms, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How likely one of the first hits answers `question`, in [0, 1].

    `terms` are the question's, `weights` the idf of its words in this base.
    """
    mass = sum(weights.values())
    if not mass or not hits:
        return 0.0
    pinned = identifiers(question)
    best = max(
        _STRENGTH * (hit.lexical or 0.0) / mass  # what only the dense arm found has no strength
        + _IDENTIFIERS * _share(pinned, identifiers(hit.chunk.searchable))
        + max((_closeness(terms, weights, mass, *window) for window in _windows(hit.chunk)), default=0.0)
        for hit in hits[:LOOKED_AT]
    )
    return 1 / (1 + math.exp(-(best + _INTERCEPT)))


def _closeness(terms: Terms, weights: Mapping[str, float], mass: float, words: set[str], bigrams: set[str]) -> float:
    share = sum(weight * _presence(word, words, bigrams) for word, weight in weights.items()) / mass
    telling = [pair for pair in terms.bigrams if stop_words().isdisjoint(pair)]
    pairs = _share(telling, bigrams) if telling else share
    return _WORDS * share + _BIGRAMS * pairs


def _share(wanted: Collection[str], found: set[str]) -> float:
    """The share of `wanted` that is there; 1 when nothing is wanted."""
    return sum(term in found for term in wanted) / len(wanted) if wanted else 1.0


def _windows(chunk: Chunk) -> Iterator[tuple[set[str], set[str]]]:
    """Words and bigrams of each sentence, with those of the one before it and of what the chunk belongs to."""
    around = analyze(chunk.context)
    before = Terms([], [])
    for start, end in sentence_spans(chunk.text):
        here = analyze(f"{header_of(chunk.text, start, chunk.preface)}\n{chunk.text[start:end]}")
        yield {*around.words, *before.words, *here.words}, {*around.bigrams, *before.bigrams, *here.bigrams}
        before = here


def _presence(word: str, words: set[str], bigrams: set[str]) -> float:
    """1 where the word stands, else the share of its character pairs that do (报销制度 in 报销办法: a third)."""
    if word in words:
        return 1.0
    pairs = [word[i : i + 2] for i in range(len(word) - 1)] if not word.isascii() else []
    return sum(pair in bigrams for pair in pairs) / len(pairs) if pairs else 0.0
