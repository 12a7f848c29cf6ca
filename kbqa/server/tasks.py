"""Answers that are being written in this process, and can be stopped by somebody else's request."""

from __future__ import annotations

import os
from collections.abc import Callable

from kbqa.server.errors import NotFound
from kbqa.server.metrics import SHARED

__all__ = ["Tasks"]

_Owner = tuple[str, str]  # the key's name, and the user's


class Tasks:
    """For the event loop's thread alone."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[_Owner, Callable[[], None]]] = {}

    def add(self, id: str, who: str, user: str, stop: Callable[[], None]) -> Callable[[], None]:
        """Call what this returns when the task has ended."""
        self._running[id] = ((who, user), stop)
        return lambda: self._running.pop(id, None) and None

    def stop(self, id: str, who: str, user: str) -> None:
        """Nothing is to be done for one that has ended. NotFound when it may be running in another process."""
        owner, stop = self._running.get(id, (None, None))
        if owner == (who, user) and stop is not None:
            stop()
        elif os.environ.get(SHARED):
            raise NotFound("this process writes no such answer, and others may; close the connection to stop it")
