"""How good is retrieval? Measured on a folder in BEIR layout, through the very parts that answer questions.

A folder holds corpus.jsonl (`id` or `_id`, `title`, `text`), queries.jsonl (`id` or `_id`, `text`) and qrels.tsv
(query, document, score; any score above 0 is relevant); each may be gzipped. The corpus becomes a real base in a
temporary folder: cut into chunks, indexed, and asked; a document ranks where its best chunk does.
"""

from __future__ import annotations

import gzip
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from kbqa.analyzer import question_terms
from kbqa.chain import KnowledgeBase
from kbqa.errors import ConfigError, QuestionError
from kbqa.types import Block, Document

__all__ = ["ArmScores", "Benchmark", "RetrievalReport", "evaluate_retrieval", "load_benchmark"]

CUTOFFS = (1, 5, 10)
DEEP = 100  # chunks looked at, so that ten documents come out even when one has many chunks

OpenBase = Callable[[Path, Iterable[Document]], "KnowledgeBase"]
Arm = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`relevant` maps a question's id to the ids of the documents that answer it, each with its grade."""

    documents: tuple[Document, ...]
    queries: dict[str, str]
    relevant: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class ArmScores:
    """Means over all questions: recall@k is the share of a question's relevant documents among the first k."""

    recall: dict[int, float]
    mrr10: float
    ndcg10: float
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
                    **{f"recall@{k}": round(value, 4) for k, value in arm.recall.items()},
                    "mrr@10": round(arm.mrr10, 4),
                    "ndcg@10": round(arm.ndcg10, 4),
                    "latency_ms": {"p50": round(arm.p50_ms, 2), "p99": round(arm.p99_ms, 2)},
                }
                for name, arm in self.arms.items()
            },
            "seconds": round(self.seconds, 1),
        }


def load_benchmark(folder: Path) -> Benchmark:
    """Read a BEIR folder; ConfigError names the file or the line that is not as it should be."""
    documents = []
    for row in _rows(folder, "corpus.jsonl"):
        text, title = str(row.get("text") or ""), str(row.get("title") or "")
        blocks = tuple(Block("text", line) for line in text.split("\n") if line.strip())
        documents.append(Document(_id(row), title, blocks, sha256(f"{title}\n{text}".encode()).hexdigest(), "jsonl"))
    relevant: dict[str, dict[str, int]] = {}
    for line in _lines(folder, "qrels.tsv"):
        query, document, score = line.rstrip("\n").split("\t")[:3]
        if score.lstrip("-").isdigit() and int(score) > 0:
            relevant.setdefault(query, {})[document] = int(score)
    queries = {_id(row): str(row["text"]) for row in _rows(folder, "queries.jsonl")}
    asked = {query: text for query, text in queries.items() if query in relevant}
    if not asked:
        raise ConfigError(f"{folder}: no question of queries.jsonl has a relevant document in qrels.tsv")
    return Benchmark(tuple(documents), asked, relevant)


def evaluate_retrieval(folder: Path, open_base: OpenBase) -> RetrievalReport:
    """Recall, MRR, nDCG and latency of the lexical arm, the dense arm and both fused.

    `open_base(temporary folder, documents)` makes the base; the caller decides embedder and settings.
    """
    start = time.perf_counter()
    benchmark = load_benchmark(folder)
    with (
        tempfile.TemporaryDirectory(prefix="kbqa-eval-") as temporary,
        open_base(Path(temporary) / "base", benchmark.documents) as kb,
    ):
        arms = {name: _score(benchmark, kb, arm) for name, arm in _arms(kb).items()}
        chunks = kb.store.chunk_count
    return RetrievalReport(len(benchmark.documents), chunks, len(benchmark.queries), arms, time.perf_counter() - start)


def _arms(kb: KnowledgeBase) -> dict[str, Arm]:
    def lexical(question: str) -> Sequence[int]:
        return [chunk_id for chunk_id, _ in kb.store.search_words(question_terms(question), DEEP)]

    def dense(question: str) -> Sequence[int]:
        return [chunk_id for chunk_id, _ in kb.store.search_vectors(kb.embedder.embed_query(question), DEEP)]

    def hybrid(question: str) -> Sequence[int]:
        try:
            return [hit.chunk.id for hit in kb.search(question, DEEP).hits]
        except QuestionError:  # a benchmark may hold an empty question: nothing is found for it
            return []

    return {"lexical": lexical, "dense": dense, "hybrid": hybrid}


def _score(benchmark: Benchmark, kb: KnowledgeBase, arm: Arm) -> ArmScores:
    recall = dict.fromkeys(CUTOFFS, 0.0)
    mrr = ndcg = 0.0
    latencies = []
    for query, text in benchmark.queries.items():
        start = time.perf_counter()
        ids = arm(text)
        latencies.append((time.perf_counter() - start) * 1000)
        chunks = kb.store.chunks(ids)
        ranked = list(dict.fromkeys(chunks[i].source for i in ids if i in chunks))[: max(CUTOFFS)]
        relevant = benchmark.relevant[query]
        for k in CUTOFFS:
            recall[k] += len(relevant.keys() & set(ranked[:k])) / len(relevant)
        mrr += next((1 / rank for rank, document in enumerate(ranked, 1) if document in relevant), 0.0)
        ndcg += _ndcg([relevant.get(document, 0) for document in ranked], relevant.values())
    count = len(benchmark.queries)
    latencies.sort()
    return ArmScores(
        {k: value / count for k, value in recall.items()},
        mrr / count,
        ndcg / count,
        latencies[count // 2],
        latencies[min(count - 1, int(count * 0.99))],
    )


def _ndcg(grades: Sequence[int], possible: Iterable[int]) -> float:
    """nDCG@10 with the grades as gains (Järvelin and Kekäläinen 2002)."""
    ideal = sorted(possible, reverse=True)[:10]
    return _dcg(grades) / _dcg(ideal) if ideal else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _id(row: dict[str, Any]) -> str:
    return str(row["id"] if "id" in row else row["_id"])


def _rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(folder, name), 1):
        if line.strip():
            try:
                row = json.loads(line)
                _id(row), row["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{folder / name}, line {number}: not an object with id and text") from error
            yield row


def _lines(folder: Path, name: str) -> Iterator[str]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        with plain.open(encoding="utf-8") as file:
            yield from file
    elif packed.is_file():
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            yield from file
    else:
        raise ConfigError(f"{folder} holds no {name} (or {name}.gz); it must be in BEIR layout")
