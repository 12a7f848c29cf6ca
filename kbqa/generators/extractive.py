"""The generator that needs no model: it quotes the sentences and table rows of the hits that answer the question.

Which ones do is the business of `evidence`. A table row is told by its header: 「西南大区；9月：560.2」 where the
question names a column, all its cells otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kbqa.analyzer import Passage, question_terms
from kbqa.evidence import gather
from kbqa.types import CELL_SEPARATOR, REFUSAL, GenerationRequest, Hit, Piece

__all__ = ["ExtractiveGenerator"]

# A further sentence is quoted when it is not much worse than the best one (in the units of evidence.WEIGHTS), holds a
# word of the question that no quoted one does, and leaves the answer short. Chosen of the pairs that
# scripts/fit_evidence.py prints: what further length buys gets less and less.
NEAR = 3.0
ENOUGH = 90  # characters


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
    ranked = sorted(gather(question, weights, hits), key=lambda c: (-c.score, c.rank, c.ordinal))
    words = question_terms(question).words
    chosen: list[str] = []
    answered: frozenset[str] = frozenset()
    for candidate in ranked:
        if len(chosen) == most or candidate.score < ranked[0].score - NEAR:
            break
        text = _told(candidate.text, candidate.header, words) if candidate.header else candidate.text
        if not chosen or (candidate.words - answered and sum(map(len, chosen)) + len(text) <= ENOUGH):
            chosen.append(text)
            answered |= candidate.words
    return chosen


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
