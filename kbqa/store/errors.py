"""Where the errors of SQLite and of the file system become ours: one line that names the file and the remedy."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kbqa.config import ingest_command
from kbqa.errors import KnowledgeBaseBusy, KnowledgeBaseError, UnknownKnowledgeBase

__all__ = ["DamagedIndex", "damaged", "is_damage", "is_full", "probe", "storage_errors", "unknown"]

_FORBIDDEN = {errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DamagedIndex(Exception):
    """A derived index cannot be used as it lies on disk. Never leaves the store: it is rebuilt from the catalogue."""


def damaged(path: Path, why: object) -> KnowledgeBaseError:
    return KnowledgeBaseError(f"{path} is damaged: {why}; {_remedy(path)}")


def _remedy(path: Path) -> str:
    name = path.parent.name
    return f"restore a backup with `kbqa kb restore FILE --replace`, or run `{ingest_command(name, rebuild=True)}`"


def unknown(folder: Path) -> UnknownKnowledgeBase:
    return UnknownKnowledgeBase(
        f"there is no knowledge base {folder.name} in {folder.parent}; `kbqa kb list` shows those there are, "
        f"`{ingest_command(folder.name)}` builds it"
    )


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it says that the file is not what it should be, and not that somebody or something is in the way."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith(("no such", "Could not decode"))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raises KnowledgeBaseError for what SQLite or the file system says about `path`, a file in a base's folder."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise _explained_os(path, error) from error


def _explained(path: Path, error: sqlite3.Error) -> KnowledgeBaseError:
    if is_damage(error):
        return damaged(path, error)
    # The low byte is the primary result code; errors of the Python layer itself have none.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return _read_only(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return KnowledgeBaseBusy(f"{path} is locked by another program; try again when it has ended")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if behind := _behind(path):
            return _explained_os(path, behind)
        case sqlite3.SQLITE_CANTOPEN:
            return _forbidden(path)
        case sqlite3.SQLITE_IOERR:
            return KnowledgeBaseError(
                f"{path} cannot be read or written ({error}); check the disk, then run the command again"
            )
    return KnowledgeBaseError(f"{path}: {error}; try again, and if it stays {_remedy(path)}")


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def probe(path: Path) -> None:
    """Raises the OSError that a megabyte written to `path` meets; for libraries that swallow it. Leaves no file."""
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            path.unlink()


def _behind(path: Path) -> OSError | None:
    """The want of room that SQLite calls an I/O error, if that is what it was."""
    try:
        probe(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))
    except OSError as error:
        return error if is_full(error) or error.errno == errno.EFBIG else None
    return None


def _explained_os(path: Path, error: OSError) -> KnowledgeBaseError:
    path = Path(error.filename) if error.filename else path
    if is_full(error):
        return _full(path)
    if error.errno == errno.EFBIG:
        return KnowledgeBaseError(
            f"{path} cannot grow: its file system or a limit of this user (`ulimit -f`) allows no larger file; raise "
            "the limit or move the folder, and run the command again"
        )
    if error.errno == errno.EROFS:
        return _read_only(path)
    if error.errno in _FORBIDDEN:
        return _forbidden(path)
    return KnowledgeBaseError(f"{path}: {error.strerror or error}; check the folder {path.parent} and its disk")


def _full(path: Path) -> KnowledgeBaseError:
    return KnowledgeBaseError(
        f"no space left on the device that holds {path.parent}: free some space and run the command again"
    )


def _read_only(path: Path) -> KnowledgeBaseError:
    return KnowledgeBaseError(
        f"{path} cannot be written; give this user the right to write it, or mount its file system for writing"
    )


def _forbidden(path: Path) -> KnowledgeBaseError:
    return KnowledgeBaseError(
        f"{path} cannot be opened; give this user the right to read and write it and its folder {path.parent}"
    )
