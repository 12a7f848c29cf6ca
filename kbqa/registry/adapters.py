"""Promoted adapters: what was tuned beside the model and is served with it, by name.

Their files lie below vectorstore/.adapters, copied there when they are promoted, so that nothing that happens to the
folder in which they were trained changes an answer. A folder is never written again: who promotes anew under a name
makes another one, and who reads the registry sees which one counts from then on.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from kbqa.errors import ConfigError, RegistryError
from kbqa.registry.database import Database, remedy

__all__ = ["FOLDER", "Adapter", "Adapters", "Served"]

FOLDER = ".adapters"  # in vectorstore; no base can be called so
_NAME = re.compile(r"\w[\w.-]*", re.UNICODE)
LONGEST_NAME = 80
PARTIAL = ".partial"  # ends the names of folders that are being copied, or removed
FORGOTTEN = 86400.0  # seconds after which nobody works on such a one any more
_COLUMNS = "name, folder, method, base, source, is_default, promoted_at"


@dataclass(frozen=True, slots=True)
class Adapter:
    """`folder` is the name of its folder below FOLDER; `base` and `source` say what it was tuned on, and where.

    `base` is "" where nothing tells.
    """

    name: str
    folder: str
    method: str
    base: str
    source: str
    default: bool
    promoted_at: float


@dataclass(frozen=True, slots=True)
class Served:
    """The folders of all by name, and which one is taken when nobody names one."""

    folders: Mapping[str, Path]
    default: str | None = None


class Adapters:
    """The promoted adapters of an installation. Safe to use from many threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.home = database.path.parent / FOLDER

    def all(self) -> list[Adapter]:
        """By name."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM adapters ORDER BY name").fetchall()
        return [_adapter(row) for row in rows]

    def served(self) -> Served:
        found = self.all()
        default = next((it.name for it in found if it.default), None)
        return Served({it.name: self.home / it.folder for it in found}, default)

    def promote(
        self, name: str, files: Sequence[Path], folder: str, *, method: str, base: str, source: str, default: bool
    ) -> Adapter:
        """Copies `files` to `folder`, from then on the adapter `name`; ConfigError when nothing can be called so.

        With `default` it is also what is taken when nobody names one, in the place of another.
        """
        adapter = Adapter(_checked(name), f"{name}-{folder}", method, base, source, default, time.time())
        target = self.home / adapter.folder
        with _copied(files, self.home) as copy, self._database.writing() as connection:
            if not target.is_dir():
                copy.rename(target)
            if default:
                connection.execute("UPDATE adapters SET is_default = 0")
            connection.execute("DELETE FROM adapters WHERE name = ?", (name,))
            connection.execute(
                f"INSERT INTO adapters ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(getattr(adapter, it) for it in ("name", "folder", "method", "base", "source")),
                    default,
                    time.time(),
                ),
            )
        self._tidy()
        return adapter

    def demote(self, name: str) -> Adapter:
        """ConfigError when there is none of that name."""
        with self._database.writing() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM adapters WHERE name = ?", (name,)).fetchone()
            if row is None:
                known = ", ".join(it for (it,) in connection.execute("SELECT name FROM adapters ORDER BY name"))
                raise ConfigError(f"no adapter {name} is promoted (there are: {known or 'none yet'})")
            connection.execute("DELETE FROM adapters WHERE name = ?", (name,))
        self._tidy()
        return _adapter(row)

    def _tidy(self) -> None:
        """Folders that no row names go; whoever has loaded one goes on with what is in his memory.

        In a transaction of its own: what another process is about to name stays, and what one that failed had named.
        """
        with suppress(RegistryError), self._database.writing() as connection:
            named = {folder for (folder,) in connection.execute("SELECT folder FROM adapters")}
            for path in self.home.iterdir() if self.home.is_dir() else ():
                if path.name.endswith(PARTIAL):
                    if time.time() - path.stat().st_mtime > FORGOTTEN:
                        shutil.rmtree(path, ignore_errors=True)
                elif path.name not in named:
                    gone = path.with_name(f".{uuid4().hex}{PARTIAL}")  # half removed, it has not its name any more
                    path.rename(gone)
                    shutil.rmtree(gone, ignore_errors=True)


def _adapter(row: tuple[str, str, str, str, str, int, float]) -> Adapter:
    name, folder, method, base, source, default, promoted_at = row
    return Adapter(name, folder, method, base, source, bool(default), promoted_at)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{name!r} cannot name an adapter: use letters (Chinese too), digits, '-', '_' and '.', at most "
            f"{LONGEST_NAME} of them, starting with a letter or digit"
        )
    return name


@contextmanager
def _copied(files: Sequence[Path], home: Path) -> Iterator[Path]:
    """A folder in `home` with copies of the files, to be renamed; what is left of it goes. Nobody else writes there."""
    partial = home / f".{uuid4().hex}{PARTIAL}"
    try:
        try:
            partial.mkdir(parents=True)
            for path in files:
                shutil.copyfile(path, partial / path.name)
        except OSError as error:
            where = error.filename or partial
            raise RegistryError(f"{where} cannot be copied: {error.strerror}; {remedy(error)}") from error
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
