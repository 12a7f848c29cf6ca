"""Derived indexes: which of them there are, and how the writer brings them up to the catalogue.

A row of `indexes` names the files of one index, their sizes and checksums, and the revision of the catalogue they hold.
It is written after the files are safe on disk, so what a row names was whole once; it is checked before it is used.

- words: one tantivy index of all chunks up to id `last`.
- vectors: FAISS segments of rising, separate ranges of chunk ids. Chunks after the last one are the tail, searched from
  memory; when it has `seal_at` chunks it becomes a segment. Segments of one size class are merged when there are
  `fan_out` of them, so that a base of a million has about a dozen and each vector was written about four times.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kbqa.store.catalogue import read_chunks, read_vectors
from kbqa.store.files import Seal, check, new_name, seal
from kbqa.store.lexical import Prepared, TantivyWords, extend
from kbqa.store.vectors import FaissVectors

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = [
    "IndexRow",
    "Limits",
    "Piece",
    "build_segment",
    "build_words",
    "drop_rows",
    "gaps",
    "name_rows",
    "open_segment",
    "open_words",
    "plan_segments",
    "read_rows",
    "write_segment",
]

_SAMPLE = 65_536  # vectors that train a segment's quantizers


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may lie outside the derived indexes, and when they change shape. The defaults are measured
    (scripts/bench_search.py); tests lower them."""

    words_tail: int = 4_000  # chunks: the writer catches up after so many, a reader searches them in memory
    seal_at: int = 10_000  # chunks in the dense tail: 20 MB and 1 ms a search at 512 dimensions
    fan_out: int = 8
    fast_scan: int = 32_000  # vectors from which a segment is product-quantized
    dead_share: float = 0.2  # of a segment's vectors removed, then it is written anew


@dataclass(frozen=True, slots=True)
class IndexRow:
    name: str
    kind: Literal["vectors", "words"]
    revision: int  # of the catalogue
    first: int  # chunk ids, both inclusive
    last: int
    count: int
    files: Seal
    totals: Mapping[str, int] = field(default_factory=dict)  # of words: see LexicalIndex.totals


def read_rows(connection: sqlite3.Connection) -> list[IndexRow]:
    rows = connection.execute(
        "SELECT name, kind, revision, first, last, count, files, totals FROM indexes ORDER BY kind, first"
    )
    return [
        IndexRow(
            name, kind, revision, first, last, count,
            files={path: (size, crc) for path, (size, crc) in json.loads(files).items()}, totals=json.loads(totals),
        )
        for name, kind, revision, first, last, count, files, totals in rows
    ]  # fmt: skip


def drop_rows(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    connection.executemany("DELETE FROM indexes WHERE name = ?", [(name,) for name in names])


def name_rows(connection: sqlite3.Connection, rows: Iterable[IndexRow]) -> None:
    connection.executemany(
        "INSERT INTO indexes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                row.name,
                row.kind,
                row.revision,
                row.first,
                row.last,
                row.count,
                json.dumps(row.files),
                json.dumps(row.totals),
            )
            for row in rows
        ],
    )


# --- vectors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of chunk ids and how many vectors of it a segment holds; `row` is None where one is to be written."""

    first: int
    last: int
    live: int
    dead: int = 0
    row: IndexRow | None = None


def gaps(connection: sqlite3.Connection, segments: Sequence[IndexRow]) -> list[Piece]:
    """Ranges before and between `segments` that hold chunks; there are some when a segment was found damaged."""
    found, end = [], 0
    for row in segments:
        if row.first > end + 1:
            between = (end + 1, row.first - 1)
            (count,) = connection.execute("SELECT count(*) FROM chunks WHERE id BETWEEN ? AND ?", between).fetchone()
            if count:
                found.append(Piece(*between, count))
        end = row.last
    return found


def plan_segments(pieces: Sequence[Piece], limits: Limits) -> list[Piece]:
    """What there should be: worn segments anew, many small ones merged, empty ones gone. Touches no file."""
    planned = [
        Piece(piece.first, piece.last, piece.live)
        if piece.dead > limits.dead_share * (piece.live + piece.dead)
        else piece
        for piece in pieces
        if piece.live
    ]
    while planned:
        of = [_size_class(piece.live, limits) for piece in planned]
        run = next((n for n, it in enumerate(reversed(of)) if it > of[-1]), len(of))
        if run < limits.fan_out:
            break
        merged = planned[-run:]
        planned[-run:] = [Piece(merged[0].first, merged[-1].last, sum(piece.live for piece in merged))]
    return planned


def _size_class(live: int, limits: Limits) -> int:
    return max(0, math.floor(math.log(live / limits.seal_at, limits.fan_out) + 1e-9))


def build_segment(connection: sqlite3.Connection, piece: Piece, dim: int, limits: Limits) -> FaissVectors:
    batches = read_vectors(connection, piece.first - 1, piece.last)
    return FaissVectors.build(dim, _sample(connection, piece, dim), batches, fast=piece.live >= limits.fast_scan)


def _sample(connection: sqlite3.Connection, piece: Piece, dim: int) -> Vectors:
    """Vectors from all over the piece: in stretches, because the catalogue reads neighbours at once."""
    stretches = max(1, min(64, piece.live // 1024))
    share = -(-min(piece.live, _SAMPLE) // stretches)
    parts = []
    for start in np.linspace(piece.first - 1, piece.last, stretches, endpoint=False).astype(int):
        for _, vectors in read_vectors(connection, int(start), piece.last, batch=share):
            parts.append(vectors)
            break
    return np.concatenate(parts or [np.empty((0, dim), dtype=np.float32)])


def write_segment(index: Path, piece: Piece, vectors: FaissVectors, revision: int) -> IndexRow:
    name = new_name("vectors") + ".faiss"
    index.mkdir(exist_ok=True)
    vectors.write(index / name)
    return IndexRow(name, "vectors", revision, piece.first, piece.last, len(vectors), seal(index, [name], {}))


def open_segment(index: Path, row: IndexRow, again: bool = False) -> FaissVectors:
    """DamagedIndex unless the file is as it was written; `again` reads it whole even if that was done before."""
    check(index, row.files, again)
    return FaissVectors.read(index / row.name)


# --- words -----------------------------------------------------------------------------------------------------------


def build_words(
    connection: sqlite3.Connection,
    index: Path,
    old: IndexRow | None,
    revision: int,
    last: int,
    count: int,
    ready: Mapping[int, Prepared] | None = None,
) -> IndexRow:
    """The next lexical index: `old`, whose files were checked, and what the catalogue added and removed since."""
    name = new_name("words")
    after = old.last if old else 0
    drop: Iterator[int] = iter(())
    if old:
        gone = connection.execute("SELECT chunk FROM removed WHERE revision > ? AND chunk <= ?", (old.revision, after))
        drop = (chunk_id for (chunk_id,) in gone)
    add = read_chunks(connection, "c.id > ? ORDER BY c.id", (after,))
    known = old.files if old else {}
    totals = extend(index, name, known, old.totals if old else {}, drop, add, ready or {})
    names = [f"{name}/{path.name}" for path in (index / name).iterdir()]
    moved = {f"{name}/{Path(path).name}": what for path, what in known.items() if not path.endswith(".json")}
    sealed = seal(index, names, {path: what for path, what in moved.items() if path in names})
    return IndexRow(name, "words", revision, 1, last, count, sealed, totals)


def open_words(index: Path, row: IndexRow, again: bool = False) -> TantivyWords:
    """As open_segment."""
    check(index, row.files, again)
    return TantivyWords(index / row.name, row.totals)
