"""What can bear a sentence out: the sentences and rows of the passages, taken apart once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from kbqa.sentences import header_of, sentence_spans
from kbqa.support.spelling import plain
from kbqa.support.wording import Wording
from kbqa.types import CELL_SEPARATOR, Chunk

__all__ = ["Candidate", "Quote", "candidates", "quotes"]

REMEMBERED = 256  # chunks, some 20 MB: an answer's sentences are all held against the same ones
BEFORE = 3  # sentences before a quote that may tell what it is about


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
class Candidate:
    """A quote with its wording. `title` is that of its title, heading and table header, `before` of what precedes."""

    quote: Quote
    ordinal: int  # in its chunk
    wording: Wording
    title: Wording
    before: Sequence[Wording]

    @property
    def around(self) -> Sequence[Wording]:
        return (self.title, *self.before)

    def follows(self, other: Candidate) -> bool:
        """Whether it comes next in the same passage."""
        return self.quote.chunk is other.quote.chunk and self.ordinal == other.ordinal + 1


def quotes(passages: Sequence[Chunk]) -> list[Quote]:
    """All sentences and rows, in order."""
    return [quote for chunk in passages for quote in _quotes(chunk)]


def candidates(passages: Sequence[Chunk]) -> list[Candidate]:
    """The same, taken apart: that takes far longer."""
    return [candidate for chunk in passages for candidate in _read(chunk)]


@lru_cache(maxsize=REMEMBERED)
def _quotes(chunk: Chunk) -> Sequence[Quote]:
    offset = chunk.span[0]
    return [Quote(chunk, (offset + start, offset + end)) for start, end in sentence_spans(chunk.text)]


@lru_cache(maxsize=REMEMBERED)
def _read(chunk: Chunk) -> Sequence[Candidate]:
    offset, found = chunk.span[0], _quotes(chunk)
    told = "\n".join(_told(chunk, quote.span[0] - offset, quote.span[1] - offset) for quote in found)
    wordings = [Wording(line) for line in plain(told).split("\n")]  # spelled all at once, which is much faster
    title = Wording(plain(f"{chunk.context}\n{chunk.preface}"))
    return [Candidate(quote, n, wordings[n], title, wordings[max(0, n - BEFORE) : n]) for n, quote in enumerate(found)]


def _told(chunk: Chunk, start: int, end: int) -> str:
    """A sentence in one line; a row as 「大区 西南 8月 180, 大区 西南 9月 560.2」, each cell with its names."""
    text = chunk.text[start:end]
    cells = text.split(CELL_SEPARATOR)
    names = header_of(chunk.text, start, chunk.preface).split("\n")[-1].split(CELL_SEPARATOR)
    if len(cells) > 1 and len(names) == len(cells):
        key = f"{names[0]} {cells[0]}"
        text = ", ".join(f"{key} {name} {cell}" for name, cell in zip(names[1:], cells[1:], strict=True))
    return text.replace("\n", " ")
