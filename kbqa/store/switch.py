"""A whole catalogue in place of another one: rebuilding and restoring.

The new catalogue is built beside the old one and then copied over it by SQLite's backup in one transaction: readers,
also those in other processes with the file open, see the old base or the new one and never a mix. A crash before that
leaves the old base as it was and some files that the next writer throws away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from kbqa.errors import IndexMismatch, KnowledgeBaseError
from kbqa.store.catalogue import Passport, State, last_chunk_id, read_passport, read_state
from kbqa.store.connections import APPLICATION, connect_writer, create_catalogue
from kbqa.store.derived import Limits, read_rows
from kbqa.store.errors import is_damage, storage_errors
from kbqa.store.files import CATALOGUE, REBUILD, collect, remove_catalogue, sync, write_lock
from kbqa.store.writer import Writer

__all__ = ["Old", "install", "look_at", "rebuilding", "set_aside"]


@dataclass(frozen=True, slots=True)
class Old:
    """What lies in the place of a new catalogue."""

    state: State | None = None
    last_chunk: int = 0
    passport: Passport | None = None
    names: frozenset[str] = frozenset()  # of its derived indexes


@contextmanager
def rebuilding(folder: Path, passport: Passport, limits: Limits) -> Iterator[Writer]:
    """See Store.rebuild."""
    path, new = folder / CATALOGUE, folder / REBUILD
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
    with write_lock(folder):
        try:
            with storage_errors(new):
                old = look_at(path)
                remove_catalogue(new)
                create_catalogue(new, passport, after=old.state, last_chunk=old.last_chunk)
            donor = _donor(path, old, passport)
            try:
                with closing(Writer(new, limits, keep=old.names, donor=donor)) as writer:
                    yield writer
                    writer.checkpoint()
            finally:
                if donor:
                    donor.close()
            with storage_errors(path):
                install(new, path)
        finally:
            with suppress(OSError):
                remove_catalogue(new)
        with storage_errors(path):
            collect(folder, look_at(path).names)


def look_at(path: Path) -> Old:
    """Empty when nothing lies there, or what does is too damaged to be read. Raises sqlite3.Error for the rest."""
    if not path.exists():
        return Old()
    try:
        with closing(connect_writer(path)) as connection:
            names = frozenset(row.name for row in read_rows(connection))
            return Old(read_state(connection), last_chunk_id(connection), _passport(connection, path), names)
    except sqlite3.Error as error:
        if is_damage(error):
            return Old()
        raise


def _passport(connection: sqlite3.Connection, path: Path) -> Passport | None:
    try:
        return read_passport(connection, path)
    except KnowledgeBaseError:
        return None


def _donor(path: Path, old: Old, passport: Passport) -> sqlite3.Connection | None:
    """A connection to the old catalogue if its vectors are those that the new one would have."""
    made = old.passport
    if made and (made.embedder_fingerprint, made.dim) == (passport.embedder_fingerprint, passport.dim):
        return connect_writer(path)
    return None


def install(new: Path, path: Path) -> None:
    """Makes the catalogue `new`, which nobody has open, the content of `path`. The caller holds the write lock.

    A file that SQLite cannot even write over is kept as kb.sqlite.damaged-<n>.
    """
    if path.exists():
        try:
            with closing(connect_writer(new)) as source, closing(connect_writer(path)) as target:
                source.backup(target)
                target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # as far as readers let it
            return
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        _put_aside(path)
    sync(new)
    new.rename(path)
    sync(path.parent)


def set_aside(folder: Path) -> Path | None:
    """Renames a catalogue that is too damaged to be opened, so that a new base can be created in its place.

    The new path, kb.sqlite.damaged-<n>; None when there is no catalogue, or none that is damaged. Raises
    KnowledgeBaseBusy while somebody writes, KnowledgeBaseError when the file cannot be read or renamed.
    """
    path = folder / CATALOGUE
    if not path.exists():
        return None
    with write_lock(folder), storage_errors(path):
        return _put_aside(path) if _is_damaged(path) else None


def _is_damaged(path: Path) -> bool:
    """Raises sqlite3.Error for what keeps the catalogue from being read without being damage to it."""
    try:
        with closing(connect_writer(path)) as connection:
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
                return True
            read_passport(connection, path)
            read_state(connection)
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
    except IndexMismatch:
        return False
    except KnowledgeBaseError:  # the passport is not whole
        return True
    except sqlite3.Error as error:
        if is_damage(error):
            return True
        raise


def _put_aside(path: Path) -> Path:
    """The catalogue under the next free name, its -wal and -shm with it: with them more of it may be saved."""
    names = (path.with_name(f"{path.name}.damaged-{n}") for n in count(1))
    aside = next(name for name in names if not name.exists())
    for suffix in ("-wal", "-shm", ""):  # what is cut short here leaves the catalogue where it was
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    sync(path.parent)
    return aside
