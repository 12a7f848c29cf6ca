"""A blocking iterator as an asynchronous one, and that as Server-Sent Events.

Whatever an iterator yields is made by a thread of its own, which runs at most a few items ahead of the client. When the
client goes, the work is cancelled, also where it waits for its turn, and the iterator closed.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
from typing import Any, Generic, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kbqa.cancellation import Cancellation

__all__ = ["QUIET", "ClientGone", "Feed", "event", "event_stream", "last"]

T = TypeVar("T")
AHEAD = 64  # items that the thread may be ahead of the client
FIRST = 2.0  # seconds in which an error may still have a status of its own, instead of coming as an event
PULSE = 15.0  # seconds of silence after which a stream gives a sign of life, for the proxies on the way
LOOK = 0.5  # seconds after which it is asked whether a client that waits for a whole answer is still there


class _Quiet(Enum):
    QUIET = 0


QUIET = _Quiet.QUIET  # nothing came in the time given


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _in_its_own_thread(work: Callable[[], None]) -> None:
    # A daemon, because a model that says nothing more must not keep the process from ending.
    threading.Thread(target=work, name="kbqa-feed", daemon=True).start()


class Feed(Generic[T]):
    """`async for` over what `make(cancellation)` yields. `places` bounds how many run at once.

    Close it, whatever happens: that cancels.
    """

    def __init__(self, make: Callable[[Cancellation], Iterator[T]], places: asyncio.Semaphore) -> None:
        """Use `start`."""
        self._make = make
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self._told: list[T | _End] = []  # by the thread, and not yet in `_items`
        self._telling = threading.Lock()
        self._closed = False
        self._cancellation = Cancellation()

    @classmethod
    async def start(
        cls,
        make: Callable[[Cancellation], Iterator[T]],
        places: asyncio.Semaphore,
        begin: Callable[[Callable[[], None]], object] = _in_its_own_thread,
    ) -> Feed[T]:
        """`begin` has a thread do the work; one of a pool, where it is short."""
        await places.acquire()
        try:
            feed = cls(make, places)
            begin(feed._run)
        except BaseException:
            places.release()
            raise
        return feed

    def close(self) -> None:
        self._closed = True
        self._cancellation.cancel()
        self._room.release()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._items.get()
        self._room.release()
        if isinstance(item, _End):
            self._items.put_nowait(_End(None))  # who asks again hears the same
            if item.error is not None:
                raise item.error
            raise StopAsyncIteration
        return item

    async def within(self, seconds: float) -> T | _Quiet:
        """The next item, or QUIET when there is none in that time; StopAsyncIteration at the end."""
        if not self._items.empty():
            return await self.__anext__()
        try:
            return await asyncio.wait_for(self.__anext__(), seconds)
        except TimeoutError:
            return QUIET

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._feed(self._make(self._cancellation))
        except BaseException as raised:  # noqa: BLE001  (it is raised where the item would have come)
            error = raised
        self._tell(_End(error))

    def _feed(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                self._room.acquire()
                if self._closed:
                    return
                self._tell(item)
        finally:
            if callable(close := getattr(items, "close", None)):
                close()

    def _tell(self, item: T | _End) -> None:
        """Wakes the loop for the first of the items that it has not taken: what is quoted comes all at once, and each
        waking makes both threads wait for the interpreter."""
        with self._telling:
            self._told.append(item)
            if len(self._told) > 1:
                return
        try:
            self._loop.call_soon_threadsafe(self._take)
        except RuntimeError:  # the loop has ended, and nobody listens
            self._closed = True

    def _take(self) -> None:
        """In the loop."""
        with self._telling:
            told, self._told = self._told, []
        for item in told:
            self._items.put_nowait(item)
            if isinstance(item, _End):
                self._places.release()


async def last(feed: Feed[T], request: Request) -> T:
    """The last item. ClientGone, and the work is cancelled, when nobody waits for it any more."""
    found: T | None = None
    loop = asyncio.get_running_loop()
    looked = loop.time()
    try:
        while True:
            item = await feed.within(LOOK)
            if item is not QUIET:
                found = item
            if loop.time() - looked >= LOOK:
                if await request.is_disconnected():
                    raise ClientGone
                looked = loop.time()
    except StopAsyncIteration:
        if found is None:
            raise AssertionError("the feed was empty") from None
        return found
    finally:
        feed.close()


def event(name: str, data: Any) -> bytes:
    """One Server-Sent Event."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode(errors="replace")


async def event_stream(
    feed: Feed[T],
    render: Callable[[T], bytes],
    failed: Callable[[BaseException], bytes],
    end: bytes = b"",
    pulse: bytes = b": waiting\n\n",
    waiting: Callable[[], bytes] | None = None,
) -> StreamingResponse:
    """What `feed` yields, each item as `render` writes it; an error on the way as `failed` does, then the end.

    `pulse` is the sign of life while it is silent; before its first word `waiting` makes it, if given. Raises what the
    feed raises at once: that has a status of its own.
    """
    try:
        first: T | _Quiet | None = await feed.within(FIRST)
    except StopAsyncIteration:
        first = None
    except BaseException:
        feed.close()
        raise
    return _EventStream(feed, _events(feed, first, render, failed, end, pulse, waiting))


async def _events(
    feed: Feed[T],
    item: T | _Quiet | None,
    render: Callable[[T], bytes],
    failed: Callable[[BaseException], bytes],
    end: bytes,
    pulse: bytes,
    waiting: Callable[[], bytes] | None,
) -> AsyncIterator[bytes]:
    try:
        while item is not None:
            if item is QUIET:
                yield waiting() if waiting else pulse
            else:
                waiting = None
                if written := render(item):
                    yield written
            item = await feed.within(PULSE)
    except StopAsyncIteration:
        pass
    except Exception as error:  # noqa: BLE001  (the status is sent: the client must hear of it all the same)
        yield failed(error)
    if end:
        yield end


class _EventStream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(self, feed: Feed[Any], content: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would keep events back
        super().__init__(content, headers=headers)
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also when the client has gone, and when the service is stopped
            self._feed.close()
