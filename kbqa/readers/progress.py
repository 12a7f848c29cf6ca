"""How a reader that works for minutes says that it is alive: whoever waits for it may grant it more time.

A scan of hundreds of pages is honest work, an endless loop is not; only the reader can tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["advance", "listening"]

Listener = Callable[[int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def advance(page: int, pages: int) -> None:
    """Page `page` of `pages` is about to be recognised."""
    if listener := _listener.get():
        listener(page, pages)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hands every `advance` in this block (and thread) to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
