"""Keys: who may ask which bases, and for how long.

A key is 32 random bytes; the registry keeps its SHA-256 alone, so that nobody who reads the file can use what it holds.
(Nothing slower is needed: there is nothing to guess in 32 random bytes.)
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal, get_args

from kbqa.config import check_name
from kbqa.errors import ConfigError
from kbqa.registry.database import Database

__all__ = ["SCOPES", "Key", "KeyRing", "NewKey", "Scope", "expiry"]

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each may do what those before it may

PREFIX = "kbqa_"  # so that scanners for secrets find a key that was left somewhere
HINT = 4  # last characters of a key that are kept and shown, to tell keys apart
LONGEST_NAME = 80

_Row = tuple[str, str, Scope, str | None, float, float | None]
_COLUMNS = "name, hint, scope, bases, created_at, expires_at"


@dataclass(frozen=True, slots=True)
class Key:
    """`bases` None: all of them, also those to come. Times are seconds since 1970."""

    name: str
    hint: str
    scope: Scope
    bases: frozenset[str] | None
    created_at: float
    expires_at: float | None = None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class NewKey:
    """`secret` is shown once and kept nowhere."""

    key: Key
    secret: str


class KeyRing:
    """The keys of an installation. Safe to use from many threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, name: str, scope: Scope = "read", bases: Sequence[str] | None = None, expires_at: float | None = None
    ) -> NewKey:
        """ConfigError when the name is taken or cannot be one, and when the key would be expired at once."""
        now = time.time()
        if expires_at is not None and expires_at <= now:
            raise ConfigError(f"the key {name} would have expired already; name a later time")
        allowed = None if bases is None else frozenset(map(check_name, bases))
        if allowed is not None and not allowed:
            raise ConfigError(f"the key {name} would open no base; name at least one, or none to open all")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(_checked(name), secret[-HINT:], scope, allowed, now, expires_at)
        listed = None if allowed is None else json.dumps(sorted(allowed), ensure_ascii=False)
        with self._database.writing() as connection:
            if connection.execute("SELECT 1 FROM keys WHERE name = ?", (key.name,)).fetchone():
                raise ConfigError(
                    f"there is a key {key.name} already; choose another name, or run `kbqa key revoke {key.name}` first"
                )
            connection.execute(
                f"INSERT INTO keys (digest, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (digest(secret), key.name, key.hint, key.scope, listed, key.created_at, key.expires_at),
            )
        return NewKey(key, secret)

    def all(self) -> list[Key]:
        """Expired ones too, by name."""
        return sorted(self.by_digest().values(), key=lambda key: key.name)

    def by_digest(self) -> dict[str, Key]:
        """Every key under `digest` of its secret: what a service needs to know whoever comes."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT digest, {_COLUMNS} FROM keys").fetchall()
        return {found: _key(row) for found, *row in rows}

    def revoke(self, name: str) -> Key:
        """ConfigError when there is no such key."""
        with self._database.writing() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM keys WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise ConfigError(f"there is no key {name} (there are: {_names(connection)})")
            connection.execute("DELETE FROM keys WHERE name = ?", (name,))
        return _key(row)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _key(row: Sequence[Any]) -> Key:
    name, hint, scope, bases, created_at, expires_at = row
    return Key(name, hint, scope, None if bases is None else frozenset(json.loads(bases)), created_at, expires_at)


def _names(connection: sqlite3.Connection) -> str:
    return ", ".join(name for (name,) in connection.execute("SELECT name FROM keys ORDER BY name")) or "none yet"


def _checked(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME or name != name.strip():
        raise ConfigError(f"{name!r} cannot name a key: use 1 to {LONGEST_NAME} visible characters")
    return name


def expiry(text: str, now: float) -> float:
    """When a key expires that was made at `now`: 30d and 12h count from then, a date means the end of that day."""
    if span := re.fullmatch(r"(\d{1,5})([dh])", text.strip()):
        count = int(span[1])
        return now + timedelta(**{"days" if span[2] == "d" else "hours": count}).total_seconds()
    try:
        day = date.fromisoformat(text.strip())
        return datetime.combine(day, datetime.min.time()).timestamp() + timedelta(days=1).total_seconds()
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{text!r} is no time to expire: write 30d, 12h or a date as 2027-01-31") from error
