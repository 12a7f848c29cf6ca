"""How fast a knowledge base is built and searched: `python scripts/bench_search.py --sizes 10000 100000`.

Vectors are synthetic (512 dimensions, clustered, as those of real texts are). Text is made of words drawn from jieba's
dictionary as often as it says they occur, so that the lists of the lexical index are as long as real ones. Documents of
50 chunks of 150 to 300 characters go through the store's own Writer, one transaction each. A question is 8 to 20
characters of a chunk that exists, and a vector near its own.

Beside the time on the clock stands the processor's time in the searching thread: on a machine that does other things
as well, that is what an idle one would take.

A million chunks take some ten minutes and 5 GB of disk below --folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbqa.analyzer import VERSION, Terms, question_terms
from kbqa.config import RetrievalConfig
from kbqa.embedders.static import StaticEmbedder
from kbqa.retriever import Retriever
from kbqa.store import FileStat, Limits, Passport, Store, Writer, text_digest
from kbqa.types import Block, Chunk, Document

DIM = 512
PER_DOCUMENT = 50
QUESTIONS = 500
PASSPORT = Passport("synthetic", "synthetic-1", DIM, "none", VERSION)


@dataclass
class Corpus:
    """Text and vectors, the same for the same seed."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        words, weights = frequency_list()
        self.words = np.array(words, dtype=object)
        self.weights = np.cumsum(weights / weights.sum())
        self.centres = self.random.standard_normal((4000, DIM), dtype=np.float32)
        self.number = 0

    def vectors(self, count: int) -> NDArray[np.float32]:
        """(count, DIM) unit length: of a cluster's vectors, two have a cosine of about 0.7."""
        centres = self.centres[self.random.integers(len(self.centres), size=count)]
        made = centres + 0.65 * self.random.standard_normal((count, DIM), dtype=np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def texts(self, count: int) -> list[str]:
        lengths = self.random.integers(90, 190, size=count)
        drawn = self.words[np.searchsorted(self.weights, self.random.random(int(lengths.sum())))]
        cuts = np.cumsum(lengths)[:-1]
        return ["".join(part) + "。" for part in np.split(drawn, cuts)]

    def document(self) -> tuple[Document, list[Chunk], list[bytes], dict[bytes, NDArray[np.float32]]]:
        source = f"文件/{self.number:07}.md"
        self.number += 1
        texts = self.texts(PER_DOCUMENT)
        title = self.texts(1)[0][:12]
        document = Document(source, title, tuple(Block("text", text) for text in texts), f"{self.number:064x}", "text")
        chunks, at = [], 0
        for ordinal, text in enumerate(texts):
            chunks.append(Chunk(source, ordinal, text, (at, at + len(text)), title=title, heading=f"第{ordinal}节"))
            at += len(text) + 2
        digests = [text_digest(text) for text in texts]
        return document, chunks, digests, dict(zip(digests, self.vectors(PER_DOCUMENT), strict=True))


def frequency_list(characters: int = 1200) -> tuple[list[str], NDArray[np.float64]]:
    """Chinese words of one and two characters, and how often the dictionary's makers saw them."""
    import rjieba

    level_one = [
        bytes((high, low)).decode("gb2312", "ignore") for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)
    ]
    common = sorted(filter(rjieba.has_word, filter(None, level_one)), key=rjieba.suggest_freq)[-characters:]
    words = common + [first + second for first in common for second in common if rjieba.has_word(first + second)]
    return words, np.array([rjieba.suggest_freq(word) for word in words], dtype=np.float64)


@contextmanager
def clocks() -> Iterator[dict[str, float]]:
    """Seconds spent in the parts of a build: the functions are wrapped where the writer calls them."""
    from kbqa.store import writer

    spent: dict[str, float] = {"tantivy": 0.0, "faiss": 0.0}
    originals = {"build_words": "tantivy", "build_segment": "faiss", "write_segment": "faiss"}

    def timed(function: Callable[..., object], part: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[part] += time.perf_counter() - began

        return call

    kept = {name: getattr(writer, name) for name in originals}
    for name, part in originals.items():
        setattr(writer, name, timed(kept[name], part))
    try:
        yield spent
    finally:
        for name, function in kept.items():
            setattr(writer, name, function)


def build(folder: Path, chunks: int, corpus: Corpus, limits: Limits) -> dict[str, float]:
    """Seconds: in put alone, in FAISS, in tantivy (analysis included)."""
    with Store.create(folder, PASSPORT, limits) as store, clocks() as spent:
        putting = 0.0
        with store.write() as writer:
            for _ in range(chunks // PER_DOCUMENT):
                made = corpus.document()
                putting += put(writer, made)
            began = time.perf_counter()
            writer.checkpoint()
            putting += time.perf_counter() - began
    return {"sqlite": putting - spent["faiss"] - spent["tantivy"], **spent}


def put(writer: Writer, made: tuple[Document, list[Chunk], list[bytes], dict[bytes, NDArray[np.float32]]]) -> float:
    document, chunks, digests, vectors = made
    began = time.perf_counter()
    given = {digest: vectors[digest] for digest in writer.missing(digests)}
    writer.put(document, chunks, digests, given, FileStat(document.digest, 1, 1), "folder")
    return time.perf_counter() - began


def questions(store: Store, seed: int = 1) -> list[tuple[Terms, NDArray[np.float32]]]:
    random = np.random.default_rng(seed)
    ids = random.integers(1, store.chunk_count, size=QUESTIONS)
    chunks, vectors = store.chunks(ids.tolist()), store.vectors(ids.tolist())
    made = []
    for chunk_id in sorted(chunks):
        text = chunks[chunk_id].text
        start = int(random.integers(0, max(1, len(text) - 20)))
        near = vectors[chunk_id] + 0.3 * random.standard_normal(DIM).astype(np.float32) / DIM**0.5
        made.append((question_terms(text[start : start + int(random.integers(8, 20))]), near / np.linalg.norm(near)))
    return made


def measure(folder: Path) -> dict[str, float]:
    """In a process of its own: opening, then searches when everything is warm; milliseconds and megabytes."""
    began = time.perf_counter()
    store = Store.open(folder)
    store.search_vectors(np.ones(DIM, np.float32) / DIM**0.5, 10)
    opened = time.perf_counter() - began
    asked = questions(store)
    k = 50
    arms: dict[str, Callable[[Terms, NDArray[np.float32]], object]] = {
        "lexical": lambda terms, vector: store.search_words(terms, k),
        "dense": lambda terms, vector: store.search_vectors(vector, k),
        "both": lambda terms, vector: (store.search_words(terms, k), store.search_vectors(vector, k)),
        "hybrid": lambda terms, vector: retriever.search(" ".join(terms.words), 10),
    }
    # What `kbqa search` does: both arms, the built-in embedder for the question, fusing, fetching, confidence.
    retriever = Retriever(store, StaticEmbedder(), RetrievalConfig())
    result = {"open_s": opened, "rss_mb": resident()}
    for name, arm in arms.items():
        for terms, vector in asked[:50]:
            arm(terms, vector)
        took, cpu = [], []
        for terms, vector in asked:
            began, busy = time.perf_counter(), time.thread_time()
            arm(terms, vector)
            took.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (time.thread_time() - busy))
        for at in (50, 99):
            result[f"{name}_p{at}"] = float(np.percentile(took, at))
            result[f"{name}_cpu{at}"] = float(np.percentile(cpu, at))
    result["warm_rss_mb"] = resident()
    result["recall@10"] = recall(store, [vector for _, vector in asked[:50]])
    store.close()
    return result


def resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def recall(store: Store, vectors: list[NDArray[np.float32]]) -> float:
    """The share of the ten really nearest chunks that a search gives, by comparing with all of them."""
    queries = np.stack(vectors)
    ids = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(1, store.chunk_count + 1, 20_000):
        part = store.vectors(range(start, start + 20_000))
        if not part:
            continue
        names = np.array(list(part))
        scores = np.concatenate([scores, queries @ np.stack(list(part.values())).T], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(names, (len(queries), len(names)))], axis=1)
        best = np.argsort(-scores, axis=1)[:, :10]
        scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
    found = [{chunk for chunk, _ in store.search_vectors(vector, 10)} for vector in vectors]
    return float(np.mean([len(set(row.tolist()) & hits) / 10 for row, hits in zip(ids, found, strict=True)]))


def add_one(folder: Path, corpus: Corpus, times: int = 5) -> list[float]:
    """Seconds to open the base for writing, add one document of 50 chunks and bring the indexes up to date."""
    took = []
    for _ in range(times):
        made = corpus.document()
        began = time.perf_counter()
        with Store.open(folder) as store, store.write() as writer:
            put(writer, made)
        took.append(time.perf_counter() - began)
    return took


def row(chunks: int, folder: Path) -> dict[str, float]:
    corpus = Corpus()
    base = folder / f"kb-{chunks}"
    shutil.rmtree(base, ignore_errors=True)
    seconds = build(base, chunks, corpus, Limits())
    with Store.open(base) as store:
        disk = store.counts().bytes / 1e6
    command = [sys.executable, __file__, "--measure", str(base)]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    added = add_one(base, corpus)
    shutil.rmtree(base)
    return {"chunks": chunks, **seconds, "disk_mb": disk, **measured, "add_median_s": float(np.median(added)),
            "add_max_s": max(added)}  # fmt: skip


def table(rows: list[dict[str, float]]) -> str:
    lines = ["| | " + " | ".join(f"{row['chunks']:,.0f}" for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    labels = {
        "sqlite": "build: SQLite, s",
        "faiss": "build: FAISS, s",
        "tantivy": "build: tantivy and analysis, s",
        "disk_mb": "disk, MB",
        "open_s": "open and first search, s",
        "rss_mb": "memory after that, MB",
        "warm_rss_mb": "memory after the searches, MB (mapped files included)",
        **{
            f"{arm}_{kind}{at}": f"{arm} p{at}, ms{' of processor time' if kind == 'cpu' else ''}"
            for arm in ("lexical", "dense", "both", "hybrid")
            for kind in ("p", "cpu")
            for at in (50, 99)
        },
        "recall@10": "dense recall@10 against exact",
        "add_median_s": "open, add one document, checkpoint, s (median of 5)",
        "add_max_s": "the same, worst of 5",
    }
    for key, label in labels.items():
        lines.append(
            f"| {label} | "
            + " | ".join(f"{row[key]:,.3g}" if row[key] < 100 else f"{row[key]:,.0f}" for row in rows)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="chunks")
    parser.add_argument("--folder", type=Path, help="where the bases are built (default: a temporary folder)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="kbqa-bench-") as folder:
        rows = []
        for chunks in given.sizes:
            rows.append(row(chunks, Path(folder)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        print(table(rows))


if __name__ == "__main__":
    main()
