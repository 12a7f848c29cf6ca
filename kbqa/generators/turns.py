"""One answer at a time for a model that cannot write two: first come, first served, and not too many in line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

from kbqa.cancellation import Cancellation
from kbqa.errors import GeneratorBusy, GeneratorError
from kbqa.types import Load

__all__ = ["Turns"]


class Turns:
    """`waiting` may stand in line behind the one whose turn it is; `name` is what they wait for, for messages.

    A turn belongs to a piece of work and not to a thread: a stream may be continued by another thread.
    """

    def __init__(self, name: str, waiting: int) -> None:
        self._name = name
        self._waiting = waiting
        self._line: deque[Event] = deque()  # the first one has its turn
        self._lock = Lock()

    @property
    def load(self) -> Load:
        inside = len(self._line)
        return Load(min(inside, 1), max(inside - 1, 0), 1, self._waiting)

    @contextmanager
    def turn(self, deadline: float | None, cancellation: Cancellation) -> Iterator[None]:
        """GeneratorBusy when the line is full, GeneratorError when the turn does not come before the deadline.

        Cancelled, and out of the line, when the wait is cancelled.
        """
        ticket = Event()
        with self._lock:
            if len(self._line) > self._waiting:
                raise GeneratorBusy(
                    f"{self._name} is at work and {self._waiting} more are waiting; try again in a few seconds"
                )
            self._line.append(ticket)
            if self._line[0] is ticket:
                ticket.set()
        try:
            with cancellation.waking(ticket.set):
                came = ticket.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            cancellation.check()
            if not came:
                raise GeneratorError(f"{self._name} did not get to this question in time")
            yield
        finally:
            with self._lock:
                self._line.remove(ticket)
                if self._line:
                    self._line[0].set()
