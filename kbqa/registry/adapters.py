"""Promoted adapters: what was tuned beside the model and is served with it, by name.

Their files lie below vectorstore/.adapters, copied there when they are promoted, so that nothing that happens to the
folder in which they were trained changes an answer. A folder is never written again: who promotes anew under a name
makes another one, and who reads the registry sees which one counts from then on.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbqa.errors import ConfigError
from kbqa.registry.database import Database

__all__ = ["FOLDER", "Adapter", "Adapters", "Served"]

FOLDER = ".adapters"  # in vectorstore; no base can be called so
_NAME = re.compile(r"\w[\w.-]*", re.UNICODE)
LONGEST_NAME = 80
_COLUMNS = "name, folder, method, base, source, is_default, promoted_at"


@dataclass(frozen=True, slots=True)
class Adapter:
    """`folder` is the name of its folder below FOLDER; `base` and `source` say what it was tuned on, and where."""

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
        if not target.is_dir():
            _copy(files, target)
        with self._database.writing() as connection:
            if default:
                connection.execute("UPDATE adapters SET is_default = 0")
            if not target.is_dir():  # tidied away by another process, which did not know yet what it is for
                _copy(files, target)
            connection.execute("DELETE FROM adapters WHERE name = ?", (name,))
            connection.execute(
                f"INSERT INTO adapters ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(getattr(adapter, it) for it in ("name", "folder", "method", "base", "source")),
                    default,
                    time.time(),
                ),
            )
            _tidy(self.home, connection)
        return adapter

    def demote(self, name: str) -> Adapter:
        """ConfigError when there is none of that name."""
        with self._database.writing() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM adapters WHERE name = ?", (name,)).fetchone()
            if row is None:
                known = ", ".join(it for (it,) in connection.execute("SELECT name FROM adapters ORDER BY name"))
                raise ConfigError(f"no adapter {name} is promoted (there are: {known or 'none yet'})")
            connection.execute("DELETE FROM adapters WHERE name = ?", (name,))
            _tidy(self.home, connection)
        return _adapter(row)


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


def _copy(files: Sequence[Path], target: Path) -> None:
    """There when all of it is."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for path in files:
            shutil.copyfile(path, partial / path.name)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tidy(home: Path, connection: sqlite3.Connection) -> None:
    """Folders that no row names go; whoever has loaded one goes on with what is in his memory."""
    named = {folder for (folder,) in connection.execute("SELECT folder FROM adapters")}
    for path in home.iterdir() if home.is_dir() else ():
        if path.name not in named and not path.name.endswith(".partial"):
            shutil.rmtree(path, ignore_errors=True)
