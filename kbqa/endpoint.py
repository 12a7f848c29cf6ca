"""One address of an HTTP server that takes JSON: who talks to a server with the OpenAI dialect talks through this.

Connections are kept for the next request. Silence and deadlines are heeded before each read, so that a server that
stops in the middle of an answer holds nobody up. Proxies of the environment are used, never for this machine itself.
The key and what stands behind `?` in the address appear in no message.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import islice
from string import punctuation
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass
from weakref import finalize

from kbqa.cancellation import Cancellation
from kbqa.errors import ConfigError

__all__ = ["Endpoint", "NoReply", "Reply"]

KEPT = 32  # connections that wait for their next request
CONNECT = 10.0  # seconds; a server that is there takes up a connection in much less
DETAIL = 500  # characters of what a server says that go into a message
ERROR_BODY = 1 << 16  # bytes of it that are read
LATE = "did not finish in time"


class NoReply(Exception):
    """The server said nothing, or stopped in the middle; the text is the reason and, where there is one, the remedy."""


class Endpoint:
    """`path` below `base_url`; `section` (embedder, generator) is whose settings the messages name.

    ConfigError when address, proxy or key cannot be used as they are. Safe to use from many threads.
    """

    def __init__(
        self, section: str, base_url: str, path: str, *, key: str | None = None, timeout: float = 60.0
    ) -> None:
        address = _address(section, base_url)
        self._section, self._timeout, self._key = section, timeout, _usable(section, key)
        self._target = address._replace(path=f"{address.path.rstrip('/')}{path}")
        self._proxy = _proxy(section, address)
        self._idle: deque[HTTPConnection] = deque()
        finalize(self, _close_all, self._idle)
        self.url = urlunsplit(self._target._replace(query=""))  # as messages and users may see it

    def post(
        self, body: Mapping[str, Any], deadline: float | None = None, cancellation: Cancellation | None = None
    ) -> Reply:
        """What the server answers, whatever its status; NoReply when it does not. `deadline` is monotonic time.

        Who cancels breaks the connection off, also while the reply is read: NoReply then, or Cancelled.
        """
        content = json.dumps(body).encode()  # as ASCII, which also takes half a surrogate pair out of a document
        return self._send("POST", content, deadline, cancellation or Cancellation())

    def get(self, deadline: float | None = None) -> Reply:
        """The same without anything sent."""
        return self._send("GET", None, deadline, Cancellation())

    def _send(self, method: str, content: bytes | None, deadline: float | None, cancellation: Cancellation) -> Reply:
        while True:
            cancellation.check()
            connection, kept = self._connection(deadline)
            patience, held = _Patience(connection, self._timeout, deadline), ExitStack()
            held.enter_context(cancellation.waking(patience.end))
            try:
                patience.renew()
                connection.request(method, self._path(), content, self._headers())
                patience.renew()
                return Reply(self, connection, connection.getresponse(), patience, held)
            except BaseException as error:
                held.close()
                connection.close()
                if isinstance(error, ConnectionError | HTTPException):
                    if kept:  # the server may have closed it just as this request was on its way
                        continue
                    raise NoReply(f"broke off before it answered ({_reason(error)}); is it an HTTP server?") from error
                if isinstance(error, OSError):
                    raise patience.explain(error) from error
                raise

    def redacted(self, text: str) -> str:
        """`text` in one line of bearable length, without the key: servers like to repeat it."""
        if self._key:
            text = text.replace(self._key, "***")
        line = " ".join(text.split())
        return line if len(line) <= DETAIL else f"{line[:DETAIL]}…"

    def keep(self, connection: HTTPConnection) -> None:
        """`connection` has nothing more to say and may serve the next request."""
        if len(self._idle) < KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def _connection(self, deadline: float | None) -> tuple[HTTPConnection, bool]:
        """An open one, and whether it was kept from an earlier request."""
        with suppress(IndexError):
            while True:
                kept = self._idle.pop()
                if _still_open(kept):
                    return kept, True
                kept.close()
        connection = self._new(_left(deadline, min(CONNECT, self._timeout)))
        try:
            connection.connect()
        except (OSError, HTTPException) as error:
            connection.close()
            _left(deadline, CONNECT)
            through = f" through the proxy {self._proxy.hostname}" if self._proxy else ""
            raise NoReply(
                f"cannot be reached{through}: {_reason(error)}; is the server running, "
                f"and is {self._section}.base_url right?"
            ) from error
        return connection, False

    def _new(self, timeout: float) -> HTTPConnection:
        secure, host, port = self._target.scheme == "https", self._target.hostname or "", self._target.port
        make = HTTPSConnection if secure else HTTPConnection
        if self._proxy is None:
            return make(host, port, timeout=timeout)
        connection = make(self._proxy.hostname or "", self._proxy.port or 8080, timeout=timeout)
        if secure:
            connection.set_tunnel(host, port or 443, _proxy_login(self._proxy))
        return connection

    def _path(self) -> str:
        if self._proxy is not None and self._target.scheme == "http":
            return urlunsplit(self._target)
        return urlunsplit(self._target._replace(scheme="", netloc=""))

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if self._proxy is not None and self._target.scheme == "http":
            headers |= _proxy_login(self._proxy)
        return headers


class Reply:
    """A server's answer, read as it comes. To be closed: a connection that was read to its end is kept."""

    def __init__(
        self,
        endpoint: Endpoint,
        connection: HTTPConnection,
        response: HTTPResponse,
        patience: _Patience,
        held: ExitStack,
    ) -> None:
        """`held` is let go of when this is closed."""
        self._endpoint, self._connection, self._response, self._patience = endpoint, connection, response, patience
        self._held = held
        self._broken = False
        self.status = response.status

    def header(self, name: str) -> str:
        return self._response.getheader(name) or ""

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. NoReply when the connection breaks off, is silent too long or the deadline comes."""
        while not self._response.isclosed():
            try:
                self._patience.renew()
                chunk = self._response.read1(1 << 16)
            except HTTPException as error:  # the announced end did not come
                self._broken = True
                raise NoReply("broke off in the middle of its answer") from error
            except OSError as error:
                self._broken = True
                raise self._patience.explain(error) from error
            if not chunk and self._response.length:
                raise NoReply("broke off in the middle of its answer")
            if chunk:
                yield chunk
            else:
                return

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def complaint(self) -> str:
        """What the server says went wrong, in one line; "" when it says nothing."""
        body = b""
        self._patience.at_most(5.0)  # the status alone says enough
        with suppress(NoReply):
            for chunk in self.chunks():
                body += chunk
                if len(body) > ERROR_BODY:
                    break
        text = body[:ERROR_BODY].decode("utf-8", "replace")
        try:
            return self._endpoint.redacted(complaint_of(json.loads(text)))
        except (ValueError, RecursionError):
            return self._endpoint.redacted(text)

    def finish(self) -> None:
        """Takes what little may follow the last event, so that the connection can be kept."""
        self._patience.at_most(0.2)
        with suppress(NoReply):
            for _ in islice(self.chunks(), 3):
                pass

    def close(self) -> None:
        self._held.close()
        whole = (self._response.isclosed() or self._response.length == 0) and not self._response.will_close
        self._response.close()
        if whole and not self._broken:  # http.client calls closed what broke off between two chunks, too
            self._endpoint.keep(self._connection)
        else:
            self._connection.close()


def complaint_of(said: Any) -> str:
    """The message in an error object of any of the usual shapes: OpenAI's, FastAPI's, a bare text."""
    while isinstance(said, dict):
        inner = [said.get(key) for key in ("error", "message", "detail", "msg")]
        told = next((part for part in inner if part and isinstance(part, str | dict | list)), None)
        if told is None:
            break
        said = told
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


class _Patience:
    """How long the next step may take: `silence` seconds, and nothing past the deadline."""

    def __init__(self, connection: HTTPConnection, silence: float, deadline: float | None) -> None:
        # http.client lets go of its socket as soon as a server announces that it will close the connection.
        self._socket: socket.socket | None = connection.sock
        self._silence, self._deadline = silence, deadline

    def at_most(self, silence: float) -> None:
        self._silence = min(self._silence, silence)

    def renew(self) -> None:
        if self._socket is not None:
            self._socket.settimeout(_left(self._deadline, self._silence))

    def end(self) -> None:
        """Whoever reads finds the end now. For other threads; closing is the reader's business."""
        if self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RD)  # TLS's own would change what the reader uses

    def explain(self, error: Exception) -> NoReply:
        if not isinstance(error, TimeoutError):
            return NoReply(f"broke off in the middle of its answer ({_reason(error)})")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return NoReply(LATE)
        return NoReply(f"said nothing for {self._silence:g} seconds; is it overloaded?")


def _left(deadline: float | None, most: float) -> float:
    """Seconds until the deadline, at most `most`; NoReply when it has passed."""
    left = most if deadline is None else min(most, deadline - time.monotonic())
    if left <= 0:
        raise NoReply(LATE)
    return left


def _address(section: str, base_url: str) -> SplitResult:
    setting = f"{section}.base_url"
    try:
        address = urlsplit(base_url.strip())
        known = address.scheme in ("http", "https") and bool(address.hostname)
        _ = address.port
    except ValueError as error:  # a bracket or a port that is none
        raise ConfigError(f"{setting} is {base_url!r}, which is no address: {error}") from error
    if not known:
        raise ConfigError(f"{setting} is {base_url!r}; it must begin with http:// or https:// and name a host")
    if address.username or address.password:
        raise ConfigError(f"{setting} holds a user name or password; keys go into the variable {section}.api_key_env")
    path, query = (quote(part, safe=punctuation) for part in (address.path, address.query))
    return address._replace(path=path, query=query, fragment="")


def _usable(section: str, key: str | None) -> str | None:
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in the variable that {section}.api_key_env names holds characters that no key has")
    return key or None


def _proxy(section: str, address: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for `address`."""
    host = address.hostname or ""
    given = getproxies()
    named = given.get(address.scheme) or given.get("all")
    if not named or _is_here(host) or proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = bool(proxy.hostname) and (proxy.port is None or proxy.port > 0)
    except ValueError:  # a bracket or a port that is none; the address itself may hold a password
        usable = False
    if not usable:
        raise ConfigError(
            f"{section}.base_url would be reached through the proxy in {address.scheme}_proxy, which is no address of "
            f"one; correct it, or put {host} into no_proxy"
        )
    if proxy.scheme != "http":
        raise ConfigError(
            f"{section}.base_url would be reached through a {proxy.scheme} proxy, which kbqa does not speak; "
            f"name an http proxy in {address.scheme}_proxy, or put {host} into no_proxy"
        )
    return proxy


def _is_here(host: str) -> bool:
    """Whether `host` is this machine: what runs here is not reached through a proxy."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _close_all(connections: deque[HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _still_open(connection: HTTPConnection) -> bool:
    """A connection that waits for its next request has nothing to read; one that the server has closed does."""
    if connection.sock is None:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return not selector.select(0)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted here ({error.verify_message}); SSL_CERT_FILE can name an own authority"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS as https needs it"
    return str(getattr(error, "strerror", "") or error) or type(error).__name__
