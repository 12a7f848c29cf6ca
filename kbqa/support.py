"""Is a sentence of an answer borne out by the passages, and by which words of theirs?

A sentence is compared with each sentence (or table row) of the passages by the terms they share. Numbers and names
must be there: one that stands in no passage makes the sentence unsupported, however alike the rest is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kbqa.analyzer import analyze, fold
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import Chunk

__all__ = ["Quote", "Support", "check"]

SUPPORTED = 0.7  # share of the sentence's terms found in one quote
PARTLY = 0.4

Verdict = Literal["supported", "partly", "not"]

_NUMBER = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence or row of a chunk: `span` is in the document's text."""

    chunk: Chunk
    span: tuple[int, int]

    @property
    def text(self) -> str:
        start = self.chunk.span[0]
        return self.chunk.text[self.span[0] - start : self.span[1] - start]


@dataclass(frozen=True, slots=True)
class Support:
    """The verdict on one sentence; `share` of its terms stands in `quote`, None when nothing is alike."""

    verdict: Verdict
    quote: Quote | None
    share: float


def quotes(chunk: Chunk) -> list[Quote]:
    """The sentences and rows of a chunk, each a possible quote."""
    offset = chunk.span[0]
    return [Quote(chunk, (offset + a, offset + b)) for a, b in sentence_spans(chunk.text)]


def check(sentence: str, passages: Sequence[Chunk]) -> Support:
    """The best support for `sentence` in `passages`; of equals the first wins, so best passages go first."""
    wanted = _terms(sentence)
    if not wanted:
        return Support("not", None, 0.0)
    numbers = set(_NUMBER.findall(fold(sentence)))
    best: tuple[float, Quote] | None = None
    for chunk in passages:
        for quote in quotes(chunk):
            # What the quote's heading or table header says counts, but only for a sentence that quotes something.
            around = f"{chunk.context} {header_of(chunk.text, quote.span[0] - chunk.span[0], chunk.preface)}"
            found = wanted & _terms(quote.text)
            share = len(found | (wanted & _terms(around) if found else set())) / len(wanted)
            if numbers - set(_NUMBER.findall(fold(f"{quote.text} {around}"))):
                share = min(share, PARTLY - 0.01)
            if best is None or share > best[0]:
                best = share, quote
    if best is None or best[0] == 0:
        return Support("not", None, 0.0)
    share, quote = best
    verdict: Verdict = "supported" if share >= SUPPORTED else "partly" if share >= PARTLY else "not"
    return Support(verdict, quote, share)


def _terms(text: str) -> set[str]:
    terms = analyze(text)
    return {*terms.words, *terms.bigrams}
