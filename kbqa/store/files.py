"""Files of one base: their names, safe writing, checksums, the write lock, and what may be thrown away.

<kb>/kb.sqlite                 the catalogue (and SQLite's -wal and -shm)
<kb>/index/<name>...           derived indexes; only those named in the catalogue count
<kb>/write.lock, writer.json   held while somebody writes; who that is
<kb>/rebuild.sqlite            a new catalogue being built
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kbqa.errors import KnowledgeBaseBusy
from kbqa.store.errors import DamagedIndex, is_full, storage_errors

__all__ = [
    "CATALOGUE",
    "INDEX",
    "REBUILD",
    "RESTORE",
    "Seal",
    "catalogue_path",
    "check",
    "collect",
    "crc",
    "link",
    "new_name",
    "remove_catalogue",
    "seal",
    "sync",
    "write_lock",
]

CATALOGUE = "kb.sqlite"
REBUILD = "rebuild.sqlite"
RESTORE = "restore.sqlite"
INDEX = "index"
_LOCK = "write.lock"
_HOLDER = "writer.json"

Seal = Mapping[str, tuple[int, int]]  # path below index/ with `/` -> its size and CRC-32

_CHUNK = 1 << 20
# Files found whole before, by what the file system says of them: a hard link of a checked file need not be read again.
_checked: set[tuple[int, int, int, int, int]] = set()


def catalogue_path(folder: Path) -> Path:
    return folder / CATALOGUE


def new_name(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(8)}"


def crc(path: Path) -> int:
    """CRC-32: it finds damage, at 4 GB/s; it is no protection from somebody who can write the folder."""
    value = 0
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            value = zlib.crc32(part, value)
    return value


def sync(path: Path) -> None:
    """Brings a file, or the entries of a folder, safely to disk. Windows cannot sync a folder and need not."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: Path, target: Path) -> None:
    """A second name for an immutable file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def seal(index: Path, names: Collection[str], known: Seal) -> dict[str, tuple[int, int]]:
    """Syncs the files `names` below `index` and says their sizes and checksums. Those in `known` keep theirs:
    a linked file that was damaged meanwhile must not get a fresh, fitting checksum."""
    sealed = {}
    for name in sorted(names):
        if name in known:
            sealed[name] = known[name]
            continue
        path = index / name
        sync(path)
        sealed[name] = (path.stat().st_size, crc(path))
    for folder in {(index / name).parent for name in names} | {index}:
        sync(folder)
    return sealed


def check(index: Path, sealed: Seal, again: bool = False) -> None:
    """Raises DamagedIndex unless every file is there with its size and checksum; `again` reads them all anew."""
    for name, (size, checksum) in sealed.items():
        path = index / name
        try:
            stat = path.stat()
            key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, checksum)
            if stat.st_size != size:
                raise DamagedIndex(f"{path} has {stat.st_size} bytes instead of {size}")
            if key in _checked and not again:
                continue
            if crc(path) != checksum:
                raise DamagedIndex(f"{path} has another checksum than when it was written")
        except OSError as error:
            raise DamagedIndex(f"{path} cannot be read: {error.strerror}") from error
        _checked.add(key)


def remove_catalogue(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


def collect(folder: Path, keep: Collection[str]) -> list[str]:
    """Throws away what no catalogue names: index files but those in `keep`, half-built catalogues. For the writer
    alone. What somebody holds open (Windows) stays until next time. The names removed."""
    removed = []
    index = folder / INDEX
    for path in sorted(index.iterdir()) if index.is_dir() else []:
        if path.name in keep:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(PermissionError):
                path.unlink()
        removed.append(path.name)
    return removed


@contextmanager
def write_lock(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """The one right to write to a base; KnowledgeBaseBusy when it is not free within `wait` seconds.

    The operating system lets go of it when the process ends, however that happens.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, thread_local=False)
    holder = folder / _HOLDER
    with storage_errors(folder / _LOCK):
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise KnowledgeBaseBusy(
                f"knowledge base {folder.name} is being written{_by(holder)}; try again when that has ended"
            ) from None
        try:
            me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            holder.write_text(json.dumps(me), encoding="utf-8")
        except OSError as error:
            if not is_full(error):  # else whoever makes room, by deleting a base for example, may do so
                lock.release()
                raise
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _by(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text(encoding="utf-8"))
        return f" by process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"
