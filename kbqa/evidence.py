"""What in the hits speaks for an answer: their sentences and table rows, each weighed against the question.

Two ask for it: the extractive generator quotes the best ones, the confidence says how likely the best one answers. A
sentence is weighed by the question's words, each by how telling it is in the base (`weights`, idf): those that stand in
the sentence itself, those that only its headings or table header hold, and those that the neighbouring sentences hold,
on which it may lean (「其长1.2米」). Then there is what could fill the question's gap, and whatever the question pins
down by number. A row for a range of numbers (满5年不满15年) is the one for those in it, and for no other.

Knows nothing about indexes, models or thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kbqa.analyzer import Passage, fold, latin, names_somebody, question_terms, whole_names
from kbqa.pointers import label_of, pointers
from kbqa.questions import gap_fillers, identifiers, office_asked, share_held
from kbqa.ranges import Asked, Range, asked_amounts, clause_ranges, ranges
from kbqa.sentences import header_of, sentence_spans
from kbqa.types import CELL_SEPARATOR, Chunk, Hit

__all__ = ["Candidate", "gather", "together"]

AT_ONCE = 64  # questions remembered: the confidence asks for the same candidates as the generator does a moment later

_ASKS = re.compile(r"^[^\n。；!?！？]*[?？]$", re.MULTILINE)  # a line that is a question, and is answered below
_WHOLE = re.compile(r"[。！？；：!?.;:…”」』）)\"'\]]$")

# A linear ranker over the fields of Candidate: softmax over the candidates of a question, fitted on the questions of
# cmrc2018-a and drcd-dev that can be answered (scripts/fit_evidence.py, docs/evidence.md).
WEIGHTS = {
    "own": 12.34,
    "context": 11.80,
    "before": 6.18,
    "after": 5.23,
    "pieces": 2.11,
    "gap": 2.91,
    "pinned": 0.37,
    "hit_score": 6.49,
    "whole": 2.32,
}


RANGED = 6.0  # what it counts that a row's range holds the question's number, or does not; by judgement, not fitted


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence or table row of a hit. All shares are in [0, 1], those of words weighed by idf."""

    text: str
    header: str  # of the table that the row belongs to, "" for a sentence
    rank: int  # of its hit, from 0
    ordinal: int  # within the hit
    words: frozenset[str]  # of the question, that it holds itself
    own: float  # share of the question's words that it holds
    context: float  # ... that only its title, headings or table header hold
    before: float  # ... that only the sentence before holds
    after: float  # ... that only the sentence after holds
    elsewhere: float  # ... that only other sentences of the hit hold
    pieces: float  # share of the question's character pairs and Latin words that it holds, unweighed
    gap: float  # 1 when it holds what could fill the question's gap
    pinned: float  # share of the question's numbers and model names that it or its context holds
    hit_score: float  # of its hit, the best hit having 1
    whole: float  # 1 for a table row, and for what ends like a sentence: other things are often running heads
    pointer: str = ""  # the sentence of another hit that points at its table
    ranged: float = 0.0  # 1 for the row whose range holds the question's number best, -1 where it does not hold it

    @property
    def anywhere(self) -> float:
        """The share of the question's words that its passage holds."""
        return self.own + self.context + self.before + self.after + self.elsewhere

    @property
    def score(self) -> float:
        """Higher is better; only differences between candidates of one question mean something."""
        return sum(weight * float(getattr(self, name)) for name, weight in WEIGHTS.items()) + RANGED * self.ranged


def gather(question: str, weights: Mapping[str, float], hits: Sequence[Hit]) -> list[Candidate]:
    """All candidates in the order of the hits; those that share no word with the question are left out, and the headers
    of tables, which say nothing without a row.

    `weights`: the question's words and their idf; without them all weigh the same.
    """
    asked = _asked(question, tuple(weights.items()))
    best = max((hit.score for hit in hits), default=0.0) or 1.0
    return [
        candidate
        for rank, hit in enumerate(hits)
        for candidate in _of_hit(asked, rank, hit.chunk, _pointer(hit.chunk, hits), hit.score / best)
    ]


def _pointer(chunk: Chunk, hits: Sequence[Hit]) -> tuple[str, str]:
    """The sentence of one of the hits that points at the table of `chunk`, and the whole hit; ("", "") for most."""
    if its := label_of(chunk):
        for hit in hits:
            if hit.chunk.source == chunk.source and (sentence := pointers(hit.chunk.text).get(its)):
                return sentence, hit.chunk.text
    return "", ""


def together(question: str, weights: Mapping[str, float], hits: Sequence[Hit]) -> Candidate | None:
    """The best candidate of each hit, all as though they were one: for what no single sentence tells."""
    best: dict[int, Candidate] = {}
    for candidate in gather(question, weights, hits):
        best[candidate.rank] = max(best.get(candidate.rank, candidate), candidate, key=lambda it: it.score)
    if not best:
        return None
    asked = _asked(question, tuple(weights.items()))
    text = "\n".join(candidate.text for candidate in best.values())
    everything = "\n".join(hits[rank].chunk.searchable for rank in best)
    above = "\n".join(f"{hits[rank].chunk.context}\n{candidate.header}" for rank, candidate in best.items())
    own, around, anywhere = (asked.shares(Passage(it)) for it in (text, above, everything))
    return Candidate(
        text=text,
        header="",
        rank=min(best),
        ordinal=0,
        words=frozenset(word for word, share in zip(asked.words, own, strict=True) if share == 1),
        own=asked.gain(own, [0.0] * len(own)),
        context=asked.gain(around, own),
        before=0.0,
        after=0.0,
        elsewhere=asked.gain(anywhere, _larger(own, around)),
        pieces=asked.pieces(Passage(text)),
        gap=max(candidate.gap for candidate in best.values()),
        pinned=share_held(asked.pinned, everything),
        hit_score=1.0,
        whole=1.0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    text: str  # folded
    words: Sequence[str]
    names: Sequence[str]  # what is looked for of each word: 陪产假 for 产假, where that was asked
    weights: Sequence[float]  # of the words, their sum is 1
    pairs: Sequence[str]
    latin: Sequence[str]
    gaps: Sequence[re.Pattern[str]]
    pinned: set[str]
    amounts: Sequence[Asked]
    office: str  # whose holder's name is asked for

    def shares(self, passage: Passage) -> list[float]:
        return [passage.share(name) for name in self.names]

    def gain(self, shares: Sequence[float], known: Sequence[float]) -> float:
        """The weight of what `shares` hold beyond `known`."""
        return sum(
            weight * (here - there)
            for weight, here, there in zip(self.weights, shares, known, strict=True)
            if here > there
        )

    def pieces(self, passage: Passage) -> float:
        found = sum(pair in passage.text for pair in self.pairs) + sum(passage.share(word) > 0 for word in self.latin)
        return found / max(1, len(self.pairs) + len(self.latin))

    def counts(self, word: str) -> bool:
        """Whether the word is an amount of the question, a part of one, or stands before one (入职 of 入职满十年)."""
        return any(word in amount.text or amount.before.endswith(word) for amount in self.amounts)

    def unnamed(self, folded: str) -> bool:
        """Whether a sentence speaks of the office whose holder is asked for, and names nobody: 「由站长考核。」"""
        if not self.office or self.office not in folded or CELL_SEPARATOR in folded or not _WHOLE.search(folded):
            return False
        return ":" not in folded and not names_somebody(folded.replace(self.office, ","))  # it is no part of a name

    def fills(self, folded: str) -> bool:
        """Whether something could fill the gap that the question does not say itself."""
        return any(match.group() not in self.text for gap in self.gaps for match in gap.finditer(folded))


@lru_cache(maxsize=AT_ONCE)
def _asked(question: str, weights: tuple[tuple[str, float], ...]) -> _Asked:
    terms = question_terms(question)
    words = [word for word, _ in weights] or list(terms.words)
    given = [weight for _, weight in weights] or [1.0] * len(words)
    mass = sum(given) or 1.0
    return _Asked(
        fold(question),
        words,
        whole_names(question, words),
        [weight / mass for weight in given],
        terms.bigrams,
        latin(terms.words),
        gap_fillers(question),
        identifiers(question),
        asked_amounts(question),
        office_asked(question),
    )


@lru_cache(maxsize=8 * AT_ONCE)
def _of_hit(
    asked: _Asked, rank: int, chunk: Chunk, pointer: tuple[str, str], hit_score: float
) -> tuple[Candidate, ...]:
    return tuple(_candidates(asked, rank, chunk, pointer, hit_score))


def _candidates(
    asked: _Asked, rank: int, chunk: Chunk, pointer: tuple[str, str], hit_score: float
) -> Iterator[Candidate]:
    spans = sentence_spans(chunk.text)
    passages = Passage.each([chunk.text[start:end] for start, end in spans])
    shares = [asked.shares(passage) for passage in passages]
    nothing = [0.0] * len(asked.words)
    if asked.office:
        shares = [nothing if asked.unnamed(it.text) else its for it, its in zip(passages, shares, strict=True)]
    pointing, beyond = pointer
    above = asked.shares(Passage(f"{chunk.context}\n{pointing}"))
    headers = [header_of(chunk.text, start, chunk.preface) for start, _ in spans]
    texts = [chunk.text[start:end] for start, end in spans]
    fits = _fits(asked.amounts, [text if it else "" for text, it in zip(texts, headers, strict=True)], _of_row)
    told = _fits(asked.amounts, ["" if it else text for text, it in zip(texts, headers, strict=True)], clause_ranges)
    for at in range(len(spans) if asked.amounts else 0):
        if fits[at] > 0 or told[at] > 0:  # the row or sentence speaks of the number, without saying it
            shares[at] = [1.0 if asked.counts(word) else it for word, it in zip(asked.words, shares[at], strict=True)]
    outside = [above, asked.shares(Passage(beyond))] if beyond else [above]
    anywhere = [max(column) for column in zip(*outside, *shares, strict=True)]
    asking = {it.end() for it in _ASKS.finditer(chunk.text)} if "？" in chunk.text or "?" in chunk.text else ()
    leads = _leads(chunk.text, spans, shares, asking) if asking or any(headers) else None
    for at, (start, end) in enumerate(spans):
        text, own, header = chunk.text[start:end], shares[at], headers[at]
        around = _larger(above, leads[at]) if leads else above
        if header:
            around = _larger(around, asked.shares(Passage(header)))
        before = shares[at - 1] if at else nothing
        after = shares[at + 1] if at + 1 < len(shares) else nothing
        here = _larger(own, around)
        names_columns = not header and CELL_SEPARATOR in text and at + 1 < len(spans) and headers[at + 1]
        if names_columns or (end in asking and at + 1 < len(spans)) or not any(here):
            continue
        leaning = _larger(here, before)
        yield Candidate(
            text=text,
            header=header,
            rank=rank,
            ordinal=at,
            words=frozenset(word for word, share in zip(asked.words, own, strict=True) if share == 1),
            own=asked.gain(own, nothing),
            context=asked.gain(around, own),
            before=asked.gain(before, here),
            after=asked.gain(after, leaning),
            elsewhere=asked.gain(anywhere, _larger(leaning, after)),
            pieces=asked.pieces(passages[at]),
            gap=float(asked.fills(passages[at].text)),
            pinned=share_held(asked.pinned, f"{text}\n{header}\n{chunk.context}"),
            hit_score=hit_score,
            whole=float(bool(header or _WHOLE.search(text))),
            pointer=pointing if header else "",
            ranged=fits[at] or min(0.0, told[at]),  # a sentence that fits says it in its words
        )


def _leads(
    text: str, spans: Sequence[tuple[int, int]], shares: Sequence[list[float]], asking: Collection[int]
) -> list[list[float]]:
    """What introduces each span: the last line that is a question (停车怎么收费？), and a table row also the paragraph
    above its table (住宿费的限额见下表。). `asking`: where the lines end that are questions."""
    leads: list[list[float]] = []
    question = paragraph = [0.0] * len(shares[0])
    before = 0
    for (start, end), its in zip(spans, shares, strict=True):
        if CELL_SEPARATOR in text[start:end]:
            leads.append(_larger(question, paragraph))
        else:
            leads.append(question)
            begins = "\n" in text[before:start]
            question = its if end in asking else question
            paragraph = its if begins else _larger(paragraph, its)
        before = end
    return leads


def _fits(
    amounts: Sequence[Asked], texts: Sequence[str], told_by: Callable[[str, str], Sequence[Range]]
) -> list[float]:
    """Of each row of a table, or each sentence: 1 when it is the one for the question's amounts, -1 when it is for
    others, else 0. `told_by`: the ranges that a text tells of a unit."""
    found = [0.0] * len(texts)
    for amount in amounts:
        told = {at: its for at, text in enumerate(texts) if text and (its := told_by(text, amount.unit))}
        holding: dict[int, tuple[float, float]] = {}
        for at, its in told.items():
            if those := [one.tightness for one in its if one.holds(amount.number)]:
                holding[at] = max(those)
            else:
                found[at] = -1.0
        holding = {at: tight for at, tight in holding.items() if found[at] == 0}
        for at, tight in holding.items():  # 满10年 holds 15 years as 满1年 does, and better
            found[at] = float(tight == max(holding.values()))
    return found


def _of_row(row: str, unit: str) -> Sequence[Range]:
    """What the row is for, in the first cell that tells."""
    its = next((its for cell in row.split(CELL_SEPARATOR) if (its := ranges(cell).get(unit))), None)
    return [its] if its else []


def _larger(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a if a > b else b for a, b in zip(one, other, strict=True)]
