"""Does kbqa refuse what the documents do not tell, and nothing else?

Answerable and unanswerable questions are asked; a good confidence parts them, wherever the threshold is put, and says
how often it is right.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbqa.chain import KnowledgeBase
from kbqa.errors import ConfigError
from kbqa.evaluation.benchmark import Benchmark, OpenBase, load_benchmark, opened, sampled
from kbqa.evaluation.replies import OnReply, Reply, ask

__all__ = ["Bin", "RefusalReport", "answered_at", "auc", "evaluate_refusal", "measure_refusal"]

WRONG_REFUSALS = (0.01, 0.05, 0.10)
BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Questions whose confidence lies in [low, low + 1/BINS): `weight` of all, as though of either kind there were
    as many; their mean confidence, and which share of them can be answered."""

    low: float
    weight: float
    confidence: float
    answerable: float


@dataclass(frozen=True, slots=True)
class RefusalReport:
    """`threshold` is retrieval.min_confidence; a generator may refuse above it too, which only the counts show."""

    answerable: Sequence[Reply]
    unanswerable: Sequence[Reply]
    threshold: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The layout of `kbqa eval refusal --json`; what needs both kinds is None where one is missing.

        - auc: how likely an answerable question has more confidence than an unanswerable one, ties count half (Hanley
          and McNeil 1982).
        - at_wrong_refusals: the share of the unanswerable questions that would be answered were the threshold put
          where that share of the answerable ones is refused.
        - calibration_error: the expected calibration error (Naeini et al. 2015) of the confidence as the probability
          that the question can be answered, in ten bins, both kinds weighing the same.
        """
        both = bool(self.answerable and self.unanswerable)
        trade_off = {f"{share:.2f}": round(self.answered_at(share), 4) for share in WRONG_REFUSALS} if both else None
        return {
            "answerable": {"asked": len(self.answerable), "refused": sum(r.refused for r in self.answerable)},
            "unanswerable": {
                "asked": len(self.unanswerable),
                "answered": sum(not r.refused for r in self.unanswerable),
            },
            "auc": round(self.auc, 4) if both else None,
            "threshold": self.threshold,
            "at_wrong_refusals": trade_off,
            "calibration_error": round(self.calibration_error, 4) if both else None,
            "seconds": round(self.seconds, 1),
        }

    @property
    def auc(self) -> float:
        return auc(_confidences(self.answerable), _confidences(self.unanswerable))

    def answered_at(self, wrong_refusals: float) -> float:
        return answered_at(wrong_refusals, _confidences(self.answerable), _confidences(self.unanswerable))

    def trade_off(self) -> list[tuple[float, float]]:
        """(share of the answerable refused, share of the unanswerable answered) for every threshold, from 0 to 1."""
        told, untold = _confidences(self.answerable), _confidences(self.unanswerable)
        thresholds = [*sorted({*told, *untold}), math.inf]
        return [(bisect_left(told, t) / len(told), 1 - bisect_left(untold, t) / len(untold)) for t in thresholds]

    @property
    def calibration_error(self) -> float:
        return sum(found.weight * abs(found.confidence - found.answerable) for found in self.bins())

    def bins(self) -> list[Bin]:
        """The bins that hold a question: the reliability diagram (DeGroot and Fienberg 1983)."""
        weighed: list[list[tuple[float, float, int]]] = [[] for _ in range(BINS)]
        for replies, told in ((self.answerable, 1), (self.unanswerable, 0)):
            for confidence in _confidences(replies):
                weighed[min(int(confidence * BINS), BINS - 1)].append((confidence, 0.5 / len(replies), told))
        bins = []
        for number, found in enumerate(weighed):
            if weight := sum(w for _, w, _ in found):
                confidence = sum(c * w for c, w, _ in found) / weight
                bins.append(Bin(number / BINS, weight, confidence, sum(told * w for _, w, told in found) / weight))
        return bins


def auc(told: Sequence[float], untold: Sequence[float]) -> float:
    """How likely one of `told` (ascending) is above one of `untold`; ties count half."""
    above = sum(len(told) - (bisect_left(told, value) + bisect_right(told, value)) / 2 for value in untold)
    return above / (len(told) * len(untold))


def answered_at(wrong_refusals: float, told: Sequence[float], untold: Sequence[float]) -> float:
    """The share of the unanswerable answered where at most that share of the answerable is refused; by their
    confidences, ascending."""
    threshold = told[min(int(wrong_refusals * len(told) + 1e-9), len(told) - 1)]
    return 1 - bisect_left(untold, threshold) / len(untold)


def evaluate_refusal(
    folder: Path, open_base: OpenBase, limit: int | None = None, seed: int = 0, on_reply: OnReply | None = None
) -> RefusalReport:
    """`measure_refusal` on a base that is made of the folder's documents."""
    benchmark = load_benchmark(folder)
    if not benchmark.questions:
        raise ConfigError(f"{folder}: there is no question")
    with opened(benchmark, open_base) as kb:
        return measure_refusal(kb, benchmark, limit, seed, on_reply)


def measure_refusal(
    kb: KnowledgeBase, benchmark: Benchmark, limit: int | None = None, seed: int = 0, on_reply: OnReply | None = None
) -> RefusalReport:
    """At most `limit` questions of either kind."""
    start = time.perf_counter()
    answerable, unanswerable = (
        ask(kb, sampled(questions, limit, seed), on_reply)
        for questions in (benchmark.answerable, benchmark.unanswerable)
    )
    return RefusalReport(answerable, unanswerable, kb.retrieval.min_confidence, time.perf_counter() - start)


def _confidences(replies: Sequence[Reply]) -> list[float]:
    """Ascending."""
    return sorted(reply.confidence for reply in replies)
