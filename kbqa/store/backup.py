"""A base as one file, and back.

The file is a zip of kb.sqlite, copied by SQLite's backup while others read and write, and manifest.json with its size
and SHA-256. Derived indexes are not in it: they are built again. Member names are never used as paths.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sqlite3
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kbqa.errors import KnowledgeBaseError
from kbqa.store.catalogue import FORMAT, last_chunk_id, read_passport, read_state
from kbqa.store.connections import Pool, connect_writer
from kbqa.store.derived import Limits
from kbqa.store.errors import damaged, storage_errors
from kbqa.store.files import CATALOGUE, RESTORE, remove_catalogue, sync, write_lock
from kbqa.store.switch import install, look_at
from kbqa.store.writer import Writer

__all__ = ["backup", "backup_name", "restore"]

_MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 1 << 20
_PART = 1 << 20


def backup(folder: Path, file: Path, overwrite: bool = False) -> None:
    """Writes the base in `folder` as it is at this moment to `file`, which appears whole or not at all."""
    if file.exists() and not overwrite:
        raise KnowledgeBaseError(f"{file} exists already; choose another name for the backup, or delete it first")
    if not file.absolute().parent.is_dir():
        raise KnowledgeBaseError(f"there is no folder {file.parent} for the backup; create it or choose another place")
    token = secrets.token_hex(4)
    copy, archive = (file.with_name(f".{file.name}.{token}.{kind}") for kind in ("sqlite", "zip"))
    pool = Pool(folder / CATALOGUE)
    try:
        with pool.reading() as connection, storage_errors(file), closing(sqlite3.connect(copy)) as target:
            connection.backup(target)
            _check_whole(target, folder / CATALOGUE)
        with storage_errors(file):
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
                size, digest = _add(out, copy)
                manifest = {
                    "kbqa": "backup",
                    "format": FORMAT,
                    "name": folder.name,
                    "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "files": {CATALOGUE: {"size": size, "sha256": digest}},
                }
                out.writestr(_MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
            sync(archive)
            archive.replace(file)
            sync(file.absolute().parent)
    finally:
        pool.close()
        with suppress(OSError):
            remove_catalogue(copy)
            archive.unlink(missing_ok=True)


def _add(out: zipfile.ZipFile, path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as source, out.open(CATALOGUE, "w", force_zip64=True) as member:
        while part := source.read(_PART):
            digest.update(part)
            member.write(part)
    return path.stat().st_size, digest.hexdigest()


def backup_name(file: Path) -> str:
    """The name that the base had when `file` was written."""
    with _opened(file) as archive:
        return _described(archive, file).name


def restore(file: Path, folder: Path, replace: bool = False, limits: Limits | None = None) -> None:
    """Makes the base in `folder` what it was when `file` was written; `replace` allows that there is one.

    Everything is checked before anything is changed. Readers of a base that is replaced see the old or the new.
    """
    path, new = folder / CATALOGUE, folder / RESTORE
    if path.exists() and not replace:
        raise KnowledgeBaseError(
            f"knowledge base {folder.name} exists already in {folder.parent}; add --replace to replace it"
        )
    with _folder(folder), write_lock(folder):
        try:
            remove_catalogue(new)
            _extract(file, new)
            with storage_errors(new):
                _prepare(new, path)
            with storage_errors(path):
                install(new, path)
        finally:
            with suppress(OSError):
                remove_catalogue(new)
        with closing(Writer(path, limits or Limits())) as writer:
            writer.checkpoint()


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """The folder of a base; it goes again when it was made here and nothing came of it."""
    made = not folder.exists()
    with storage_errors(folder / CATALOGUE):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made and not (folder / CATALOGUE).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _extract(file: Path, target: Path) -> None:
    """The catalogue out of a backup, if it is the one that the manifest describes."""
    with _opened(file) as archive:
        described = _described(archive, file)
        digest = hashlib.sha256()
        with storage_errors(target), archive.open(CATALOGUE) as member, target.open("wb") as out:
            while part := member.read(_PART):
                digest.update(part)
                if out.tell() + len(part) > described.size:
                    raise _not_whole(
                        file, f"{CATALOGUE} in it is longer than the {described.size} bytes it should have"
                    )
                out.write(part)
            length = out.tell()
    if length != described.size or digest.hexdigest() != described.sha256:
        raise _not_whole(file, f"{CATALOGUE} in it has another checksum than its manifest says")


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    if not file.is_file():
        what = "is no file" if file.exists() else "does not exist"
        raise KnowledgeBaseError(f"{file} {what}; name a file that `kbqa kb backup` wrote")
    try:
        with storage_errors(file):
            archive = zipfile.ZipFile(file)
        with archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise _not_whole(file, error) from error


@dataclass(frozen=True, slots=True)
class _Described:
    """What the manifest says: the name of the base, the size and SHA-256 of its catalogue."""

    name: str
    size: int
    sha256: str


def _described(archive: zipfile.ZipFile, file: Path) -> _Described:
    try:
        info = archive.getinfo(_MANIFEST)
    except KeyError:
        raise KnowledgeBaseError(f"{file} is not a backup of kbqa: there is no {_MANIFEST} in it") from None
    if info.file_size > _MANIFEST_LIMIT:
        raise _not_whole(file, "its manifest is too large")
    try:
        with storage_errors(file):
            manifest = json.loads(archive.read(info))
        if manifest["kbqa"] != "backup" or manifest["format"] != FORMAT:
            raise _not_whole(file, f"it has format {manifest['format']}, this kbqa reads {FORMAT}")
        described = manifest["files"][CATALOGUE]
        return _Described(str(manifest["name"]), int(described["size"]), str(described["sha256"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _not_whole(file, f"its manifest cannot be read ({error!r})") from error


def _not_whole(file: Path, why: object) -> KnowledgeBaseError:
    return KnowledgeBaseError(f"{file} is not a whole backup of a knowledge base: {why}; nothing was changed")


def _prepare(new: Path, path: Path) -> None:
    """Cuts off the derived indexes of then, and counts on from what lies at `path`: a reader that has found chunks in
    the base of now must not be given others under their ids."""
    old = look_at(path)
    with closing(connect_writer(new)) as connection:
        read_passport(connection, new)
        state = read_state(connection)
        revision = max(state.revision, old.state.revision if old.state else 0) + 1
        generation = max(state.generation, old.state.generation if old.state else 0) + 1
        last = max(last_chunk_id(connection), old.last_chunk)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM indexes")
        connection.execute("DELETE FROM removed")
        connection.execute("UPDATE state SET revision = ?, generation = ?", (revision, generation))
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'chunks'", (last,))
        connection.execute("COMMIT")
        _check_whole(connection, new)


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, "SQLite's integrity check fails")
