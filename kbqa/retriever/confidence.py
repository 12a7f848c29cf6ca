"""Can the hits answer the question at all? A probability, from what the question asks for and the best hit holds.

What counts is whether the question's telling words stand close together, in a sentence and the one before it, with
the heading and the table header that go with it. Whether names and numbers of the question (Latin words, digits) are
there weighs on its own: a passage about another model or another year looks alike in everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from kbqa.analyzer import Terms, analyze
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import Chunk, Hit

__all__ = ["confidence"]

LOOKED_AT = 3  # hits; an answer further down is hardly the one that was asked for

# Logistic regression on the answerable and the unanswerable questions of cmrc2018-a and drcd-dev, balanced.
# Fitted on one set and tried on the other: AUC 0.985 and 0.953.
_WORDS, _BIGRAMS, _NAMES, _STRENGTH, _INTERCEPT = 5.9, 4.2, 1.85, 1.8, -8.3


def confidence(terms: Terms, weights: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How likely one of the first hits answers a question with these terms, in [0, 1].

    `weights` are the idf of the question's words in this base.
    """
    mass = sum(weights.values())
    if not mass:
        return 0.0
    best = -math.inf
    for hit in hits[:LOOKED_AT]:
        # Without the lexical arm's word on it (only the dense one found it) a hit has no strength.
        strength = (hit.lexical or 0.0) / mass
        for words, bigrams in _windows(hit.chunk):
            share = sum(weight * _presence(word, words, bigrams) for word, weight in weights.items()) / mass
            pairs = sum(pair in bigrams for pair in terms.bigrams) / len(terms.bigrams) if terms.bigrams else share
            names = [word for word in terms.words if word.isascii()]
            named = sum(name in words for name in names) / len(names) if names else 1.0
            score = _WORDS * share + _BIGRAMS * pairs + _NAMES * named + _STRENGTH * strength
            best = max(best, score)
    return 1 / (1 + math.exp(-(best + _INTERCEPT))) if best > -math.inf else 0.0


def _windows(chunk: Chunk) -> Iterator[tuple[set[str], set[str]]]:
    """Words and bigrams of each sentence with the one before it and with what the chunk belongs to."""
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
