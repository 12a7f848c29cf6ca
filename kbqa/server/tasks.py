"""Answers that are being written in this process, and can be stopped by somebody else's request.

Which process takes that request is chance where there are several. What it does not know itself it writes down in the
registry, and each looks there while it writes such answers, and only then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from kbqa.errors import KbqaError
from kbqa.registry import Stops
from kbqa.server.metrics import SHARED

__all__ = ["Tasks"]

LOOK = 0.5  # seconds between looks for what other processes were asked
LONGEST = 64  # characters of what can be a task

_Owner = tuple[str, str]  # the key's name, and the user's


class Tasks:
    """For the event loop's thread alone. `run` has a thread do what blocks."""

    def __init__(self, stops: Stops, run: Callable[..., Awaitable[Any]]) -> None:
        self._stops = stops
        self._run = run
        self._running: dict[str, tuple[_Owner, Callable[[], None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    def add(self, id: str, who: str, user: str, stop: Callable[[], None]) -> Callable[[], None]:
        """Call what this returns when the task has ended."""
        self._running[id] = ((who, user), stop)
        if self._looking is None and _several():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return lambda: self._running.pop(id, None) and None

    async def stop(self, id: str, who: str, user: str) -> None:
        """Nothing is to be done for one that has ended, or is somebody else's."""
        if id in self._running:
            self._stop(id, (who, user))
        elif _several() and len(id) <= LONGEST:
            await self._run(self._stops.ask, (id, who, user))

    def _stop(self, id: str, asker: _Owner) -> None:
        owner, stop = self._running.get(id, (None, None))
        if stop is not None and owner == asker:
            stop()

    async def _look(self) -> None:
        """Until nothing is being written here."""
        try:
            while await asyncio.sleep(LOOK, self._running):
                with suppress(KbqaError):  # a registry that cannot be read is told of by whoever needs more of it
                    for id, who, user in await self._run(self._stops.asked, list(self._running)):
                        self._stop(id, (who, user))
        finally:
            self._looking = None


def _several() -> bool:
    return SHARED in os.environ
