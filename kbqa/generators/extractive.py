"""The generator that needs no model: it quotes the sentences and table rows of the hits that answer the question.

Which ones do is the business of `evidence`. A table row is told by its header: 「西南大区；9月：560.2」 where the
question names a column, all its cells otherwise. A sentence that points at a table (见下表) is told with its rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kbqa.analyzer import Passage, question_terms
from kbqa.evidence import Candidate, gather
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import CELL_SEPARATOR, REFUSAL, Chunk, GenerationRequest, Hit, Piece

__all__ = ["ExtractiveGenerator", "pick"]

# A further sentence is quoted when it is not much worse than the best one (in the units of evidence.WEIGHTS), holds a
# word of the question that no quoted one does, and leaves the answer short. Chosen of the pairs that
# scripts/fit_evidence.py prints: what further length buys gets less and less.
NEAR = 3.0
ENOUGH = 84  # characters
LIST = 100  # characters of a sentence with semicolons that is quoted whole
ROWS = 8  # of a table that a sentence points at, ...
TABLE = 320  # ... and characters: a longer one is not told

_POINTS = re.compile(r"下表|表如下|如下[:：。]?$|\b(?:following|below) table|table below", re.IGNORECASE)


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
    candidates = gather(question, weights, hits)
    picked = pick([(candidate.score, candidate) for candidate in candidates], most)
    told: dict[str, None] = {}
    for it in picked:
        if sum(map(len, told)) <= ENOUGH:  # a table may be longer
            told |= dict.fromkeys(_all_of(it, hits[it.rank].chunk, candidates, words))
    return list(told)


def _all_of(candidate: Candidate, chunk: Chunk, candidates: Sequence[Candidate], words: Sequence[str]) -> list[str]:
    """What is told of a candidate, a text a line."""
    if candidate.header:
        rows = [(row.text, row.header) for row in _equals(candidate, candidates)]
        return [_told(row, header, words) for row, header in _short(rows) or [(candidate.text, candidate.header)]]
    table = _table_behind(candidate, chunk) if _POINTS.search(candidate.text) else _attached(candidate, candidates)
    return [_whole(candidate, chunk.text), *(_told(row, header, words) for row, header in table)]


def _equals(row: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """All rows of its table, if the question names none of them; else itself alone."""
    rows = [it for it in candidates if (it.rank, it.header) == (row.rank, row.header)]
    return rows if all((it.own, it.ranged) == (row.own, 0) for it in rows) else [row]


def _attached(candidate: Candidate, candidates: Sequence[Candidate]) -> list[tuple[str, str]]:
    """(row, header) of the table elsewhere in the document that the candidate points at (见附表一)."""
    return _short([(it.text, it.header) for it in candidates if it.pointer == candidate.text])


def _table_behind(candidate: Candidate, chunk: Chunk) -> list[tuple[str, str]]:
    """(row, header) of the first table of the passage behind the candidate; none where it is long."""
    rows: list[tuple[str, str]] = []
    for start, end in sentence_spans(chunk.text)[candidate.ordinal + 1 :]:
        if header := header_of(chunk.text, start, chunk.preface):
            rows.append((chunk.text[start:end], header))
        elif rows:
            break
    return _short(rows)


def _short(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The rows, none where they are long."""
    return rows if len(rows) <= ROWS and sum(len(row) for row, _ in rows) <= TABLE else []


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
    words = [word for word in words if Passage(names[0]).share(word) < 1]  # 城市 names rows, and no 城市范围
    # Counting tells 「9月」 from 「8月」, which shares a word with it.
    named = [sum(Passage(name).share(word) == 1 for word in words) for name in names[1:]]
    if best := max(named, default=0):
        asked = [column for column, count in zip(columns[1:], named, strict=True) if count == best]
        return "；".join([cells[0], *(f"{name}：{cell}" for name, cell in asked)])
    return "；".join(f"{name}：{cell}" for name, cell in columns if cell)
