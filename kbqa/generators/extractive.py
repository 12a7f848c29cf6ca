"""The generator that needs no model: it quotes the sentences and table rows of the hits that answer the question.

Which ones do is the business of `evidence`. A table row is told by its header: 「西南大区；9月：560.2」 where the
question names a column, all its cells otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kbqa.analyzer import Passage, question_terms
from kbqa.evidence import Candidate, gather
from kbqa.sentences import sentence_spans
from kbqa.types import CELL_SEPARATOR, REFUSAL, GenerationRequest, Hit, Piece

__all__ = ["ExtractiveGenerator", "pick"]

# A further sentence is quoted when it is not much worse than the best one (in the units of evidence.WEIGHTS), holds a
# word of the question that no quoted one does, and leaves the answer short. Chosen of the pairs that
# scripts/fit_evidence.py prints: what further length buys gets less and less.
NEAR = 3.0
ENOUGH = 84  # characters
LIST = 100  # characters of a sentence with semicolons that is quoted whole


class ExtractiveGenerator:
    """Answers with at most `sentences` sentences, word for word, or table rows; one a line."""

    name = "extractive"

    def __init__(self, sentences: int = 3) -> None:
        self._sentences = sentences

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        request.cancellation.check()
        chosen = choose(request.question, request.hits, request.weights, self._sentences)
        if not chosen:
            yield Piece(REFUSAL)
        for number, text in enumerate(chosen):
            yield Piece(text if number == 0 else f"\n{text}")
        yield Piece(finish="stop")


def choose(question: str, hits: Sequence[Hit], weights: Mapping[str, float], most: int) -> list[str]:
    """The sentences that answer, best first."""
    words = question_terms(question).words
    picked = pick([(candidate.score, candidate) for candidate in gather(question, weights, hits)], most)
    told = (_told(it.text, it.header, words) if it.header else _whole(it, hits[it.rank].chunk.text) for it in picked)
    return list(dict.fromkeys(told))


def _whole(candidate: Candidate, text: str) -> str:
    """The sentence with all its parts that semicolons divide, unless that is long: one part alone may mislead.

    「满一年的，年假5天；满十年的，10天。」
    """
    spans = sentence_spans(text)
    first = last = candidate.ordinal
    while first > 0 and _goes_on(text, spans[first - 1][1], spans[first][0]):
        first -= 1
    while last + 1 < len(spans) and _goes_on(text, spans[last][1], spans[last + 1][0]):
        last += 1
    whole = text[spans[first][0] : spans[last][1]]
    return whole if len(whole) <= LIST else candidate.text


def _goes_on(text: str, end: int, start: int) -> bool:
    """Whether a semicolon, and no line break, parts what ends at `end` from what begins at `start`."""
    return text[end - 1] in "；;" and "\n" not in text[end:start]


def pick(
    scored: Sequence[tuple[float, Candidate]], most: int, near: float = NEAR, enough: int = ENOUGH
) -> list[Candidate]:
    """The candidates to quote, best first; of equals the first."""
    ranked = sorted(scored, key=lambda pair: -pair[0])
    chosen: list[Candidate] = []
    answered: frozenset[str] = frozenset()
    length = 0
    for score, candidate in ranked:
        if len(chosen) == most or score < ranked[0][0] - near:
            break
        if not chosen or (candidate.words - answered and length + len(candidate.text) <= enough):
            chosen.append(candidate)
            answered |= candidate.words
            length += len(candidate.text)
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
