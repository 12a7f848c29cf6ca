"""Connections to kb.sqlite, and its schema.

WAL, so that readers never block on the writer; synchronous=FULL, so that an acknowledged document survives a power cut
(1.3 ms a document more than NORMAL on the disk it was measured on: two seconds for 1,200 files).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kbqa.errors import KnowledgeBaseBusy, KnowledgeBaseClosed
from kbqa.store.catalogue import FORMAT, Passport, State
from kbqa.store.errors import damaged, storage_errors, unknown

__all__ = ["APPLICATION", "Pool", "connect_writer", "create_catalogue"]

_Seen = tuple[object, ...]  # see Pool._look

APPLICATION = 0x6B627161  # "kbqa", in the header of the file
_PAGE = 8192  # three 2 KB vectors a page instead of one; 16 KB pages cost 40 % more a commit
_OWN_INDEX, _IMMUTABLE = "mode=ro&readonly_shm=1", "mode=ro&immutable=1"
_ALONE = (_OWN_INDEX, _IMMUTABLE)  # no lock tells such a reader of a writer
_PASSPORT = tuple(Passport.__dataclass_fields__)
_NOT_WRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_NO_SHARED_MEMORY = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP}

_SCHEMA = """
CREATE TABLE passport (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    base TEXT NOT NULL, revision INTEGER NOT NULL, generation INTEGER NOT NULL, chunks INTEGER NOT NULL
);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL UNIQUE, title TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('folder', 'upload', 'api')), reader TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('indexed', 'failed')), error TEXT NOT NULL, error_kind TEXT NOT NULL,
    pages INTEGER, tables INTEGER NOT NULL, chunks INTEGER NOT NULL,
    warnings TEXT NOT NULL, metadata TEXT NOT NULL,
    seconds REAL NOT NULL, added_at REAL NOT NULL, updated_at REAL NOT NULL
);
CREATE TABLE contents (document INTEGER PRIMARY KEY REFERENCES documents ON DELETE CASCADE, blocks BLOB NOT NULL);
CREATE TABLE vectors (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, page INTEGER, breaks TEXT,
    title TEXT, heading TEXT NOT NULL, preface TEXT NOT NULL,
    vector INTEGER NOT NULL REFERENCES vectors, text TEXT NOT NULL,
    UNIQUE (document, ordinal)
);
CREATE INDEX chunks_vector ON chunks (vector);
CREATE TABLE removed (chunk INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
CREATE TABLE indexes (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('vectors', 'words')),
    revision INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL,
    files TEXT NOT NULL, totals TEXT NOT NULL
);
"""


def _connect(path: Path, query: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}", uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )
    return _prepared(connection, "PRAGMA foreign_keys = ON")


def _prepared(connection: sqlite3.Connection, *statements: str) -> sqlite3.Connection:
    """Closes it when that fails: what is left open may keep others in this process from the file."""
    try:
        for statement in statements:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """The writer's connection; the caller holds the write lock. Raises sqlite3.Error."""
    return _prepared(
        _connect(path, "mode=rw"),
        "PRAGMA synchronous = FULL",
        "PRAGMA fullfsync = ON",  # macOS: past the disk's own cache; elsewhere without effect
        "PRAGMA cache_size = -65536",  # 64 MiB
    )


def create_catalogue(path: Path, passport: Passport, after: State | None = None, last_chunk: int = 0) -> None:
    """A new, empty catalogue, complete on disk under its name or not there at all. Revisions go on from `after` and
    chunk ids from `last_chunk`, so that nobody mistakes what it holds for what lay there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = _connect(path, "mode=rwc")
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {_SCHEMA}")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.executemany(
            "INSERT INTO passport VALUES (?, ?)", [(key, json.dumps(getattr(passport, key))) for key in _PASSPORT]
        )
        revision, generation = (after.revision + 1, after.generation + 1) if after else (0, 0)
        connection.execute("INSERT INTO state VALUES (1, ?, ?, ?, 0)", (secrets.token_hex(8), revision, generation))
        connection.execute("INSERT INTO sqlite_sequence VALUES ('chunks', ?)", (last_chunk,))
        connection.execute("COMMIT")
    finally:
        connection.close()


@dataclass
class Pool:
    """Reading connections to one catalogue; each belongs to one thread at a time.

    Readers and writers know of each other through SQLite's -shm file. Where that cannot be made, because the file
    system is read-only or full, nobody can begin to write either, and a reader does without: from the catalogue alone
    if the WAL is empty, else with a wal-index in its own memory. It looks at the files before and after each use: when
    they are not what they were, it opens them anew. A connection with its own wal-index is never kept: as long as it
    is there, SQLite lets nobody in this process write.
    """

    path: Path
    _idle: list[sqlite3.Connection] = field(default_factory=list)
    _seen: _Seen = ("",)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one read transaction: all that is read through it is of one moment."""
        with storage_errors(self.path):
            connection, seen = self._take()
            whole = False
            try:
                connection.execute("BEGIN")
                yield connection
                whole = True
            finally:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                self._give_back(connection, seen, whole)
            if seen[0] in _ALONE and self._look(_how(seen)) != seen:
                raise KnowledgeBaseBusy(f"{self.path} was written to while it was being read; try again")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _look(self, query: str) -> _Seen:
        """How the file is opened, and which one lies there: another one after the base was deleted and made anew. For
        a reader that no lock tells of a writer, also what the file and its WAL look like."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            raise unknown(self.path.parent) from None
        if query not in _ALONE:
            return query, stat.st_dev, stat.st_ino
        return query, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, *_wal(self.path)

    def _take(self) -> tuple[sqlite3.Connection, _Seen]:
        if self._closed:
            raise KnowledgeBaseClosed(f"knowledge base {self.path.parent.name} was closed")
        if self._look(_how(self._seen)) != self._seen:
            self._forget(self._look(""))
        with self._lock:
            if self._idle:
                return self._idle.pop(), self._seen
        return self._open()

    def _forget(self, seen: _Seen) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            self._seen = seen
        for connection in idle:
            connection.close()

    def _give_back(self, connection: sqlite3.Connection, seen: _Seen, whole: bool) -> None:
        with self._lock:
            if kept := whole and not self._closed and seen == self._seen:
                self._idle.append(connection)
        if not kept:
            connection.close()

    def _open(self) -> tuple[sqlite3.Connection, _Seen]:
        tries = [_how(self._seen), "mode=rw", "mode=ro", _OWN_INDEX if any(_wal(self.path)) else _IMMUTABLE]
        first: sqlite3.OperationalError | None = None  # what is in the way; those after it, what did not help either
        for query in filter(None, tries):
            seen = self._look(query)
            try:
                connection = self._opened(query)
            except sqlite3.OperationalError as error:
                code = error.sqlite_errorcode
                if code & 0xFF not in _NOT_WRITABLE and code not in _NO_SHARED_MEMORY:
                    raise
                first = first or error
                continue
            if query != _OWN_INDEX and seen != self._seen:
                self._forget(seen)
            return connection, seen
        raise first or AssertionError("nothing was tried")

    def _opened(self, query: str) -> sqlite3.Connection:
        connection = _connect(self.path, query)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
                raise damaged(self.path, "it is not a catalogue of kbqa")
        except BaseException:
            connection.close()
            raise
        return connection


def _how(seen: _Seen) -> str:
    return str(seen[0])


def _wal(path: Path) -> tuple[int, int]:
    """The size and time of the WAL; an empty one, which SQLite leaves when it is thwarted, is as good as none."""
    try:
        stat = path.with_name(path.name + "-wal").stat()
    except FileNotFoundError:
        return 0, 0
    return (stat.st_size, stat.st_mtime_ns) if stat.st_size else (0, 0)
