"""Puts the clauses of a sentence together: by which quote, or by which several, is it borne out?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from kbqa.support.claim import Claim, Span
from kbqa.support.judge import Finding, exchanged, judge
from kbqa.support.passage import Candidate, Quote, candidates, quotes
from kbqa.support.wording import PAUSES
from kbqa.types import Chunk, Verdict

__all__ = ["Support", "check", "says_something"]

PARTLY = 0.4  # share of the sentence's words that must be told for it to be partly supported
SINGLE = 0.3  # what a character in common says beside a pair of them
OWN = 0.5  # ... that must stand in the quote itself, not only around it
ENOUGH = 5  # characters of words that clauses must have to be borne out by a quote of their own
LOOKED_AT = 40  # quotes with the most in common with the sentence,
CLOSEST = 3  # ... and of these with the whole and with each clause: only they are judged
MOST = 12
BEGINNING = 6  # atoms
REMEMBERED = 64  # sentences: one is first asked whether it says something, then checked
MANY = 100  # clauses; a sentence of more is not put together of several quotes


@dataclass(frozen=True, slots=True)
class Support:
    """The verdict on one sentence: `quotes` bear it out in its order, or come closest; none when nothing is alike.

    `share` of its words is told there. `doubts` are the words, numbers and negations that are not.
    """

    verdict: Verdict
    quotes: tuple[Quote, ...] = ()
    share: float = 0.0
    doubts: tuple[str, ...] = ()

    @property
    def quote(self) -> Quote | None:
        """The first of them."""
        return self.quotes[0] if self.quotes else None


def check(sentence: str, passages: Sequence[Chunk]) -> Support:
    """The best support for `sentence` in `passages`; of equals the first wins, so best passages go first."""
    claim = _claim(sentence)
    if not claim.says_something():
        return Support("not")
    bare = sentence.strip()
    if quoted := _verbatim(bare, quotes([chunk for chunk in passages if bare in chunk.text])):
        return Support("supported", (quoted,), 1.0)
    alike = _alike(claim, candidates(passages))
    return _Trial(claim, alike).support() if alike else Support("not")


def _verbatim(sentence: str, possible: Sequence[Quote]) -> Quote | None:
    """Where it stands letter for letter, as one sentence of a passage or as several in a row (「甲；乙；丙。」)."""
    for it in possible:
        if sentence.startswith(it.text):
            quote = Quote(it.chunk, (it.span[0], it.span[0] + len(sentence)))
            if quote.text == sentence and any(
                other.chunk is it.chunk and other.span[1] == quote.span[1] for other in possible
            ):
                return quote
    return None


def says_something(sentence: str) -> bool:
    """Whether there is anything to check: a list number, a rule or 「根据文档：」 claims nothing."""
    return _claim(sentence).says_something()


@lru_cache(maxsize=REMEMBERED)
def _claim(sentence: str) -> Claim:
    return Claim(sentence)


def _alike(claim: Claim, possible: Sequence[Candidate]) -> list[Candidate]:
    """The quotes that have something in common with the claim, those with the most first."""
    found: dict[tuple[str, Span], tuple[float, Candidate]] = {}
    for candidate in possible:
        wording, quote = candidate.wording, candidate.quote
        overlap = len(claim.pairs & wording.pairs) + SINGLE * len(claim.known & wording.known)
        if overlap >= 1:  # chunks overlap: the same sentence comes twice
            found.setdefault((quote.chunk.source, quote.span), (overlap, candidate))
    return [candidate for _, candidate in sorted(found.values(), key=lambda scored: -scored[0])][:LOOKED_AT]


class _Trial:
    """One claim against the quotes that have the most in common with it; each clause is held against each once."""

    def __init__(self, claim: Claim, alike: Sequence[Candidate]) -> None:
        self._claim = claim
        self._clauses = claim.clauses
        self._pool = alike[:1]
        self._alike = alike
        self._findings: dict[tuple[int, int], Finding] = {}
        self._dead_ends: set[tuple[int, int]] = set()

    def support(self) -> Support:
        best = self._pool[0]
        whole = range(len(self._clauses))
        if self._bears(whole, best):  # nearly always, when anything does
            return Support("supported", (best.quote,), self._share(whole, best))
        self._pool = self._closest()
        if len(self._clauses) <= MANY and (chosen := self._assemble(0, None)) is not None:
            quotes = tuple(dict.fromkeys(candidate.quote for candidate in chosen))
            return Support("supported", quotes, 1.0)
        return self._unsupported()

    def _closest(self) -> list[Candidate]:
        pool = list(self._alike[:CLOSEST])
        for start, end in self._clauses:
            wanted = frozenset(pairwise(self._claim.atoms[start - 1 : end + 1]))
            pool += sorted(self._alike, key=lambda c: -len(wanted & c.wording.pairs))[:CLOSEST]
        return list({id(candidate): candidate for candidate in pool}.values())[:MOST]

    def _finding(self, clause: int, candidate: Candidate) -> Finding:
        key = clause, id(candidate)
        if key not in self._findings:
            self._findings[key] = judge(self._claim, self._clauses[clause], candidate)
        return self._findings[key]

    def _share(self, run: range, candidate: Candidate) -> float:
        """Of the words of these clauses, how much stands in the quote itself."""
        findings = [self._finding(clause, candidate) for clause in run]
        weight = sum(finding.weight for finding in findings)
        return sum(finding.own for finding in findings) / weight if weight else 1.0

    def _span(self, run: range) -> Span:
        return self._clauses[run[0]][0], self._clauses[run[-1]][1]

    def _bears(self, run: range, candidate: Candidate) -> bool:
        """Whether the quote says all of these clauses, and each that is worth the name mostly by itself."""
        findings = [self._finding(clause, candidate) for clause in run]
        return (
            not any(finding.doubts for finding in findings)
            and not any(finding.own < OWN * finding.weight for finding in findings if finding.weight >= ENOUGH)
            and self._share(run, candidate) >= OWN
            and not exchanged(self._claim, self._span(run), candidate.wording)
        )

    def _contradicts(self, run: range, candidate: Candidate) -> bool:
        findings = [self._finding(clause, candidate) for clause in run]
        if any(finding.doubts for finding in findings):
            return any(finding.wrong for finding in findings)
        return bool(exchanged(self._claim, self._span(run), candidate.wording))

    def _is_refuted(self, run: range, candidate: Candidate, beside: Sequence[Candidate]) -> bool:
        """Whether a quote that is closer to the words tells otherwise, or one as close that is used too (`beside`).

        「举一烟表示来敌500人」: in another place 「举二烟，来敌500人」 stands, but the closest one says 100人.
        """
        share, leans = self._share(run, candidate), self._leans(run, candidate)
        for other in self._pool:
            theirs = self._share(run, other)
            closer = theirs > share or (theirs == share and other is not candidate and (leans or other in beside))
            if closer and self._contradicts(run, other):
                return True
        return False

    def _leans(self, run: range, candidate: Candidate) -> bool:
        return any(self._finding(clause, candidate).leans for clause in run)

    def _assemble(self, first: int, last: Candidate | None) -> list[Candidate] | None:
        """Quotes that bear out the clauses from `first` on, one after the other; None when there are none.

        After `last` comes the sentence behind it, or one whose beginning is told too, so that it brings its own
        subject: of 「乙公司营收20亿元，净利润5亿元」 the second half must not be told of 甲公司.
        """
        count = len(self._clauses)
        if first == count:
            return []
        if (key := (first, id(last))) in self._dead_ends:
            return None
        self._dead_ends.add(key)
        for candidate in self._pool:
            if candidate is last:
                continue  # it has borne out as many clauses as it can, or two words have changed places
            end = first
            while end < count and not self._finding(end, candidate).doubts:
                end += 1
            for stop in range(end, first, -1):
                run = range(first, stop)
                if self._substance(run, candidate) < ENOUGH and len(run) < count:
                    break
                if last and (self._leans(run, candidate) or not self._continues(run, candidate, last)):
                    continue
                if not self._bears(run, candidate):
                    continue
                rest = self._assemble(stop, candidate)
                if rest is not None and not self._is_refuted(run, candidate, [*rest, *([last] if last else [])]):
                    return [candidate, *rest]
        return None

    def _substance(self, run: range, candidate: Candidate) -> int:
        return sum(self._finding(clause, candidate).substance for clause in run)

    def _continues(self, run: range, candidate: Candidate, last: Candidate) -> bool:
        return candidate.follows(last) or self._begins(run, candidate)

    def _begins(self, run: range, candidate: Candidate) -> bool:
        """Whether these clauses tell the beginning of the quote."""
        start, end = self._span(run)
        told = self._claim.atoms[start - 1 : end + 1]
        pairs, atoms = frozenset(pairwise(told)), frozenset(told)
        return any(
            pair in pairs or (pair[0].isascii() and pair[0] not in PAUSES and pair[0] in atoms)
            for pair in pairwise(candidate.wording.atoms[1 : BEGINNING + 2])
        )

    def _unsupported(self) -> Support:
        """The closest quote for each clause decides what is to be doubted, and how gravely."""
        findings = []
        for run in self._runs():
            closest = max(self._pool, key=lambda c: self._closeness(run, c))
            findings += [self._finding(clause, closest) for clause in run]
        weight = sum(finding.weight for finding in findings)
        share = 1 - sum(finding.lost for finding in findings) / weight if weight else 0.0
        doubts = [doubt for finding in findings for doubt in finding.doubts]
        grave = any(finding.grave for finding in findings)
        if not doubts and (
            pair := exchanged(self._claim, self._span(range(len(self._clauses))), self._pool[0].wording)
        ):
            doubts, grave = [pair], True
        best = self._pool[0].quote
        if share < PARTLY or grave:
            return Support("not", (best,), min(share, PARTLY - 0.01), tuple(dict.fromkeys(doubts)))
        return Support("partly", (best,), share, tuple(dict.fromkeys(doubts)))

    def _runs(self) -> Iterator[range]:
        """Each clause with the short ones before it: a date alone tells nothing about where it belongs."""
        start = 0
        for clause in range(len(self._clauses)):
            if self._substance(range(start, clause + 1), self._pool[0]) >= ENOUGH or clause == len(self._clauses) - 1:
                yield range(start, clause + 1)
                start = clause + 1

    def _closeness(self, run: range, candidate: Candidate) -> tuple[int, bool, int]:
        findings = [self._finding(clause, candidate) for clause in run]
        own, lost = sum(finding.own for finding in findings), sum(finding.lost for finding in findings)
        return own, not any(finding.doubts for finding in findings), -lost
