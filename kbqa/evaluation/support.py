"""Does the check of support tell a true sentence from one that has been made false?

For a question the passages are found and shortened as they are for a generator. A sentence of them is then told
otherwise in some ways and made false in others (`perturb`), and `kbqa.support.check` judges each against these
passages. What it does not call "supported" is flagged: a flagged false sentence is right, a flagged true one wrong.

Precision and recall of the flags (as in van Rijsbergen 1979) are given for each kind of false sentence. So that a
kind's precision does not depend on how many others there are, it is taken over pairs: each false sentence beside the
untouched one it was made of. For each kind of true sentence the share flagged is given, which should be 0.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from kbqa.analyzer import analyze
from kbqa.chain import KnowledgeBase
from kbqa.errors import ConfigError, QuestionError
from kbqa.evaluation.benchmark import Benchmark, OpenBase, load_benchmark, opened, sampled
from kbqa.evaluation.perturb import FALSE, TRUE, Setting, squeezed, variants
from kbqa.prompt import fit
from kbqa.retriever import expand
from kbqa.sentences import sentence_spans
from kbqa.support import Support, check
from kbqa.types import CELL_SEPARATOR, Chunk

__all__ = [
    "FALSE",
    "TRUE",
    "Case",
    "KindScores",
    "SupportReport",
    "evaluate_support",
    "measure_support",
    "support_cases",
]

QUESTIONS = 300  # asked when no limit is given; each gives some ten sentences
SENTENCE = (12, 200)  # characters of a sentence that is used
FURTHER = 20  # hits that are looked at for a foreign sentence near the question
SAME = 0.5  # share of its character pairs in one sentence of the passages: then a foreign sentence may well be true
DRAWN = 2000  # chunks of the base from which foreign sentences are drawn

_PIECE = re.compile(r"^[a-z]|[^。！？.!?”」』）)]$|\b(?:Mr|Ms|Mrs|Dr|Inc|Ltd|Co|Corp)\.$")  # no whole sentence

Checker = Callable[[str, Sequence[Chunk]], Support]


@dataclass(frozen=True, slots=True)
class Case:
    """A sentence to be judged against `passages`. `kind` is a key of TRUE or FALSE, and `true` says of which."""

    sentence: str
    kind: str
    original: str  # the sentence of the passages that it was made of
    passages: tuple[Chunk, ...]  # best first

    @property
    def true(self) -> bool:
        return self.kind in TRUE


@dataclass(frozen=True, slots=True)
class KindScores:
    """`flagged` of `count`, both of one kind; `flagged_originals` of the untouched sentences they were made of."""

    count: int
    flagged: int
    flagged_originals: int


@dataclass(frozen=True, slots=True)
class SupportReport:
    """`quoted`: the share of untouched sentences that were given themselves as their quote."""

    questions: int
    kinds: dict[str, KindScores]
    quoted: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The layout of `kbqa eval support --json`."""
        true = [scores for kind, scores in self.kinds.items() if kind in TRUE]
        false = [scores for kind, scores in self.kinds.items() if kind in FALSE]
        hits, alarms = sum(s.flagged for s in false), sum(s.flagged for s in true)
        precision, recall = _share(hits, hits + alarms), _share(hits, sum(s.count for s in false))
        return {
            "questions": self.questions,
            "sentences": sum(s.count for s in (*true, *false)),
            "precision": precision,
            "recall": recall,
            "f1": round(2 * precision * recall / (precision + recall), 4) if precision and recall else 0.0,
            "true_flagged": _share(alarms, sum(s.count for s in true)),
            "quoted": round(self.quoted, 4),
            "true": {
                kind: {"count": s.count, "flagged": _share(s.flagged, s.count)}
                for kind, s in self.kinds.items()
                if kind in TRUE
            },
            "false": {
                kind: {
                    "count": s.count,
                    "precision": _share(s.flagged, s.flagged + s.flagged_originals),
                    "recall": _share(s.flagged, s.count),
                }
                for kind, s in self.kinds.items()
                if kind in FALSE
            },
            "seconds": round(self.seconds, 1),
        }


def evaluate_support(folder: Path, open_base: OpenBase, limit: int | None = None, seed: int = 0) -> SupportReport:
    """`measure_support` on a base that is made of the folder's documents."""
    benchmark = load_benchmark(folder)
    if not benchmark.answerable:
        raise ConfigError(f"{folder}: no question can be answered, so that no passages are found")
    with opened(benchmark, open_base) as kb:
        return measure_support(kb, benchmark, limit, seed)


def measure_support(
    kb: KnowledgeBase, benchmark: Benchmark, limit: int | None = None, seed: int = 0, checker: Checker = check
) -> SupportReport:
    """Precision and recall of `checker` on sentences made of what is found for at most `limit` questions."""
    start = time.perf_counter()
    cases = list(support_cases(kb, benchmark, limit, seed))
    if not cases:
        raise ConfigError(f"{benchmark.folder}: no sentence of the documents found is fit to be judged")
    return _report(cases, checker, start)


def support_cases(kb: KnowledgeBase, benchmark: Benchmark, limit: int | None = None, seed: int = 0) -> Iterator[Case]:
    """Sentences with a known verdict, of what `kb` finds for at most `limit` questions; the same for the same seed."""
    strangers = _Strangers(kb, Random(seed))
    for question in sampled(benchmark.answerable, QUESTIONS if limit is None else limit, seed):
        random = Random(f"{seed}/{question.id}")
        try:
            found = kb.search(question.text, FURTHER).hits
        except QuestionError:
            continue
        hits = found[: kb.retrieval.k]
        expanded = expand(hits, kb.store, kb.retrieval.neighbours)
        shown = fit([text for text, _ in expanded], kb.prompt.max_characters)
        passages = tuple(chunk for _, chunks in expanded[: len(shown)] for chunk in chunks)
        usable = sentences(hits[0].chunk) if hits else []
        if not usable:
            continue
        at = random.randrange(len(usable))
        around = tuple(dict.fromkeys(text for chunk in passages for text in sentences(chunk)))
        setting = Setting(
            following=usable[at + 1] if at + 1 < len(usable) else "",
            passages=around,
            foreign=strangers.draw(passages, around, random),
            near=strangers.choose((hit.chunk for hit in found[kb.retrieval.k :]), passages, around, random),
        )
        for kind, made in variants(usable[at], setting, random):
            yield Case(made, kind, usable[at], passages)


def sentences(chunk: Chunk) -> list[str]:
    """The whole sentences of a chunk that say something: no headings, table rows or pieces that the cut left over."""
    texts = [chunk.text[start:end] for start, end in sentence_spans(chunk.text)]
    low, high = SENTENCE
    return [t for t in texts if low <= len(t) <= high and CELL_SEPARATOR not in t and not _PIECE.search(t)]


class _Strangers:
    """Sentences of other documents than those of the passages."""

    def __init__(self, kb: KnowledgeBase, random: Random) -> None:
        ids = range(1, kb.store.chunk_count + 1)
        drawn = kb.store.chunks(sampled(ids, DRAWN, random.randrange(2**32)))
        self._chunks = [chunk for chunk in drawn.values() if sentences(chunk)]

    def draw(self, passages: Sequence[Chunk], around: Sequence[str], random: Random) -> str:
        some = (random.choice(self._chunks) for _ in range(10)) if self._chunks else ()
        return self.choose(some, passages, around, random)

    def choose(
        self,
        chunks: Iterator[Chunk] | Sequence[Chunk],
        passages: Sequence[Chunk],
        around: Sequence[str],
        random: Random,
    ) -> str:
        """A sentence of the first of `chunks` that has one that the passages do not say; "" when none has."""
        sources = {chunk.source for chunk in passages}
        said = [_pairs(text) for text in around]
        for chunk in chunks:
            if chunk.source in sources:
                continue
            usable = [text for text in sentences(chunk) if not _is_said(_pairs(text), said)]
            if usable:
                return random.choice(usable)
        return ""


def _pairs(text: str) -> frozenset[str]:
    """Character pairs of Chinese, words of Latin text."""
    terms = analyze(text)
    return frozenset(terms.bigrams) or frozenset(terms.words)


def _is_said(pairs: frozenset[str], said: Sequence[frozenset[str]]) -> bool:
    return not pairs or any(len(pairs & other) >= SAME * len(pairs) for other in said)


def _report(cases: Sequence[Case], checker: Checker, start: float) -> SupportReport:
    flagged: dict[tuple[str, str], bool] = {}
    quotes: list[bool] = []
    rows: dict[str, list[tuple[bool, bool]]] = {}  # kind -> (flagged, its original flagged)
    for case in cases:
        support = checker(case.sentence, case.passages)
        here = support.verdict != "supported"
        key = case.original, squeezed(case.passages[0].text)
        if case.kind == "verbatim":  # the first of its question
            flagged[key] = here
            quotes.append(support.quote is not None and squeezed(support.quote.text) == squeezed(case.sentence))
        rows.setdefault(case.kind, []).append((here, flagged[key]))
    kinds = {
        kind: KindScores(len(found), sum(here for here, _ in found), sum(before for _, before in found))
        for kind in (*TRUE, *FALSE)
        if (found := rows.get(kind))
    }
    return SupportReport(len(quotes), kinds, sum(quotes) / len(quotes), time.perf_counter() - start)


def _share(part: int, whole: int) -> float | None:
    """None where there is nothing to take a share of."""
    return round(part / whole, 4) if whole else None
