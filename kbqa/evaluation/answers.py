"""How good are the answers? Questions with gold answers are asked, and the replies compared."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from kbqa.chain import KnowledgeBase
from kbqa.errors import ConfigError
from kbqa.evaluation.benchmark import Benchmark, OpenBase, Question, load_benchmark, opened, sampled
from kbqa.evaluation.replies import OnReply, Reply, ask
from kbqa.evaluation.scores import exact_match, f1

__all__ = ["AnswersReport", "Comparison", "ask_all", "evaluate_answers", "measure_answers"]


@dataclass(frozen=True, slots=True)
class AnswersReport:
    """What came back for questions with gold answers, with judged sources, or that must be refused."""

    replies: Sequence[Reply]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The layout of `kbqa eval answers --json`: means, but `queries` and `refused`, which count.

        - contains, exact_match, f1 (see `scores`): over the questions with a gold answer. A refusal is a wrong answer.
        - citation_precision: the share of a reply's citations that are of a judged document, over the replies that
          cite. citation_recall: whether one of its citations is, over all questions with a judged document. After
          Gao et al. 2023 (ALCE), with the benchmark's judgements where ALCE asks a model whether the quote entails
          the sentence; None where nothing is judged.
        - mean_length: characters of an answer without white space. One that quotes everything contains everything.
        - unanswerable, only where such questions were asked: how many, and how many of them were answered.
        """
        answerable = [reply for reply in self.replies if reply.question.answerable]
        gold = [reply for reply in answerable if reply.question.answers]
        judged = [reply for reply in answerable if reply.question.relevant]
        unanswerable = [reply for reply in self.replies if not reply.question.answerable]
        given = [reply for reply in answerable if not reply.refused]
        report: dict[str, Any] = {
            "queries": len(answerable),
            "contains": _mean(reply.contains for reply in gold),
            "exact_match": _mean(_told(r) and exact_match(r.text, r.question.answers) for r in gold),
            "f1": _mean(f1(r.text, r.question.answers) if _told(r) else 0.0 for r in gold),
            "citation_precision": _mean(_right_share(reply) for reply in judged if reply.cited),
            "citation_recall": _mean(reply.cites for reply in judged),
            "refused": len(answerable) - len(given),
            "mean_length": _mean((len("".join(reply.text.split())) for reply in given), digits=1),
        }
        if unanswerable:
            answered = sum(not reply.refused for reply in unanswerable)
            report["unanswerable"] = {"asked": len(unanswerable), "answered": answered}
        return {**report, "seconds": round(self.seconds, 1)}


def evaluate_answers(
    folder: Path,
    open_base: OpenBase,
    limit: int | None = None,
    seed: int = 0,
    on_reply: OnReply | None = None,
    refusals: bool = False,
) -> AnswersReport:
    """`measure_answers` on a base that is made of the folder's documents."""
    benchmark = load_benchmark(folder)
    _with_gold(benchmark)  # before a base is made in vain
    with opened(benchmark, open_base) as kb:
        return measure_answers(kb, benchmark, limit, seed, on_reply, refusals)


def measure_answers(
    kb: KnowledgeBase,
    benchmark: Benchmark,
    limit: int | None = None,
    seed: int = 0,
    on_reply: OnReply | None = None,
    refusals: bool = False,
) -> AnswersReport:
    """At most `limit` of the questions with gold answers; with `refusals` as many of those that must be refused too."""
    questions = sampled(_with_gold(benchmark), limit, seed)
    if refusals:
        questions += sampled(benchmark.unanswerable, limit, seed)
    return ask_all(kb, questions, on_reply)


def ask_all(kb: KnowledgeBase, questions: Sequence[Question], on_reply: OnReply | None = None) -> AnswersReport:
    start = time.perf_counter()
    return AnswersReport(ask(kb, questions, on_reply), time.perf_counter() - start)


def _with_gold(benchmark: Benchmark) -> list[Question]:
    if questions := [question for question in benchmark.answerable if question.answers]:
        return questions
    raise ConfigError(f"{benchmark.folder}: no question has a gold answer (`answers`)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same questions asked twice: pairs (reply now, reply under the other configuration) that differ in worth."""

    better: list[tuple[Reply, Reply]]
    worse: list[tuple[Reply, Reply]]

    @classmethod
    def of(cls, now: Sequence[Reply], other: Sequence[Reply]) -> Comparison:
        pairs = list(zip(now, other, strict=True))
        better = [(a, b) for a, b in pairs if b.good and not a.good]
        return cls(better, [(a, b) for a, b in pairs if a.good and not b.good])


def _told(reply: Reply) -> bool:
    return not reply.refused


def _right_share(reply: Reply) -> float:
    return sum(source in reply.question.relevant for source in reply.cited) / len(reply.cited)


def _mean(values: Iterable[float], digits: int = 4) -> float | None:
    """None where there is nothing to take the mean of."""
    found = list(values)
    return round(fmean(found), digits) if found else None
