"""The generator that needs no model: it quotes the sentences and table rows of the hits that answer the question.

A table row is told by its header: 「西南大区；9月：560.2」 where the question names a column, all its cells otherwise.

A candidate is scored by the question's words it holds, each by how telling it is in the base; words that stand in
its heading or table header count for less, and a sentence that could fill the question's gap (a number for 多少, a
date for 什么时候, ...) for more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kbqa.analyzer import Passage, fold, question_terms
from kbqa.questions import gap_fillers, identifiers
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import CELL_SEPARATOR, REFUSAL, GenerationRequest, Hit, Piece

__all__ = ["ExtractiveGenerator"]

CONTEXT_SHARE = 0.5  # what a word is worth that stands in the heading path or the table header
BEFORE_SHARE = 0.3  # ... or in the sentence before, which it may lean on
BIGRAM_SHARE = 0.4  # of a word's weight, for the share of its character pairs found where the word itself is not
GAP_BONUS = 0.25  # for something that could fill the question's gap
PINNED_BONUS = 0.25  # for the numbers and model names of the question
NEXT_BEST = 0.8  # a further sentence must score so much of the best one and add words that are not answered yet
RANK_DECAY = 0.03

FRAGMENT = 0.75  # what does not end like a sentence is often a title or a running head

_WHOLE = re.compile(r"[。！？；：!?.;:…”」』）)\"'\]]$")


@dataclass(frozen=True, slots=True)
class _Candidate:
    text: str
    score: float
    answers: frozenset[str]  # the question's words it holds
    rank: int  # of its hit
    ordinal: int  # within the hit


class ExtractiveGenerator:
    """Answers with at most `sentences` sentences, word for word, or table rows; one a line."""

    name = "extractive"

    def __init__(self, sentences: int = 3) -> None:
        self._sentences = sentences

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        chosen = choose(request.question, request.hits, request.weights, self._sentences)
        if not chosen:
            yield Piece(REFUSAL)
        for number, text in enumerate(chosen):
            yield Piece(text if number == 0 else f"\n{text}")
        yield Piece(finish="stop")


def choose(question: str, hits: Sequence[Hit], weights: Mapping[str, float], most: int) -> list[str]:
    """The sentences that answer, best first."""
    candidates = sorted(_candidates(question, hits, weights), key=lambda c: (-c.score, c.rank, c.ordinal))
    if not candidates or candidates[0].score <= 0:
        return []
    best = candidates[0]
    chosen, answered = [best], set(best.answers)
    for other in candidates[1:]:
        if len(chosen) == most or other.score < NEXT_BEST * best.score:
            break
        if other.answers - answered and other.text not in {c.text for c in chosen}:
            chosen.append(other)
            answered |= other.answers
    return [candidate.text for candidate in chosen]


def _candidates(question: str, hits: Sequence[Hit], weights: Mapping[str, float]) -> Iterator[_Candidate]:
    words = question_terms(question).words
    mass = sum(weights.get(word, 1.0) for word in words) or 1.0
    gaps, pinned = gap_fillers(question), identifiers(question)
    for rank, hit in enumerate(hits):
        chunk = hit.chunk
        before = Passage("")
        for ordinal, (start, end) in enumerate(sentence_spans(chunk.text)):
            text = chunk.text[start:end]
            header = header_of(chunk.text, start, chunk.preface)
            context = Passage(f"{chunk.context}\n{header}")
            here = Passage(text)
            score = 0.0
            for word in words:
                weight = weights.get(word, 1.0)
                score += weight * max(
                    _worth(here.share(word)),
                    CONTEXT_SHARE * _worth(context.share(word)),
                    BEFORE_SHARE * _worth(before.share(word)),
                )
            score /= mass
            if score and any(filler.search(fold(text)) for filler in gaps):
                score += GAP_BONUS
            if score and pinned:
                score += PINNED_BONUS * len(pinned & identifiers(f"{text}\n{header}\n{chunk.context}")) / len(pinned)
            if not header and not _WHOLE.search(text):
                score *= FRAGMENT
            score *= 1 - RANK_DECAY * rank
            answers = frozenset(word for word in words if here.share(word) == 1)
            if answers or score > 0:
                yield _Candidate(_told(text, header, words) if header else text, score, answers, rank, ordinal)
            before = here


def _worth(share: float) -> float:
    """A word that stands only in part is worth less than its part."""
    return share if share == 1 else BIGRAM_SHARE * share


def _told(row: str, header: str, words: Sequence[str]) -> str:
    """A table row as 「first cell；column：cell；...」 of the columns that the question names best, or of all."""
    names, cells = header.splitlines()[-1].split(CELL_SEPARATOR), row.split(CELL_SEPARATOR)
    if len(names) != len(cells):
        return row
    columns = list(zip(names, cells, strict=True))
    # Counting tells 「9月」 from 「8月」, which shares a word with it.
    named = [sum(Passage(name).share(word) == 1 for word in words) for name in names[1:]]
    if best := max(named, default=0):
        asked = [column for column, count in zip(columns[1:], named, strict=True) if count == best]
        return "；".join([cells[0], *(f"{name}：{cell}" for name, cell in asked)])
    return "；".join(f"{name}：{cell}" for name, cell in columns if cell)
