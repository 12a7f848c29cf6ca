"""Load on a server of this machine, made by a process of its own: `python scripts/httpload.py < order.json`.

Plain sockets and keep-alive, because a comfortable client needs as much of a processor as the server does. The order
says how much: `clients` at once, each with one connection, for `seconds` (POST `path` with the `bodies` in turn; what
comes back is only counted), or, with `streams`, so many streams in all, each read to its end within `seconds`. The
result, one JSON object, also says how much of a processor this took: near 1 the client was the bottleneck.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

LOCAL = ("127.0.0.1", "::1", "localhost")
MOST_CLIENTS, MOST_SECONDS, MOST_STREAMS = 512, 600, 10_000


@dataclass(frozen=True)
class Order:
    port: int
    path: str
    bodies: list[Any]
    clients: int
    seconds: float
    host: str = "127.0.0.1"
    streams: int = 0
    warm: float = 0.5  # seconds that are not counted

    def __post_init__(self) -> None:
        if self.host not in LOCAL:
            raise SystemExit(f"{self.host} is not this machine: load is made for servers of one's own")
        if not (0 < self.clients <= MOST_CLIENTS and 0 < self.seconds <= MOST_SECONDS):
            raise SystemExit(f"1 to {MOST_CLIENTS} clients, at most {MOST_SECONDS} seconds")
        if not 0 <= self.streams <= MOST_STREAMS:
            raise SystemExit(f"at most {MOST_STREAMS} streams")

    def request(self, number: int) -> bytes:
        body = json.dumps(self.bodies[number % len(self.bodies)], ensure_ascii=False).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost:{self.port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Result:
    """Times in milliseconds: of whole answers, or of a stream's first byte, first word and end."""

    all: int = 0  # those while warming up, too
    whole: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    word: list[float] = field(default_factory=list)
    bytes: int = 0
    refused: int = 0  # told to come again (429, 503)
    errors: int = 0
    first_error: str = ""
    signs: int = 0  # of life, before the first word: what a stream says while others are before it

    def fail(self, why: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or why


class Connection:
    def __init__(self, order: Order) -> None:
        self._order = order

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(self._order.host, self._order.port, limit=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, request: bytes) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        pairs = (line.partition(b": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def body(self, headers: dict[bytes, bytes]) -> AsyncIterator[bytes]:
        if b"content-length" in headers:
            yield await self._reader.readexactly(int(headers[b"content-length"]))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


async def ask_again_and_again(order: Order, client: int, begun: float, result: Result) -> None:
    number = client * 7919  # each begins elsewhere among the bodies
    end = begun + order.warm + order.seconds
    while time.perf_counter() < end:
        try:
            async with Connection(order) as connection:
                while (start := time.perf_counter()) < end:
                    number += 1
                    status, headers = await connection.send(order.request(number))
                    size = sum([len(part) async for part in connection.body(headers)])
                    result.all += 1
                    if (now := time.perf_counter()) < begun + order.warm or now > end:
                        continue
                    if status == 200:
                        result.whole.append(1000 * (now - start))
                        result.bytes += size
                    elif status in (429, 503):
                        result.refused += 1
                    else:
                        result.fail(f"status {status}")
        except (OSError, asyncio.IncompleteReadError) as error:
            result.fail(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.05)


async def read_streams(order: Order, numbers: list[int], result: Result) -> None:
    while numbers:
        try:
            async with asyncio.timeout(order.seconds):
                await read_stream(order, numbers.pop(), result)
        except (OSError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
            result.fail(f"{type(error).__name__}: {error}")


async def read_stream(order: Order, number: int, result: Result) -> None:
    async with Connection(order) as connection:
        start = time.perf_counter()
        status, headers = await connection.send(order.request(number))
        head = 1000 * (time.perf_counter() - start)
        if status in (429, 503):
            result.refused += 1
            return
        word, end = None, b""
        async for part in connection.body(headers):
            if word is None and b"event: token" in part:
                word = 1000 * (time.perf_counter() - start)
            result.signs += word is None
            end = part
        if status != 200 or b"event: done" not in end:
            result.fail(f"status {status}, and at the end {end[:200]!r}")
            return
        result.head.append(head)
        result.word.append(head if word is None else word)
        result.whole.append(1000 * (time.perf_counter() - start))


def spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    at = {"p50": 0.5, "p99": 0.99, "worst": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) for name, share in at.items()}


async def carry_out(order: Order) -> dict[str, Any]:
    result, begun, processor = Result(), time.perf_counter(), time.process_time()
    if order.streams:
        numbers = list(range(order.streams))
        await asyncio.gather(*(read_streams(order, numbers, result) for _ in range(order.clients)))
        took = time.perf_counter() - begun
    else:
        await asyncio.gather(*(ask_again_and_again(order, it, begun, result) for it in range(order.clients)))
        took = order.seconds
    told: dict[str, Any] = {
        "clients": order.clients,
        "all": result.all,
        "answers": len(result.whole),
        "per_second": round(len(result.whole) / took, 1),
        "refused": result.refused,
        "errors": result.errors,
        "first_error": result.first_error,
        "signs": result.signs,
        "bytes_each": round(result.bytes / max(1, len(result.whole))),
        "seconds": round(took, 2),
        "processor": round((time.process_time() - processor) / (time.perf_counter() - begun), 2),
    }
    for name, times in (("whole", result.whole), ("head", result.head), ("word", result.word)):
        if times:
            told[f"{name}_ms"] = spread(times)
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(carry_out(Order(**json.load(sys.stdin)))), ensure_ascii=False))
