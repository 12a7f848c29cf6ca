"""vectorstore/kbqa.sqlite: opened, brought up to date, and shared by the threads and processes of an installation.

It is made by the first who writes; until then it reads as an empty one, so that a service runs on a disk that it may
only read. Its version is SQLite's user_version: how many of MIGRATIONS it has been through.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from kbqa.errors import RegistryError

__all__ = ["APPLICATION", "FILE", "MIGRATIONS", "Database", "remedy"]

FILE = "kbqa.sqlite"
APPLICATION = 0x6B627172  # "kbqr", in the header of the file
WAIT = 10.0  # seconds for which another writer is waited for

_NOT_WRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_RIGHTS = "give this user the right to write it and its folder"
_MOUNT = "mount its file system for writing"
_ROOM = "free some space on its disk and try again"
_REMEDIES = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _MOUNT,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
}

# Each is a list of statements that is run once, in one transaction. Append; what has been released never changes.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE keys (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, hint TEXT NOT NULL,
            scope TEXT NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
            bases TEXT, created_at REAL NOT NULL, expires_at REAL
        )""",
    ),
    (
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, base TEXT NOT NULL, kind TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            "by" TEXT NOT NULL, sources TEXT, allow_empty INTEGER NOT NULL,
            created_at REAL NOT NULL, started_at REAL, finished_at REAL,
            attempts INTEGER NOT NULL, cancel INTEGER NOT NULL,
            note TEXT NOT NULL, error TEXT NOT NULL, error_type TEXT NOT NULL, progress TEXT NOT NULL
        )""",
        "CREATE INDEX jobs_by_state ON jobs (state, number)",
        """CREATE TABLE job_files (
            number INTEGER PRIMARY KEY, job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, source TEXT NOT NULL,
            status TEXT NOT NULL, reader TEXT NOT NULL, chunks INTEGER NOT NULL, pages INTEGER, error TEXT NOT NULL,
            seconds REAL NOT NULL, UNIQUE (job, source)
        )""",
    ),
    (
        """CREATE TABLE feedback (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, base TEXT NOT NULL, who TEXT NOT NULL,
            user TEXT NOT NULL, rating TEXT NOT NULL CHECK (rating IN ('up', 'down')),
            question TEXT NOT NULL, answer TEXT NOT NULL, comment TEXT NOT NULL, citations TEXT NOT NULL,
            created_at REAL NOT NULL
        )""",
    ),
    (
        """CREATE TABLE conversations (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, base TEXT NOT NULL, who TEXT NOT NULL,
            user TEXT NOT NULL, name TEXT NOT NULL, inputs TEXT NOT NULL,
            created_at REAL NOT NULL, updated_at REAL NOT NULL
        )""",
        "CREATE INDEX conversations_by_owner ON conversations (who, user, updated_at)",
        """CREATE TABLE rounds (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            question TEXT NOT NULL, answer TEXT NOT NULL, told TEXT NOT NULL, citations TEXT NOT NULL,
            created_at REAL NOT NULL
        )""",
        "CREATE INDEX rounds_by_conversation ON rounds (conversation, number)",
    ),
    (
        """CREATE TABLE adapters (
            name TEXT PRIMARY KEY, folder TEXT NOT NULL, method TEXT NOT NULL, base TEXT NOT NULL,
            source TEXT NOT NULL, is_default INTEGER NOT NULL, promoted_at REAL NOT NULL
        )""",
    ),
    ("ALTER TABLE job_files ADD COLUMN error_kind TEXT NOT NULL DEFAULT ''",),
    (
        """CREATE TABLE stops (
            task TEXT NOT NULL, who TEXT NOT NULL, user TEXT NOT NULL, asked_at REAL NOT NULL,
            PRIMARY KEY (task, who, user)
        )""",
    ),
)


@dataclass
class Database:
    """Connections to the file at `path`; each belongs to one thread at a time. RegistryError when it cannot be used."""

    path: Path
    _idle: list[sqlite3.Connection] = field(default_factory=list)
    _seen: tuple[int, int] | None = None  # which file the idle ones hold open
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one read transaction."""
        with self._transaction("BEGIN", make=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside the one write transaction there is at a time; committed when the block ends well."""
        with self._transaction("BEGIN IMMEDIATE", make=True) as connection:
            yield connection

    def check(self) -> None:
        """Reads the whole file; RegistryError when something is wrong with it."""
        with self.reading() as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise RegistryError(f"{self.path} {_damaged(found)}")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _transaction(self, begin: str, make: bool) -> Iterator[sqlite3.Connection]:
        with _explained(self.path):
            there = self._look()
            connection = self._take(there, make)
            whole = False
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
                whole = True
            finally:
                try:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                finally:
                    self._give_back(connection, there, whole)

    def _look(self) -> tuple[int, int] | None:
        """Which file lies there: another one after it was moved away and made anew."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        return stat.st_dev, stat.st_ino

    def _take(self, there: tuple[int, int] | None, make: bool) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise RegistryError(f"{self.path} was closed")
            if there != self._seen:
                gone, self._idle, self._seen = self._idle, [], there
                for connection in gone:
                    connection.close()
            if self._idle:
                return self._idle.pop()
        if make:
            return self._opened()
        if there is None:
            return _migrated(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False), self.path)
        try:
            return self._opened()
        except sqlite3.OperationalError as error:
            wal = self.path.with_name(f"{self.path.name}-wal")
            if error.sqlite_errorcode & 0xFF not in _NOT_WRITABLE or (wal.exists() and wal.stat().st_size):
                raise
            return _connect(self.path, "mode=ro&immutable=1")  # nobody can write here

    def _give_back(self, connection: sqlite3.Connection, there: tuple[int, int] | None, whole: bool) -> None:
        with self._lock:
            if kept := whole and there is not None and there == self._seen and not self._closed:
                self._idle.append(connection)
        if not kept:
            connection.close()

    def _opened(self) -> sqlite3.Connection:
        """Made where there is none, and brought up to date, by one process at a time."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(self.path, "mode=rw") if self.path.exists() else None
        if connection and _version(connection) == len(MIGRATIONS):
            return connection
        with FileLock(self.path.with_name(f"{FILE}.lock")):
            return _migrated(connection or _connect(self.path, "mode=rwc"), self.path)


def _connect(path: Path, query: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}", uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA application_id").fetchone()[0] not in (0, APPLICATION):
            raise RegistryError(f"{path} is another program's file; move it away")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrated(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    try:
        if _version(connection) > len(MIGRATIONS):
            raise RegistryError(f"{path} was written by a newer kbqa; update kbqa")
        connection.execute("PRAGMA journal_mode = WAL")
        for number in range(_version(connection), len(MIGRATIONS)):
            connection.execute("BEGIN IMMEDIATE")
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raises RegistryError for what SQLite or the file system says."""
    try:
        yield
    except sqlite3.Error as error:
        raise RegistryError(f"{path} {_why(error)}") from error
    except OSError as error:
        raise RegistryError(f"{path} cannot be used: {_where(error, path)}; {remedy(error)}") from error


def _where(error: OSError, path: Path) -> str:
    """What the file system says, with the file that it says it of, where that is another one."""
    said = error.strerror or str(error)
    return f"{said} ({error.filename})" if error.filename and Path(error.filename) != path else said


def remedy(error: OSError) -> str:
    """What to do about a file below vectorstore/ that cannot be used."""
    return _REMEDIES.get(error.errno or 0, "check its folder and its disk")


def _damaged(why: object) -> str:
    return (
        f"is damaged ({' '.join(str(why).split())}); stop kbqa, remove {FILE}-wal and {FILE}-shm beside it and put a "
        "copy of it back, or move all three away and make new keys"
    )


def _why(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(error)
        case code if code in _NOT_WRITABLE:
            return f"cannot be written ({error}); {_RIGHTS}, or {_MOUNT}"
        case sqlite3.SQLITE_FULL:
            return "cannot grow: no space is left on its disk; free some and try again"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "is locked by another program; try again when it has ended"
    return f"cannot be used ({error}); look whether its disk is full or broken, and try again"
