"""Who wants which answer to be stopped, so that the process hears of it that writes the answer, whichever was asked."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kbqa.registry.database import Database

__all__ = ["Stop", "Stops"]

KEPT = 600.0  # seconds; whoever writes the answer looks every moment

Stop = tuple[str, str, str]  # the answer's task, the name of the key, the user


class Stops:
    """Safe to use from many threads and processes; everything here blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, stop: Stop) -> None:
        now = time.time()
        with self._database.writing() as connection:
            connection.execute("DELETE FROM stops WHERE asked_at < ?", (now - KEPT,))
            connection.execute("INSERT OR REPLACE INTO stops VALUES (?, ?, ?, ?)", (*stop, now))

    def asked(self, tasks: Sequence[str]) -> set[Stop]:
        """Of these; whose they are is for the caller to look at."""
        with self._database.reading() as connection:
            places = ", ".join("?" * len(tasks))
            return set(connection.execute(f"SELECT task, who, user FROM stops WHERE task IN ({places})", tasks))
