"""Conversations that are kept for programs which know no more of them than an id.

Each belongs to the key that began it, and to the user that the program named: nobody else finds it.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kbqa.errors import UnknownConversation
from kbqa.registry.database import Database
from kbqa.types import Turn

__all__ = ["Conversation", "Conversations", "Order", "Round", "new_id"]

KEPT = 10_000  # conversations of one key, those that went on last
KEPT_ROUNDS = 500  # of one conversation, the newest
LONGEST_NAME = 200

Order = Literal["created_at", "-created_at", "updated_at", "-updated_at"]  # with a minus: the newest first


def new_id() -> str:
    """A UUID, as such programs expect it."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Conversation:
    """`inputs` is whatever came with its first question. Times are seconds since 1970."""

    base: str
    who: str  # the name of the key
    user: str
    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Round:
    """A question and its answer: `told` as the client got it, `answer` without what was added to it for him.

    `citations` have the fields of `kbqa ask --json`, and may have more.
    """

    conversation: str
    question: str
    answer: str
    told: str
    citations: tuple[Mapping[str, Any], ...] = ()
    created_at: float = field(default_factory=time.time)
    id: str = field(default_factory=new_id)


_COLUMNS = ", ".join(Conversation.__dataclass_fields__)
_ROUND = ", ".join(Round.__dataclass_fields__)


class Conversations:
    """The conversations of an installation. Safe to use from many threads and processes; everything here blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, conversation: Conversation) -> None:
        """Nothing, when it is there already."""
        values = {name: getattr(conversation, name) for name in Conversation.__dataclass_fields__}
        values["inputs"] = json.dumps(conversation.inputs, ensure_ascii=False)
        values["name"] = conversation.name[:LONGEST_NAME]
        with self._database.writing() as connection:
            connection.execute(
                f"INSERT OR IGNORE INTO conversations ({_COLUMNS}) VALUES ({_places(values)})", list(values.values())
            )
            connection.execute(
                "DELETE FROM conversations WHERE id IN"
                " (SELECT id FROM conversations WHERE who = ? ORDER BY updated_at DESC, number DESC LIMIT -1 OFFSET ?)",
                (conversation.who, KEPT),
            )

    def get(self, id: str, who: str, user: str) -> Conversation:
        """UnknownConversation when there is none of that id, or it is somebody else's."""
        with self._database.reading() as connection:
            return _get(connection, id, who, user)

    def all(
        self, who: str, user: str, limit: int, after: str | None = None, order: Order = "-updated_at"
    ) -> list[Conversation]:
        """Those of a user; `after`: the last one that was listed before."""
        column, down = order.removeprefix("-"), order.startswith("-")
        test, direction = ("<", "DESC") if down else (">", "ASC")
        with self._database.reading() as connection:
            where, values = "who = ? AND user = ?", [who, user]
            if after is not None:
                _get(connection, after, who, user)
                where += f" AND ({column}, number) {test} (SELECT {column}, number FROM conversations WHERE id = ?)"
                values.append(after)
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM conversations WHERE {where}"
                f" ORDER BY {column} {direction}, number {direction} LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [_conversation(row) for row in rows]

    def rename(self, id: str, who: str, user: str, name: str) -> Conversation:
        with self._database.writing() as connection:
            found = _get(connection, id, who, user)
            connection.execute("UPDATE conversations SET name = ? WHERE id = ?", (name[:LONGEST_NAME], id))
        return replace(found, name=name[:LONGEST_NAME])

    def remove(self, id: str, who: str, user: str) -> None:
        with self._database.writing() as connection:
            _get(connection, id, who, user)
            connection.execute("DELETE FROM conversations WHERE id = ?", (id,))

    # --- rounds ------------------------------------------------------------------------------------------------------

    def add(self, round: Round) -> None:
        """Nothing, when the conversation was removed meanwhile."""
        values = {name: getattr(round, name) for name in Round.__dataclass_fields__}
        values["citations"] = json.dumps(list(round.citations), ensure_ascii=False)
        with self._database.writing() as connection:
            went_on = connection.execute(
                "UPDATE conversations SET updated_at = max(updated_at, ?) WHERE id = ?",
                (round.created_at, round.conversation),
            )
            if not went_on.rowcount:
                return
            connection.execute(f"INSERT INTO rounds ({_ROUND}) VALUES ({_places(values)})", list(values.values()))
            connection.execute(
                "DELETE FROM rounds WHERE conversation = ? AND number <="
                " (SELECT number FROM rounds WHERE conversation = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (round.conversation, round.conversation, KEPT_ROUNDS),
            )

    def rounds(self, id: str, who: str, user: str, limit: int, before: str | None = None) -> list[Round]:
        """The last ones, in their order; `before`: the first one that was listed after them."""
        with self._database.reading() as connection:
            _get(connection, id, who, user)
            where, values = "conversation = ?", [id]
            if before is not None:
                row = connection.execute("SELECT 1 FROM rounds WHERE conversation = ? AND id = ?", (id, before))
                if row.fetchone() is None:
                    raise UnknownConversation(f"there is no message {before!r} in this conversation")
                where += " AND number < (SELECT number FROM rounds WHERE id = ?)"
                values.append(before)
            rows = connection.execute(
                f"SELECT {_ROUND} FROM rounds WHERE {where} ORDER BY number DESC LIMIT ?", (*values, limit)
            ).fetchall()
        return [_round(row) for row in reversed(rows)]

    def first_question(self, id: str, who: str, user: str) -> str:
        """ "" where none is kept."""
        with self._database.reading() as connection:
            _get(connection, id, who, user)
            row = connection.execute(
                "SELECT question FROM rounds WHERE conversation = ? ORDER BY number LIMIT 1", (id,)
            ).fetchone()
        return row[0] if row else ""

    def turns(self, id: str, most: int) -> list[Turn]:
        """What was asked and answered last; of a conversation that was got before, so that it is the caller's."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT question, answer FROM rounds WHERE conversation = ? ORDER BY number DESC LIMIT ?", (id, most)
            ).fetchall()
        return [(asked, answered) for asked, answered in reversed(rows)]

    def round(self, id: str, who: str, user: str) -> tuple[Round, Conversation]:
        """UnknownConversation when it is not one of theirs."""
        with self._database.reading() as connection:
            row = connection.execute(f"SELECT {_ROUND} FROM rounds WHERE id = ?", (id,)).fetchone()
            with suppress(UnknownConversation):
                if row is not None:
                    return _round(row), _get(connection, _round(row).conversation, who, user)
        raise UnknownConversation(f"there is no message {id!r} of this user")


def _places(values: Mapping[str, Any]) -> str:
    return ", ".join("?" * len(values))


def _get(connection: sqlite3.Connection, id: str, who: str, user: str) -> Conversation:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM conversations WHERE id = ? AND who = ? AND user = ?", (id, who, user)
    ).fetchone()
    if row is None:
        raise UnknownConversation(f"there is no conversation {id!r} of this user")
    return _conversation(row)


def _conversation(row: Sequence[Any]) -> Conversation:
    values = dict(zip(Conversation.__dataclass_fields__, row, strict=True))
    return Conversation(**{**values, "inputs": json.loads(values["inputs"])})


def _round(row: Sequence[Any]) -> Round:
    values = dict(zip(Round.__dataclass_fields__, row, strict=True))
    return Round(**{**values, "citations": tuple(json.loads(values["citations"]))})
