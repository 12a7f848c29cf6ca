"""How much should the dense arm count? Learned for an embedder on sets of questions whose answers are known.

Both arms are asked once a question; every weight then only adds their scores anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from kbqa.chain import KnowledgeBase
from kbqa.errors import QuestionError
from kbqa.evaluation.benchmark import Benchmark, OpenBase, Question, load_benchmark, opened, sampled
from kbqa.retriever import Candidates

__all__ = ["FusionReport", "FusionScores", "evaluate_fusion", "measure_fusion"]

WEIGHTS = tuple(step / 20 for step in range(21))
FIRST = 5  # documents: Recall@5 is what the passages of an answer are chosen by
DEEP = 100  # chunks of each arm, as `measure_retrieval` looks at
TOLERANCE = 0.003  # of Recall@5, that both arms together may lie below the better of the two
NOISE = 0.0015  # of the mean: the standard error of a difference between two weights on the seven developer sets


@dataclass(frozen=True, slots=True)
class FusionScores:
    """Mean Recall@5 of one set: of each arm, and of both at each of WEIGHTS."""

    name: str
    queries: int
    lexical: float
    dense: float
    hybrid: tuple[float, ...]

    def holds(self, at: int) -> bool:
        """The rule: both together find as much as the better of the two."""
        return self.hybrid[at] >= max(self.lexical, self.dense) - TOLERANCE


@dataclass(frozen=True, slots=True)
class FusionReport:
    """`sets` weigh the same, however many questions they have."""

    sets: tuple[FusionScores, ...]

    def mean(self, at: int) -> float:
        return fmean(found.hybrid[at] for found in self.sets)

    def holds(self, at: int) -> bool:
        """Whether the rule holds on every set."""
        return all(found.holds(at) for found in self.sets)

    @property
    def best(self) -> float | None:
        """The smallest weight that holds the rule and is as good as the best of those by all that can be told (NOISE);
        None: none holds it."""
        held = [at for at in range(len(WEIGHTS)) if self.holds(at)]
        highest = max((self.mean(at) for at in held), default=0.0)
        return next((WEIGHTS[at] for at in held if self.mean(at) >= highest - NOISE), None)

    def as_json(self) -> dict[str, Any]:
        """The layout of `kbqa eval fusion --json`."""
        return {
            "sets": [
                {
                    "dataset": found.name,
                    "queries": found.queries,
                    "lexical": round(found.lexical, 4),
                    "dense": round(found.dense, 4),
                }
                for found in self.sets
            ],
            "weights": [
                {
                    "weight": weight,
                    "recall@5": [round(found.hybrid[at], 4) for found in self.sets],
                    "mean": round(self.mean(at), 4),
                    "holds": self.holds(at),
                }
                for at, weight in enumerate(WEIGHTS)
            ],
            "best": self.best,
        }


def evaluate_fusion(folder: Path, open_base: OpenBase, limit: int | None = None, seed: int = 0) -> FusionScores:
    """`measure_fusion` on a base that is made of the folder's documents."""
    benchmark = load_benchmark(folder)
    benchmark.judged()  # before a base is made in vain
    with opened(benchmark, open_base) as kb:
        return measure_fusion(kb, benchmark, limit, seed)


def measure_fusion(kb: KnowledgeBase, benchmark: Benchmark, limit: int | None = None, seed: int = 0) -> FusionScores:
    """Recall@5 of each arm and of both at each weight, on at most `limit` questions."""
    questions = sampled(benchmark.judged(), limit, seed)
    columns = zip(*(_recalls(kb, question) for question in questions), strict=True)
    lexical, dense, *hybrid = map(fmean, columns)
    return FusionScores(benchmark.folder.name, len(questions), lexical, dense, tuple(hybrid))


def _recalls(kb: KnowledgeBase, question: Question) -> list[float]:
    """For one question: lexical, dense, then both at each weight."""
    try:
        # Any weight but 0, which would spare the dense arm.
        found = kb.retriever.fused(0.5).candidates(question.text, DEEP)
    except QuestionError:  # a benchmark may hold an empty question: nothing is found for it
        return [0.0] * (2 + len(WEIGHTS))
    return [_recall(found, order, question) for order in _orders(found)]


def _orders(found: Candidates) -> Iterator[Sequence[int]]:
    yield sorted(found.lexical, key=lambda i: (-found.words[i], i))
    yield sorted(found.dense, key=lambda i: (-found.dense[i], i))
    for weight in WEIGHTS:
        yield [i for i, _ in found.ranked(weight)]


def _recall(found: Candidates, order: Sequence[int], question: Question) -> float:
    documents = list(dict.fromkeys(found.chunks[i].source for i in order))[:FIRST]
    return sum(document in documents for document in question.relevant) / len(question.relevant)
