"""Who may do what: one place for every dialect.

Without any key a service that listens on this machine alone answers everybody on it: it then asks that the request was
really meant for this machine, so that no web page that somebody looks at can reach it through his browser. As soon as
there is a key, and on any other address in any case, a request needs one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import Request

from kbqa.registry import SCOPES, Key, KeyRing, Scope
from kbqa.registry.keys import digest
from kbqa.server.errors import Forbidden, NoKey, TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from kbqa.config import ServerConfig
    from kbqa.server.logs import Trace

__all__ = ["Caller", "Door", "allow", "is_loopback"]

FRESH = 1.0  # seconds after which keys are looked up again: a key that is revoked opens nothing any longer than that
NOBODY = "local"  # who calls where no key is asked for


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in. `bases` None: all."""

    name: str
    scope: Scope
    bases: frozenset[str] | None

    def sees(self, base: str) -> bool:
        return self.bases is None or base in self.bases

    def check(self, scope: Scope, base: str | None = None) -> None:
        """Forbidden when the caller may not do what needs `scope`, in `base` if one is named."""
        if SCOPES.index(self.scope) < SCOPES.index(scope):
            raise Forbidden(f"the key {self.name} may {self.scope}, this needs one that may {scope}")
        if base is not None and not self.sees(base):
            raise Forbidden(f"the key {self.name} does not open the knowledge base {base}")


ANYBODY = Caller(NOBODY, "admin", None)


def allow(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who may do what needs `scope` in the base that the path names as {kb}, if any.

    Where the base stands in the body, call `Caller.check` once it is known.
    """

    async def allowed(request: Request) -> Caller:
        caller: Caller = await request.app.state.service.door.enter(request)
        caller.check(scope, request.path_params.get("kb"))
        return caller

    return allowed


class Door:
    """Lets callers in by their keys, and no more of one key than it may."""

    def __init__(self, ring: KeyRing, config: ServerConfig) -> None:
        self._ring = ring
        self._loopback = is_loopback(config.host)
        self._per_minute = config.requests_per_minute
        self._at_once = config.concurrent_per_key
        self._keys: Mapping[str, Key] = {}  # by the digest of their secrets
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._reader = ThreadPoolExecutor(1, "kbqa-keys")  # of its own: nobody comes in while those of all are busy
        self._inside: Counter[str] = Counter()
        self._left: dict[str, tuple[float, float]] = {}  # key -> requests that it has left, and when that was so

    async def enter(self, request: Request) -> Caller:
        """Unauthorized, Forbidden or TooManyRequests. Counts as one request until its whole answer is sent."""
        trace: Trace = request.state.trace
        caller = await self._caller(request)
        if trace.who is None:
            trace.who = caller.name
            if caller is not ANYBODY:
                self._count(caller.name, trace)
        return caller

    async def _caller(self, request: Request) -> Caller:
        keys = await self._current()
        if not keys and self._loopback:
            _check_meant_for_us(request)
            return ANYBODY
        secret = _secret(request)
        if secret is None:
            raise NoKey("this service needs a key: send the header Authorization: Bearer <key>")
        key = keys.get(digest(secret))
        if key is None:
            raise Unauthorized("there is no such key; it may have been revoked")
        if key.expired(time.time()):
            raise Unauthorized(f"the key {key.name} has expired")
        return Caller(key.name, key.scope, key.bases)

    async def _current(self) -> Mapping[str, Key]:
        if time.monotonic() - self._read_at < FRESH:
            return self._keys
        async with self._reading:
            now = time.monotonic()
            if now - self._read_at >= FRESH:
                self._keys = await asyncio.get_running_loop().run_in_executor(self._reader, self._ring.by_digest)
                self._read_at = now
        return self._keys

    def _count(self, name: str, trace: Trace) -> None:
        if self._per_minute:
            self._take_one(name)
        if self._at_once and self._inside[name] >= self._at_once:
            raise TooManyRequests(
                f"the key {name} has {self._at_once} requests under way already (server.concurrent_per_key)", 1
            )
        self._inside[name] += 1
        trace.at_end.append(lambda: self._inside.subtract({name: 1}))

    def _take_one(self, name: str) -> None:
        """A bucket that holds a minute's requests and fills evenly."""
        now = time.monotonic()
        left, then = self._left.get(name, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - then) * self._per_minute / 60)
        if left < 1:
            self._left[name] = left, now
            after = ceil((1 - left) * 60 / self._per_minute)
            raise TooManyRequests(
                f"the key {name} may send {self._per_minute} requests a minute (server.requests_per_minute)", after
            )
        self._left[name] = left - 1, now


def _secret(request: Request) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("api-key") or None


def _check_meant_for_us(request: Request) -> None:
    """Forbidden when a browser was led here by a page of another site, under a name that only seems to be its own."""
    host = request.headers.get("host", "")
    if not is_loopback(_host_of(f"//{host}")):
        raise Forbidden(
            f"without a key this service answers only as localhost, not as {host!r}; make one with `kbqa key add NAME`"
        )
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("//")[2] != host:
        raise Forbidden(f"a page of {origin} may not use this service without a key")


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # brackets without end
        return ""


def is_loopback(host: str) -> bool:
    """Whether it is an address that only this machine can reach."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
