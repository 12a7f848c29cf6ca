"""Telling work, from any thread, that nobody waits for it any more.

Closing an iterator stops its work as well, but only where somebody has it in hand: not while the work stands in a line
or reads a long prompt, because then another thread is still inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock

from kbqa.errors import Cancelled

__all__ = ["Cancellation"]


class Cancellation:
    """Asked for once, and never taken back. Whoever waits for something asks to be woken."""

    def __init__(self) -> None:
        self._lock = RLock()  # a stream that the garbage collector closes may come in between
        self._asked = False
        self._wakers: list[Callable[[], None]] = []

    @property
    def asked(self) -> bool:
        return self._asked

    def cancel(self) -> None:
        """From any thread, any number of times."""
        with self._lock:
            self._asked = True
            while self._wakers:
                self._wakers.pop()()

    def check(self) -> None:
        """Raises Cancelled once it has been asked for."""
        if self._asked:
            raise Cancelled("nobody waits for the answer any more")

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Within this, who cancels calls `wake`, at most once; entered too late, it is called at once.

        `wake` is short and raises nothing. It does not run any more when this has been left.
        """
        with self._lock:
            late = self._asked
            if not late:
                self._wakers.append(wake)
        if late:
            wake()
        try:
            yield
        finally:
            with self._lock:
                if wake in self._wakers:
                    self._wakers.remove(wake)
