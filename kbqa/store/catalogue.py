"""The catalogue: what stands in kb.sqlite, the single truth about one knowledge base, and how it is read.

- Chunk ids rise with every commit and are never used twice (AUTOINCREMENT). So "which chunks does a derived index not
  hold yet" is a range of ids, and what it holds too much stands in `removed` until every index has dropped it.
- `state` is one row: `revision` rises with every change of content, `generation` with every change of the derived
  indexes, `base` tells two bases apart that lay in the same folder one after the other.
- A vector belongs to a text (its digest), not to a chunk: the same passage in two files is stored once. Vectors are
  kept as float16: against float32 the cosine of two unit vectors of 512 dimensions is off by 1e-4 at most, 2e-5
  typically. Unused ones go with the last chunk that used them.

Knows nothing about FAISS, tantivy or how they are kept up to date.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from kbqa.config import ingest_command
from kbqa.errors import IndexMismatch
from kbqa.store.errors import damaged
from kbqa.types import Block, Chunk, Document, Origin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kbqa.types import Vectors

__all__ = [
    "FORMAT",
    "Counts",
    "FileStat",
    "Passport",
    "State",
    "StoredDocument",
    "text_digest",
]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Passport:
    """What a base was built with: another embedder, splitter or analyzer makes another base."""

    embedder: str
    embedder_fingerprint: str
    dim: int
    splitter: str  # its fingerprint
    analyzer: str  # kbqa.analyzer.VERSION
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file as it was when it was read; `digest` is the SHA-256 of its bytes, in hex."""

    digest: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as the catalogue knows it; times are in seconds since 1970. A failed one has no chunks."""

    source: str
    title: str
    digest: str
    size: int
    mtime_ns: int
    origin: Origin
    reader: str
    status: Literal["indexed", "failed"]
    error: str
    error_kind: str
    pages: int | None
    tables: int
    chunks: int
    warnings: tuple[str, ...]
    metadata: Mapping[str, str | int | float | bool]
    seconds: float
    added_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class State:
    base: str
    revision: int
    generation: int
    chunks: int

    @property
    def version(self) -> tuple[str, int, int]:
        """Differs whenever a search could give something else."""
        return self.base, self.revision, self.generation


@dataclass(frozen=True, slots=True)
class Counts:
    documents: int  # indexed ones
    failed: int
    chunks: int
    vectors: int  # fewer than chunks where text repeats
    bytes: int  # on disk, derived indexes included


def text_digest(text: str) -> bytes:
    """The key of a text's vector: 16 bytes. Lone surrogates, which UTF-8 cannot hold, are allowed."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# --- reading ---------------------------------------------------------------------------------------------------------


def read_state(connection: sqlite3.Connection) -> State:
    row = connection.execute("SELECT base, revision, generation, chunks FROM state").fetchone()
    if row is None:
        raise sqlite3.OperationalError("no such row: state")
    return State(*row)


def read_passport(connection: sqlite3.Connection, path: Path) -> Passport:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise IndexMismatch(
            f"{path} has on-disk format {version}, this kbqa reads {FORMAT}; "
            f"run `{ingest_command(path.parent.name, rebuild=True)}`, or the kbqa that made it"
        )
    try:
        values = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM passport")}
        return Passport(**values)
    except (TypeError, ValueError) as error:
        raise damaged(path, f"its passport is not whole ({error})") from error


def last_chunk_id(connection: sqlite3.Connection) -> int:
    """The highest id that was ever given to a chunk."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
    return int(row[0]) if row else 0


_DOCUMENT = ", ".join(StoredDocument.__dataclass_fields__)


def read_documents(connection: sqlite3.Connection, source: str | None = None) -> list[StoredDocument]:
    where, values = ("WHERE source = ?", (source,)) if source is not None else ("", ())
    rows = connection.execute(f"SELECT {_DOCUMENT} FROM documents {where} ORDER BY source", values)
    return [_document(row) for row in rows]


def _document(row: tuple[object, ...]) -> StoredDocument:
    values = dict(zip(StoredDocument.__dataclass_fields__, row, strict=True))
    values["warnings"] = tuple(json.loads(cast(str, values["warnings"])))
    values["metadata"] = json.loads(cast(str, values["metadata"]))
    return StoredDocument(**values)  # type: ignore[arg-type]


_CHUNK = """SELECT c.id, d.source, c.ordinal, c.text, c.start, c.stop, coalesce(c.title, d.title), c.heading, c.preface,
    c.page, c.breaks FROM chunks c JOIN documents d ON d.id = c.document"""


def read_chunks(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> Iterator[Chunk]:
    """Chunks `c` of documents `d` for which `where` (SQL, with an order if one is wanted) holds."""
    for row in connection.execute(f"{_CHUNK} WHERE {where}", values):
        chunk_id, source, ordinal, text, start, stop, title, heading, preface, page, breaks = row
        yield Chunk(
            source=source,
            ordinal=ordinal,
            text=text,
            span=(start, stop),
            title=title,
            heading=heading,
            preface=preface,
            page=page,
            breaks=tuple((offset, at) for offset, at in json.loads(breaks)) if breaks else (),
            id=chunk_id,
        )


def chunks_by_id(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Chunk]:
    return {chunk.id: chunk for part in _parts(ids) for chunk in read_chunks(connection, f"c.id IN ({part})", ())}


def titles_by_id(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, str]:
    query = (
        "SELECT c.id, coalesce(c.title, d.title) FROM chunks c JOIN documents d ON d.id = c.document WHERE c.id IN ({})"
    )
    return dict(row for part in _parts(ids) for row in connection.execute(query.format(part)))


def vectors_by_id(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Vectors]:
    query = "SELECT c.id, v.data FROM chunks c JOIN vectors v ON v.id = c.vector WHERE c.id IN ({})"
    rows = [row for part in _parts(ids) for row in connection.execute(query.format(part))]
    return dict(zip((row[0] for row in rows), from_stored([row[1] for row in rows]), strict=True)) if rows else {}


def _parts(ids: Iterable[int], size: int = 500) -> Iterator[str]:
    """Lists for SQL's IN. The numbers are ours, and as text they have no limit on their count."""
    numbers = sorted({int(number) for number in ids})
    for at in range(0, len(numbers), size):
        yield ", ".join(map(str, numbers[at : at + size]))


def read_vectors(
    connection: sqlite3.Connection, after: int, upto: int, batch: int = 8192
) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
    """Chunk ids in (after, upto], rising, and their vectors (n, dim), `batch` at a time."""
    rows = connection.execute(
        "SELECT c.id, v.data FROM chunks c JOIN vectors v ON v.id = c.vector"
        " WHERE c.id > ? AND c.id <= ? ORDER BY c.id",
        (after, upto),
    )
    while part := rows.fetchmany(batch):
        ids = np.fromiter((row[0] for row in part), dtype=np.int64, count=len(part))
        yield ids, from_stored([row[1] for row in part])


def to_stored(vector: Vectors) -> bytes:
    return vector.astype("<f2").tobytes()


def from_stored(rows: Sequence[bytes]) -> Vectors:
    """(n, dim)"""
    return np.frombuffer(b"".join(rows), dtype="<f2").reshape(len(rows), -1).astype(np.float32)


def pack_blocks(blocks: Sequence[Block]) -> bytes:
    rows = [[block.kind, block.text, block.level, block.page, block.header_rows] for block in blocks]
    return zlib.compress(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))


def unpack_blocks(data: bytes) -> tuple[Block, ...]:
    return tuple(Block(*row) for row in json.loads(zlib.decompress(data)))


def read_contents(connection: sqlite3.Connection, source: str) -> Document | None:
    """The whole document, for those whose blocks are kept."""
    row = connection.execute(
        "SELECT c.blocks, d.title, d.digest, d.reader, d.pages, d.warnings, d.metadata FROM contents c "
        "JOIN documents d ON d.id = c.document WHERE d.source = ?",
        (source,),
    ).fetchone()
    if row is None:
        return None
    blocks, title, digest, reader, pages, warnings, metadata = row
    return Document(
        source, title, unpack_blocks(blocks), digest, reader, pages, tuple(json.loads(warnings)), json.loads(metadata)
    )
