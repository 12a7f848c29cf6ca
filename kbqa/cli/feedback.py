"""kbqa feedback: what people thought of answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click

from kbqa.cli.common import Command, FilePath, Group, Session, kb_option, pass_session, typed
from kbqa.cli.screen import complain, print_json, say, shown
from kbqa.errors import ConfigError
from kbqa.fields import feedback_fields
from kbqa.registry import FILE, RATINGS, Database, Feedback, FeedbackLog, Rating

__all__ = ["feedback"]


@click.group("feedback", cls=Group)
def feedback() -> None:
    """What people thought of answers: export."""


@feedback.command(cls=Command)
@click.argument("file", type=FilePath(), required=False)
@kb_option()
@click.option("--rating", type=click.Choice(RATINGS), help="Only these.")
@click.option("--since", metavar="DAY", type=typed, help="Only what was given from that day on (2026-11-21).")
@pass_session
def export(session: Session, file: Path | None, kb: str | None, rating: Rating | None, since: str | None) -> None:
    """Write feedback as lines of JSON to FILE, or to the screen.

    With --kb NAME --rating up these are questions for `kbqa eval answers FILE --kb NAME`: what was answered well once
    must be answered so again. Without --kb: of all bases.
    """
    with closing(Database(session.home.vectorstore / FILE)) as database:
        found = FeedbackLog(database).all(kb, rating, None if since is None else _start(since))
        count = _print(found) if file is None else _write(found, file)
    if not count:
        complain(f"note: there is no such feedback{f' on {shown(kb)}' if kb else ''}", fg="yellow")
    elif file is not None:
        say(f"{count} in {shown(str(file))}")


def _print(found: Iterable[Feedback]) -> int:
    count = 0
    for count, feedback in enumerate(found, 1):  # noqa: B007
        print_json(feedback_fields(feedback))
    return count


def _write(found: Iterable[Feedback], file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8", errors="replace") as out:
        for count, feedback in enumerate(found, 1):  # noqa: B007
            out.write(json.dumps(feedback_fields(feedback), ensure_ascii=False) + "\n")
    return count


def _start(day: str) -> float:
    try:
        return datetime.fromisoformat(day.strip()).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{day!r} is no day; write it as 2026-11-21") from error
