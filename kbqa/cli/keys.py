"""kbqa key: who may use the service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from kbqa.cli.common import Group, Session, pass_session, typed
from kbqa.cli.screen import complain, print_json, say, shown, table
from kbqa.errors import ConfigError
from kbqa.registry import FILE, SCOPES, Database, Key, KeyRing, Scope, expiry

if TYPE_CHECKING:
    from kbqa.config import Home

__all__ = ["keys"]

name_argument = click.argument("name", type=typed)


@click.group("key", cls=Group)
def keys() -> None:
    """Keys for the service: add, list, revoke."""


@contextmanager
def _ring(home: Home) -> Iterator[KeyRing]:
    database = Database(home.vectorstore / FILE)
    try:
        yield KeyRing(database)
    finally:
        database.close()


@keys.command()
@name_argument
@click.option("--kb", "bases", metavar="A,B", type=typed, help="The bases that it opens; else all of them.")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="read",
    show_default=True,
    help="read: ask and search; write: documents too; admin: everything.",
)
@click.option("--expires", metavar="WHEN", type=typed, help="30d, 12h or the last day (2027-01-31); else never.")
@pass_session
def add(session: Session, name: str, bases: str | None, scope: Scope, expires: str | None) -> None:
    """Make a key and print it, this once.

    NAME says in logs whose it is: a person or a program.
    """
    home = session.home
    allowed = None if bases is None else _names(bases)
    with _ring(home) as ring:
        made = ring.add(name, scope, allowed, None if expires is None else expiry(expires, time.time()))
    for missing in (base for base in sorted(made.key.bases or ()) if not home.base(base).is_dir()):
        complain(f"note: there is no knowledge base {shown(missing)} yet", fg="yellow")
    if session.json:
        print_json({**_fields(made.key), "key": made.secret})
        return
    say(made.secret)
    complain(f"{_in_words(made.key)}. Keep it now: it is shown this once. Clients send: Authorization: Bearer <key>")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--kb names no base; write --kb a,b, or leave it out to open all")
    return names


@keys.command("list")
@pass_session
def list_keys(session: Session) -> None:
    """List the keys, expired ones too."""
    with _ring(session.home) as ring:
        found = ring.all()
    if session.json:
        print_json({"keys": [_fields(key) for key in found]})
    elif not found:
        say("there are none; `kbqa key add NAME` makes one")
    else:
        table(("name", "scope", "bases", "key", "made", "expires"), [_row(key) for key in found], header=True)


@keys.command()
@name_argument
@pass_session
def revoke(session: Session, name: str) -> None:
    """Take NAME's key back, at once."""
    with _ring(session.home) as ring:
        key = ring.revoke(name)
        left = bool(ring.all())
    if session.json:
        print_json({"revoked": key.name})
    else:
        say(f"revoked {shown(key.name)}")
    if not left:
        complain("note: no key is left: a service on this machine's own address asks for none now", fg="yellow")


def _fields(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "hint": key.hint,
        "scope": key.scope,
        "bases": None if key.bases is None else sorted(key.bases),
        "created_at": _moment(key.created_at),
        "expires_at": None if key.expires_at is None else _moment(key.expires_at),
        "expired": key.expired(time.time()),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _row(key: Key) -> tuple[object, ...]:
    ends = "never" if key.expires_at is None else f"{datetime.fromtimestamp(key.expires_at):%Y-%m-%d %H:%M}"
    ends += " (expired)" if key.expired(time.time()) else ""
    made = f"{datetime.fromtimestamp(key.created_at):%Y-%m-%d %H:%M}"
    return key.name, key.scope, _opens(key), f"…{key.hint}", made, ends


def _opens(key: Key) -> str:
    return "all" if key.bases is None else ", ".join(sorted(key.bases))


def _in_words(key: Key) -> str:
    until = "" if key.expires_at is None else f", until {datetime.fromtimestamp(key.expires_at):%Y-%m-%d %H:%M}"
    return f"{shown(key.name)} may {key.scope} in {shown(_opens(key))}{until}"
