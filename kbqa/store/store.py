"""One knowledge base: what callers hold.

A Store searches and reads from any number of threads at once. Each search first asks the catalogue for its version
(20 microseconds); when somebody has written meanwhile, in this process or another, the first thread to notice loads the
next snapshot and the others wait for it, so that a search always sees every document acknowledged before it began.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from kbqa.config import ingest_command
from kbqa.errors import IndexMismatch, KnowledgeBaseError
from kbqa.store.catalogue import (
    Counts,
    Passport,
    StoredDocument,
    chunks_by_id,
    read_chunks,
    read_contents,
    read_documents,
    read_state,
    titles_by_id,
    vectors_by_id,
)
from kbqa.store.connections import Pool, create_catalogue
from kbqa.store.derived import Limits
from kbqa.store.errors import DamagedIndex, storage_errors, unknown
from kbqa.store.files import CATALOGUE, REBUILD, remove_catalogue, sync, write_lock
from kbqa.store.lexical import ALL_EQUAL
from kbqa.store.snapshot import Snapshot, load
from kbqa.store.switch import rebuilding
from kbqa.store.writer import Writer
from kbqa.types import CELL_SEPARATOR

if TYPE_CHECKING:
    import sqlite3

    from kbqa.analyzer import Terms
    from kbqa.types import Chunk, Document, Vectors

__all__ = ["Store"]

_ATTEMPTS = 5  # to open files that a writer may be replacing at the same time


class _Steady(threading.local):
    """What a thread has laid hold of."""

    connection: sqlite3.Connection | None = None
    snapshot: Snapshot | None = None


class Store:
    def __init__(self, folder: Path, limits: Limits) -> None:
        """Use `open` or `create`."""
        self.folder = folder
        self._path = folder / CATALOGUE
        self._limits = limits
        self._pool = Pool(self._path)
        self._refreshing = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._steady = _Steady()

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Also when this user may not look into the folder: what is there is then told by `open`."""
        try:
            return (folder / CATALOGUE).is_file()
        except PermissionError:
            return True

    @classmethod
    def create(cls, folder: Path, passport: Passport, limits: Limits | None = None) -> Self:
        """A new, empty base. KnowledgeBaseError when there is one already."""
        path, new = folder / CATALOGUE, folder / REBUILD
        with storage_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            with write_lock(folder):
                if path.exists():
                    raise KnowledgeBaseError(f"knowledge base {folder.name} exists already in {folder.parent}")
                try:
                    remove_catalogue(new)
                    create_catalogue(new, passport)
                    sync(new)
                    new.rename(path)  # whole or not there at all
                    sync(folder)
                except BaseException:
                    with suppress(OSError):
                        remove_catalogue(new)
                    raise
        return cls.open(folder, limits)

    @classmethod
    def open(cls, folder: Path, limits: Limits | None = None) -> Self:
        """UnknownKnowledgeBase when there is none, KnowledgeBaseError when it is damaged or cannot be read."""
        if not cls.exists(folder):
            raise unknown(folder)
        store = cls(folder, limits or Limits())
        try:
            store._current()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    @contextmanager
    def rebuild(cls, folder: Path, passport: Passport, limits: Limits | None = None) -> Iterator[Writer]:
        """A writer for a whole new base, which takes the place of the old one when the block ends well.

        Until then the old one answers; its vectors are taken over where the embedder is the same. Works on a base
        that is damaged or not there, too.
        """
        with rebuilding(folder, passport, limits or Limits()) as writer:
            yield writer

    def close(self) -> None:
        self._pool.close()
        self._snapshot = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def write(self, wait: float = 0.0) -> Iterator[Writer]:
        """The base's only writer; KnowledgeBaseBusy when there is another one for longer than `wait` seconds."""
        with write_lock(self.folder, wait):
            writer = Writer(self._path, self._limits)
            try:
                yield writer
                writer.checkpoint()
            finally:
                writer.close()

    # --- searching ---------------------------------------------------------------------------------------------------

    @contextmanager
    def steady(self) -> Iterator[None]:
        """What this thread searches and reads within the block is all of one moment, which is looked for once: a search
        reads a dozen times. Documents that come meanwhile are seen by the next one."""
        if self._steady.connection is not None:
            yield
            return
        snapshot = self._current()
        with self._pool.reading() as connection:
            self._steady.connection, self._steady.snapshot = connection, snapshot
            try:
                yield
            finally:
                self._steady.connection = self._steady.snapshot = None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._steady.connection is not None:
            yield self._steady.connection
            return
        with self._pool.reading() as connection:
            yield connection

    @property
    def passport(self) -> Passport:
        return self._current().passport

    @property
    def revision(self) -> int:
        """Rises with every document that comes or goes, whoever writes it."""
        return self._current().state.revision

    @property
    def chunk_count(self) -> int:
        return self._current().state.chunks

    def search_words(self, terms: Terms, k: int, shares: Mapping[str, float] = ALL_EQUAL) -> list[tuple[int, float]]:
        """Chunk ids and BM25 scores, best first. Give it `analyzer.question_terms`.

        `shares`: what a term counts, for those that do not count 1.
        """
        return self._current().search_words(terms, k, shares) if k > 0 else []

    def search_vectors(self, vector: Vectors, k: int) -> list[tuple[int, float]]:
        """Chunk ids and cosines, best first. A zero vector points nowhere and finds nothing."""
        snapshot = self._current()
        if vector.shape != (snapshot.passport.dim,):
            raise IndexMismatch(
                f"knowledge base {self.folder.name} holds vectors of {snapshot.passport.embedder} "
                f"({snapshot.passport.dim} dimensions), the question's has the shape {vector.shape}; open it anew, "
                f"or run `{ingest_command(self.folder.name, rebuild=True)}`"
            )
        return snapshot.search_vectors(vector.astype(np.float32), k) if k > 0 and vector.any() else []

    def word_frequencies(self, words: Sequence[str]) -> list[int]:
        """In how many chunks each word stands; a chunk removed a moment ago may still be counted."""
        snapshot = self._current()
        return [snapshot.word_frequency(word) for word in words]

    def _current(self) -> Snapshot:
        if self._steady.snapshot is not None:
            return self._steady.snapshot
        with self._pool.reading() as connection:
            version = read_state(connection).version
        snapshot = self._snapshot
        if snapshot and snapshot.state.version == version:
            return snapshot
        with self._refreshing:
            snapshot = self._loaded()
            self._snapshot = snapshot
            return snapshot

    def _loaded(self) -> Snapshot:
        """The newest snapshot. An index that is really damaged is mended if we may write, else made up for."""
        mended = False
        for _ in range(_ATTEMPTS):
            with self._pool.reading() as connection:
                state = read_state(connection)
                with suppress(DamagedIndex):
                    return load(connection, self._path, self._limits, self._snapshot)
            with self._pool.reading() as connection:
                replaced = read_state(connection).generation != state.generation
            if not replaced:
                if mended:
                    break
                mended = True
                with suppress(KnowledgeBaseError), self.write():  # its end brings the indexes up to date
                    pass
        with self._pool.reading() as connection:
            return load(connection, self._path, self._limits, self._snapshot, repair=True)

    # --- reading -----------------------------------------------------------------------------------------------------

    def documents(self) -> list[StoredDocument]:
        """All of them, failed ones too, by source."""
        with self._pool.reading() as connection:
            return read_documents(connection)

    def document(self, source: str) -> StoredDocument | None:
        with self._pool.reading() as connection:
            return next(iter(read_documents(connection, source)), None)

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """Those that still exist."""
        with self._reading() as connection:
            return chunks_by_id(connection, ids)

    def titles(self, ids: Iterable[int]) -> dict[int, str]:
        """The titles of those chunks that still exist; takes a quarter of the time of `chunks`."""
        with self._reading() as connection:
            return titles_by_id(connection, ids)

    def neighbours(self, source: str, first: int, last: int) -> list[Chunk]:
        """The chunks of a document with ordinals from `first` to `last`, both inclusive, in reading order."""
        with self._reading() as connection:
            where = "d.source = ? AND c.ordinal BETWEEN ? AND ? ORDER BY c.ordinal"
            return list(read_chunks(connection, where, (source, first, last)))

    def tables(self, source: str, texts: Collection[str], most: int) -> list[Chunk]:
        """The first chunks of a document that hold rows of a table, and one of the `texts` in their heading or own
        text, in reading order."""
        named = " OR ".join(["instr(c.heading, ?) OR instr(c.text, ?)"] * len(texts)) or "0"
        with self._reading() as connection:
            where = f"d.source = ? AND instr(c.text, ?) AND ({named}) ORDER BY c.ordinal LIMIT ?"
            twice = [text for text in texts for _ in range(2)]
            return list(read_chunks(connection, where, (source, CELL_SEPARATOR, *twice, most)))

    def reaching(self, source: str, start: int, end: int) -> list[Chunk]:
        """The chunks of a document that have any of its characters from `start` to `end`, in reading order."""
        with self._pool.reading() as connection:
            where = "d.source = ? AND c.start < ? AND c.stop > ? ORDER BY c.ordinal"
            return list(read_chunks(connection, where, (source, end, start)))

    def vectors(self, ids: Iterable[int]) -> dict[int, Vectors]:
        """The vectors (dim,) of those chunks that still exist."""
        snapshot = self._current()
        wanted = [chunk_id for chunk_id in ids if chunk_id not in snapshot.dead]
        found = snapshot.tail.of(wanted)
        if rest := [chunk_id for chunk_id in wanted if chunk_id not in found]:
            with self._reading() as connection:
                found |= vectors_by_id(connection, rest)
        return found

    def api_documents(self) -> Iterator[Document]:
        """The documents that no file holds, whole, so that they can be split and embedded anew."""
        with self._pool.reading() as connection:
            sources = [
                source
                for (source,) in connection.execute(
                    "SELECT d.source FROM contents c JOIN documents d ON d.id = c.document ORDER BY d.source"
                )
            ]
        for source in sources:
            with self._pool.reading() as connection:
                document = read_contents(connection, source)
            if document is not None:  # else removed meanwhile
                yield document

    def counts(self) -> Counts:
        with self._pool.reading() as connection:
            of = dict(connection.execute("SELECT status, count(*) FROM documents GROUP BY status").fetchall())
            (vectors,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
            chunks = read_state(connection).chunks
        return Counts(of.get("indexed", 0), of.get("failed", 0), chunks, vectors, _size(self.folder))


def _size(folder: Path) -> int:
    """Bytes of all files; hard links count once. Files that vanish meanwhile do not count."""
    sizes = {}
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                stat = (Path(where) / name).stat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
