"""The socket that the service listens on, for one process or for several."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from kbqa.errors import ConfigError

__all__ = ["BACKLOG", "Shared", "address_of", "listening"]

BACKLOG = 2048
WAY = 2e-4  # seconds for which a process leaves a connection to the others, for each that it has taken in a row
MOST_WAY = 2e-3


def listening(host: str, port: int) -> socket.socket:
    """Bound before anything is loaded, so that a port that is taken is known at once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"{host} is no address of this machine ({error.strerror}); see --host") from error
    family, _, protocol, _, where = min(found, key=lambda it: it[0] != socket.AF_INET)  # of localhost's two, the usual
    # The protocol is named, because asyncio turns Nagle's algorithm off only where it stands: with it, an answer's body
    # waits 40 ms behind its header.
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        if os.name != "nt":  # there it would let two programs have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port, or stop what listens there"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Shared(socket.socket):
    """A listener of several processes that take turns.

    All hear of a connection that waits, and the first to wake would take it, which nearly always is the same one. So
    who has taken the last ones sleeps for a moment first, whatever else it has to do.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self._taken = 0  # in a row

    def accept(self) -> tuple[socket.socket, Any]:
        time.sleep(min(self._taken * WAY, MOST_WAY))
        try:
            accepted = super().accept()
        except BlockingIOError:  # another has taken it
            self._taken = 0
            raise
        self._taken += 1
        return accepted

    def listen(self, backlog: int = BACKLOG) -> None:
        """asyncio accepts as many at a time as it has the system keep waiting: here that is one, there it is many."""
        super().listen(BACKLOG)

    def __reduce__(self) -> Any:  # as multiprocessing hands a plain socket over
        from multiprocessing.reduction import DupFd

        return _handed_over, (DupFd(self.fileno()),)


def _handed_over(descriptor: Any) -> socket.socket:
    return Shared(descriptor.detach())
