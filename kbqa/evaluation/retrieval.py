"""How good is retrieval? Measured through the very parts that answer questions.

The corpus becomes a real base in a temporary folder: cut into chunks, indexed, and asked; a document ranks where its
best chunk does. Of a benchmark that holds evidence, also the share of it that stands in the first chunks.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from kbqa.chain import KnowledgeBase
from kbqa.errors import QuestionError
from kbqa.evaluation.benchmark import Benchmark, OpenBase, Question, load_benchmark, opened, sampled
from kbqa.retriever import Retriever

__all__ = ["ArmScores", "RetrievalReport", "evaluate_retrieval", "measure_retrieval"]

CUTOFFS = (1, 5, 10)  # that are reported
DEPTH = max(CUTOFFS)
DEEP = 100  # chunks looked at, so that ten documents come out even when one has many chunks

Arm = Callable[[str], Sequence[int]]
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class ArmScores:
    """Means over all questions; `recall[k - 1]` is the share of a question's relevant documents among the first k.

    `evidence[k - 1]` is the share of a question's evidence sentences that stand in the first k chunks, over the
    questions that have some; empty where none has.
    """

    recall: tuple[float, ...]
    mrr10: float
    ndcg10: float
    evidence: tuple[float, ...]
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    documents: int
    chunks: int
    queries: int
    arms: dict[str, ArmScores]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The layout of `kbqa eval retrieval --json`."""
        return {
            "documents": self.documents,
            "chunks": self.chunks,
            "queries": self.queries,
            "arms": {
                name: {
                    **{f"recall@{k}": round(arm.recall[k - 1], 4) for k in CUTOFFS},
                    "mrr@10": round(arm.mrr10, 4),
                    "ndcg@10": round(arm.ndcg10, 4),
                    **{f"evidence_recall@{k}": round(arm.evidence[k - 1], 4) for k in CUTOFFS if arm.evidence},
                    "latency_ms": {"p50": round(arm.p50_ms, 2), "p99": round(arm.p99_ms, 2)},
                }
                for name, arm in self.arms.items()
            },
            "seconds": round(self.seconds, 1),
        }


def evaluate_retrieval(folder: Path, open_base: OpenBase, limit: int | None = None, seed: int = 0) -> RetrievalReport:
    """`measure_retrieval` on a base that is made of the folder's documents."""
    benchmark = load_benchmark(folder)
    benchmark.judged()  # before a base is made in vain
    with opened(benchmark, open_base) as kb:
        return measure_retrieval(kb, benchmark, limit, seed)


def measure_retrieval(
    kb: KnowledgeBase, benchmark: Benchmark, limit: int | None = None, seed: int = 0
) -> RetrievalReport:
    """Recall, MRR, nDCG and latency of the lexical arm, the dense arm and both fused, on at most `limit` questions;
    where there is a reranker, also of what it makes of them."""
    start = time.perf_counter()
    questions = sampled(benchmark.judged(), limit, seed)
    arms = {name: _score(questions, kb, arm) for name, arm in _arms(kb).items()}
    documents, chunks = len(kb.store.documents()), kb.store.chunk_count
    return RetrievalReport(documents, chunks, len(questions), arms, time.perf_counter() - start)


def _arms(kb: KnowledgeBase) -> dict[str, Arm]:
    def through(retriever: Retriever) -> Arm:
        def arm(question: str) -> Sequence[int]:
            try:
                return [hit.chunk.id for hit in retriever.search(question, DEEP).hits]
            except QuestionError:  # a benchmark may hold an empty question: nothing is found for it
                return []

        return arm

    def dense(question: str) -> Sequence[int]:
        return [chunk_id for chunk_id, _ in kb.store.search_vectors(kb.embedder.embed_query(question), DEEP)]

    both = kb.retriever.fused(kb.retriever.dense_weight)
    arms = {"lexical": through(kb.retriever.fused(0.0)), "dense": dense, "hybrid": through(both)}
    return {**arms, "reranked": through(kb.retriever)} if kb.retriever.reranks else arms


def _score(questions: Sequence[Question], kb: KnowledgeBase, arm: Arm) -> ArmScores:
    recall, evidence, latencies = [], [], []
    mrr = ndcg = 0.0
    for question in questions:
        start = time.perf_counter()
        ids = arm(question.text)
        latencies.append((time.perf_counter() - start) * 1000)
        chunks = kb.store.chunks(ids)
        found = [chunks[i] for i in ids if i in chunks]
        ranked = list(dict.fromkeys(chunk.source for chunk in found))[:DEPTH]
        relevant = question.relevant
        recall.append(_shares([ranked.index(d) if d in ranked else DEPTH for d in relevant]))
        if question.evidence:
            evidence.append(_shares(_places(question.evidence, [chunk.text for chunk in found[:DEPTH]])))
        mrr += next((1 / rank for rank, document in enumerate(ranked, 1) if document in relevant), 0.0)
        ndcg += _ndcg([relevant.get(document, 0) for document in ranked], relevant.values())
    count = len(questions)
    latencies.sort()
    return ArmScores(
        tuple(map(fmean, zip(*recall, strict=True))),
        mrr / count,
        ndcg / count,
        tuple(map(fmean, zip(*evidence, strict=True))),
        latencies[count // 2],
        latencies[min(count - 1, int(count * 0.99))],
    )


def _shares(places: Sequence[int]) -> list[float]:
    """Which share of the things wanted is among the first 1, 2, ... DEPTH; `places`: where each stands, from 0."""
    return [sum(place < k for place in places) / len(places) for k in range(1, DEPTH + 1)]


def _places(evidence: Sequence[str], texts: Sequence[str]) -> list[int]:
    """For each sentence the first of the texts that it stands in, white space aside; DEPTH where it stands in none."""
    bare = [_SPACE.sub("", text) for text in texts]
    wanted = [_SPACE.sub("", sentence) for sentence in evidence]
    return [next((at for at, text in enumerate(bare) if sentence in text), DEPTH) for sentence in wanted]


def _ndcg(grades: Sequence[int], possible: Iterable[int]) -> float:
    """nDCG@10 with the grades as gains (Järvelin and Kekäläinen 2002)."""
    ideal = sorted(possible, reverse=True)[:DEPTH]
    return _dcg(grades) / _dcg(ideal) if ideal else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
