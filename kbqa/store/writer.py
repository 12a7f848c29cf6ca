"""The one who writes to a base: documents in and out, one transaction each, and derived indexes brought up to date.

`put`, `put_failure`, `touch` and `remove` have happened, for good, when they return. The derived indexes follow in
`checkpoint`, many documents at a time; until then searches find the new chunks in memory.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kbqa.errors import DocumentError
from kbqa.store.catalogue import (
    FileStat,
    Passport,
    State,
    last_chunk_id,
    pack_blocks,
    read_passport,
    read_state,
    to_stored,
)
from kbqa.store.connections import connect_writer
from kbqa.store.derived import (
    IndexRow,
    Limits,
    Piece,
    build_segment,
    build_words,
    drop_rows,
    gaps,
    name_rows,
    open_segment,
    open_words,
    plan_segments,
    read_rows,
    write_segment,
)
from kbqa.store.errors import DamagedIndex, storage_errors
from kbqa.store.files import CATALOGUE, INDEX, REBUILD, RESTORE, collect, remove_catalogue
from kbqa.store.lexical import Prepared, prepare
from kbqa.types import Chunk, Document, Origin

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = ["Writer"]


class Writer:
    """Made by Store.write and Store.rebuild, which hold the lock. For one thread at a time."""

    def __init__(
        self, path: Path, limits: Limits, keep: Collection[str] = (), donor: sqlite3.Connection | None = None
    ) -> None:
        """`keep` names index files of another catalogue in the same folder; `donor` is a connection to one whose
        vectors may be taken over."""
        self._path = path
        self._ready: dict[int, Prepared] = {}  # what the lexical index takes at the next checkpoint
        self._folder = path.parent
        self._limits = limits
        self._keep = frozenset(keep)
        self._donor = donor
        with storage_errors(path):
            self._connection = connect_writer(path)
            try:
                self.passport: Passport = read_passport(self._connection, path)
                self._pending = self._unindexed()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        self._connection.close()

    # --- documents ---------------------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those digests for which no vector is stored: what has to be embedded."""
        wanted = list(dict.fromkeys(digests))
        with storage_errors(self._path):
            return {digest for digest in wanted if self._vector_id(digest) is None and self._given(digest) is None}

    def put(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        digests: Sequence[bytes],
        vectors: Mapping[bytes, Vectors],
        stat: FileStat,
        origin: Origin,
        seconds: float = 0.0,
        prepared: Sequence[Prepared] = (),
    ) -> None:
        """Takes the document in, in place of what was there under its source.

        `digests[i]` is text_digest of what was embedded for chunk i; `vectors` holds those that are `missing`;
        `prepared` are the terms of the chunks, where they are known already. Raises
        ValueError when one is neither stored nor given or has a wrong shape, DocumentError when the text cannot be
        stored, KnowledgeBaseError when the disk cannot take it; then nothing has changed.
        """
        self._check(document, chunks, digests, vectors)
        with self._transaction(document.source) as revision:
            unused = self._take_out(document.source, revision)
            values = (
                document.title, stat.digest, stat.size, stat.mtime_ns, origin, document.reader, "indexed", "", "",
                document.pages, document.tables, len(chunks), _json(document.warnings), _json(dict(document.metadata)),
                seconds,
            )  # fmt: skip
            number = self._set_document(document.source, values)
            if origin == "api":
                blocks = pack_blocks(document.blocks)
                self._connection.execute("INSERT INTO contents VALUES (?, ?)", (number, blocks))
            of = {digest: self._store_vector(digest, vectors) for digest in dict.fromkeys(digests)}
            first = last_chunk_id(self._connection) + 1
            self._connection.executemany(
                "INSERT INTO chunks (id, document, ordinal, start, stop, page, breaks, title, heading, preface, vector,"
                " text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    _row(first + at, number, chunk, document.title, of[digest])
                    for at, (chunk, digest) in enumerate(zip(chunks, digests, strict=True))
                ),
            )
            self._connection.execute("UPDATE state SET chunks = chunks + ?", (len(chunks),))
            self._drop_unused(unused)
        self._ready |= dict(enumerate(prepared or map(prepare, chunks), first))
        self._grown(len(chunks))

    def put_failure(
        self, source: str, stat: FileStat, reader: str, error: str, kind: str, origin: Origin, seconds: float = 0.0
    ) -> None:
        """Remembers that the document could not be taken in. What was there under its source goes."""
        with self._transaction(source) as revision:
            unused = self._take_out(source, revision)
            values = (
                "", stat.digest, stat.size, stat.mtime_ns, origin, reader, "failed", error, kind, None, 0, 0, "[]",
                "{}", seconds,
            )  # fmt: skip
            self._set_document(source, values)
            self._drop_unused(unused)

    def touch(self, source: str, stat: FileStat) -> None:
        """The same content with another time. Raises ValueError when it is not the same, or not there."""
        with storage_errors(self._path):
            done = self._connection.execute(
                "UPDATE documents SET size = ?, mtime_ns = ? WHERE source = ? AND digest = ?",
                (stat.size, stat.mtime_ns, source, stat.digest),
            )
        if done.rowcount != 1:
            raise ValueError(f"{source} is not there with digest {stat.digest}")

    def remove(self, source: str) -> bool:
        """Whether it was there."""
        with self._transaction(source) as revision:
            unused = self._take_out(source, revision)
            gone = self._connection.execute("DELETE FROM documents WHERE source = ?", (source,)).rowcount
            self._drop_unused(unused)
        return gone == 1

    @contextmanager
    def _transaction(self, source: str) -> Iterator[int]:
        """Gives the new revision; all or nothing of what is done inside stays."""
        connection = self._connection
        with storage_errors(self._path):
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE state SET revision = revision + 1")
                yield read_state(connection).revision
                connection.execute("COMMIT")
            except UnicodeEncodeError as error:
                raise DocumentError(f"{source!r} has characters that no text file can hold ({error.reason})") from error
            finally:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")

    def _check(
        self, document: Document, chunks: Sequence[Chunk], digests: Sequence[bytes], vectors: Mapping[bytes, Vectors]
    ) -> None:
        if len(digests) != len(chunks):
            raise ValueError(f"{document.source}: {len(chunks)} chunks, {len(digests)} digests")
        if any(chunk.source != document.source or chunk.ordinal != at for at, chunk in enumerate(chunks)):
            raise ValueError(f"{document.source}: its chunks are of another document or not counted from 0")
        for digest in digests:
            vector = vectors.get(digest)
            if vector is not None and (vector.shape != (self.passport.dim,) or not np.isfinite(vector).all()):
                raise ValueError(f"{document.source}: a vector is not {self.passport.dim} finite numbers")

    def _set_document(self, source: str, values: tuple[object, ...]) -> int:
        now = time.time()
        columns = (
            "title, digest, size, mtime_ns, origin, reader, status, error, error_kind, pages, tables, chunks, warnings,"
            " metadata, seconds"
        )
        update = ", ".join(f"{name} = excluded.{name}" for name in (*columns.split(", "), "updated_at"))
        self._connection.execute(
            f"INSERT INTO documents (source, added_at, updated_at, {columns}) VALUES (?, ?, ?{', ?' * len(values)})"
            f" ON CONFLICT (source) DO UPDATE SET {update}",
            (source, now, now, *values),
        )
        (number,) = self._connection.execute("SELECT id FROM documents WHERE source = ?", (source,)).fetchone()
        return int(number)

    def _take_out(self, source: str, revision: int) -> list[int]:
        """Removes the chunks and blocks of a document. The vectors they used, some of which nobody may use now."""
        found = self._connection.execute("SELECT id FROM documents WHERE source = ?", (source,)).fetchone()
        if found is None:
            return []
        used = self._connection.execute("SELECT DISTINCT vector FROM chunks WHERE document = ?", found).fetchall()
        self._connection.execute("INSERT INTO removed SELECT id, ? FROM chunks WHERE document = ?", (revision, *found))
        gone = self._connection.execute("DELETE FROM chunks WHERE document = ?", found).rowcount
        self._connection.execute("DELETE FROM contents WHERE document = ?", found)
        self._connection.execute("UPDATE state SET chunks = chunks - ?", (gone,))
        return [vector for (vector,) in used]

    def _drop_unused(self, vectors: Iterable[int]) -> None:
        self._connection.executemany(
            "DELETE FROM vectors WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM chunks WHERE vector = ?1)",
            ((vector,) for vector in vectors),
        )

    def _vector_id(self, digest: bytes) -> int | None:
        row = self._connection.execute("SELECT id FROM vectors WHERE digest = ?", (digest,)).fetchone()
        return int(row[0]) if row else None

    def _given(self, digest: bytes) -> bytes | None:
        """The vector that the donor has for a text, as stored."""
        if self._donor is None:
            return None
        row = self._donor.execute("SELECT data FROM vectors WHERE digest = ?", (digest,)).fetchone()
        return bytes(row[0]) if row else None

    def _store_vector(self, digest: bytes, vectors: Mapping[bytes, Vectors]) -> int:
        stored = self._vector_id(digest)
        if stored is not None:
            return stored
        data = to_stored(vectors[digest]) if digest in vectors else self._given(digest)
        if data is None:
            raise ValueError(f"the vector of text {digest.hex()} is neither stored nor given")
        return (
            self._connection.execute("INSERT INTO vectors (digest, data) VALUES (?, ?)", (digest, data)).lastrowid or 0
        )

    # --- derived indexes ---------------------------------------------------------------------------------------------

    def checkpoint(self, distrust: Collection[str] = ()) -> None:
        """Brings FAISS and tantivy up to the catalogue, and throws away what nobody needs. Indexes that are damaged,
        and those in `distrust`, are made anew.

        Called by `put` now and then, and at the end of `Store.write`. When it fails or is killed, the indexes that
        were there stay valid and nothing is lost.
        """
        with storage_errors(self._path):
            state = read_state(self._connection)
            rows = read_rows(self._connection)
            try:
                after = self._updated(state, [row for row in rows if row.name not in distrust])
                if after != rows:
                    self._name(rows, after)
            except BaseException:  # half an index would only take room, of which there may be too little already
                with suppress(sqlite3.Error, OSError):
                    self._collect()
                raise
            if self._path.name == CATALOGUE:
                remove_catalogue(self._folder / REBUILD)
                remove_catalogue(self._folder / RESTORE)
            self._collect()
        self._pending = 0
        self._ready.clear()

    def _collect(self) -> None:
        collect(self._folder, {*(row.name for row in read_rows(self._connection)), *self._keep})

    def _updated(self, state: State, rows: Sequence[IndexRow]) -> list[IndexRow]:
        """The rows as they should be; the files of new ones are written and safe on disk."""
        index = self._folder / INDEX
        index.mkdir(exist_ok=True)
        usable = [row for row in rows if _usable(index, row)]
        last = last_chunk_id(self._connection)
        words = next((row for row in usable if row.kind == "words"), None)
        if words is None or words.revision != state.revision:
            words = build_words(self._connection, index, words, state.revision, last, state.chunks, self._ready)
        segments = []
        kept: list[IndexRow] = []
        for row in usable:
            if row.kind == "vectors" and row.first > max((it.last for it in kept), default=0):  # none twice
                kept.append(row)
        for piece in plan_segments(self._pieces(kept, last), self._limits):
            if piece.row:
                segments.append(piece.row)
            else:
                made = build_segment(self._connection, piece, self.passport.dim, self._limits)
                segments.append(write_segment(index, piece, made, state.revision))
        return [*segments, words]

    def _pieces(self, segments: Sequence[IndexRow], last: int) -> list[Piece]:
        """The segments there are, what lies between them, and the tail if it is long enough to become one."""
        pieces = gaps(self._connection, segments)
        for row in segments:
            (dead,) = self._connection.execute(
                "SELECT count(*) FROM removed WHERE chunk BETWEEN ? AND ? AND revision > ?",
                (row.first, row.last, row.revision),
            ).fetchone()
            pieces.append(Piece(row.first, row.last, max(0, row.count - dead), dead, row))
        pieces.sort(key=lambda piece: piece.first)
        covered = max((piece.last for piece in pieces), default=0)
        (tail,) = self._connection.execute("SELECT count(*) FROM chunks WHERE id > ?", (covered,)).fetchone()
        if tail >= self._limits.seal_at:
            pieces.append(Piece(covered + 1, last, tail))
        return pieces

    def _name(self, before: Sequence[IndexRow], after: Sequence[IndexRow]) -> None:
        """From here on the new files count, and what every index has dropped needs no longer be remembered."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            drop_rows(connection, (row.name for row in before if row not in after))
            name_rows(connection, (row for row in after if row not in before))
            connection.execute(
                "DELETE FROM removed WHERE NOT EXISTS (SELECT 1 FROM indexes i WHERE i.kind = 'vectors'"
                " AND removed.chunk BETWEEN i.first AND i.last AND i.revision < removed.revision)"
            )
            connection.execute("UPDATE state SET generation = generation + 1")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _unindexed(self) -> int:
        """Chunks that the lexical index does not hold yet."""
        last = max((row.last for row in read_rows(self._connection) if row.kind == "words"), default=0)
        (count,) = self._connection.execute("SELECT count(*) FROM chunks WHERE id > ?", (last,)).fetchone()
        return int(count)

    def _grown(self, chunks: int) -> None:
        self._pending += chunks
        if self._pending >= self._limits.words_tail:
            self.checkpoint()


def _usable(index: Path, row: IndexRow) -> bool:
    try:
        if row.kind == "words":
            open_words(index, row)
        else:
            open_segment(index, row)
    except DamagedIndex:
        return False
    return True


def _row(chunk_id: int, document: int, chunk: Chunk, title: str, vector: int) -> tuple[object, ...]:
    return (
        chunk_id, document, chunk.ordinal, *chunk.span, chunk.page, _json(chunk.breaks) if chunk.breaks else None,
        None if chunk.title == title else chunk.title, chunk.heading, chunk.preface, vector, chunk.text,
    )  # fmt: skip


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
