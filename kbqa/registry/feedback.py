"""Feedback: what people thought of answers, kept with what they had asked and been told, to measure by later."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kbqa.errors import UnknownFeedback
from kbqa.registry.database import Database

__all__ = ["RATINGS", "Feedback", "FeedbackLog", "Rating"]

Rating = Literal["up", "down"]
RATINGS: tuple[Rating, ...] = get_args(Rating)

KEPT = 20_000  # the newest
PAGE = 500  # read in one transaction


def _new_id() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Feedback:
    """`citations` have the fields of `kbqa ask --json`. `created_at` is in seconds since 1970."""

    base: str
    who: str  # the name of the key
    rating: Rating
    question: str
    answer: str
    comment: str = ""
    citations: tuple[Mapping[str, Any], ...] = ()
    user: str = ""  # as a program calls whoever sits in front of it
    created_at: float = field(default_factory=time.time)
    id: str = field(default_factory=_new_id)


_COLUMNS = ", ".join(Feedback.__dataclass_fields__)


class FeedbackLog:
    """The feedback of an installation. Safe to use from many threads and processes; everything here blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, feedback: Feedback) -> None:
        with self._database.writing() as connection:
            connection.execute(
                f"INSERT INTO feedback ({_COLUMNS}) VALUES (?{', ?' * (len(Feedback.__dataclass_fields__) - 1)})",
                _row(feedback),
            )
            connection.execute("DELETE FROM feedback WHERE number <= (SELECT max(number) FROM feedback) - ?", (KEPT,))

    def change(self, feedback: Feedback) -> None:
        """Takes the place of the one with its id; UnknownFeedback where that is not of the same key and base."""
        with self._database.writing() as connection:
            changed = connection.execute(
                "UPDATE feedback SET rating = ?, question = ?, answer = ?, comment = ?, citations = ?, created_at = ?"
                " WHERE id = ? AND who = ? AND base = ?",
                (
                    feedback.rating,
                    feedback.question,
                    feedback.answer,
                    feedback.comment,
                    _json(feedback.citations),
                    feedback.created_at,
                    feedback.id,
                    feedback.who,
                    feedback.base,
                ),
            ).rowcount
        if not changed:
            raise UnknownFeedback(f"there is no feedback {feedback.id!r} of yours on {feedback.base}")

    def remove(self, id: str, who: str) -> None:
        """Nothing, when there is none of that id that this key gave."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM feedback WHERE id = ? AND who = ?", (id, who))

    def ratings(self, ids: Sequence[str]) -> dict[str, Rating]:
        """Of those of `ids` that there are."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT id, rating FROM feedback WHERE id IN ({', '.join('?' * len(ids))})", list(ids)
            ).fetchall()
        return dict(rows)

    def all(
        self, base: str | None = None, rating: Rating | None = None, since: float | None = None
    ) -> Iterator[Feedback]:
        """In the order in which it was first given."""
        chosen = {"base = ?": base, "rating = ?": rating, "created_at >= ?": since}
        where = " AND ".join(["number > ?", *(test for test, value in chosen.items() if value is not None)])
        values = [value for value in chosen.values() if value is not None]
        last = 0
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(
                    f"SELECT number, {_COLUMNS} FROM feedback WHERE {where} ORDER BY number LIMIT ?",
                    (last, *values, PAGE),
                ).fetchall()
            for _, *row in rows:
                yield _feedback(row)
            if len(rows) < PAGE:
                return
            last = rows[-1][0]


def _row(feedback: Feedback) -> list[Any]:
    values = {name: getattr(feedback, name) for name in Feedback.__dataclass_fields__}
    return list({**values, "citations": _json(feedback.citations)}.values())


def _json(citations: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(citations), ensure_ascii=False)


def _feedback(row: Sequence[Any]) -> Feedback:
    values = dict(zip(Feedback.__dataclass_fields__, row, strict=True))
    values["citations"] = tuple(json.loads(values["citations"]))
    return Feedback(**values)
