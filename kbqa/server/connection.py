"""Connections to clients that take their time: a place at the door is not for those who never say what they want.

uvicorn waits for the headers of a request as long as it takes, and takes as many of them as come. Here they come within
HEADERS seconds, counted from the beginning of the connection or the end of the answer before, and are no longer than
UNHEARD bytes, or the connection is closed. (How slow and how long a body may be says `front`.)
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["PatientProtocol"]

HEADERS = 20.0
UNHEARD = 64 * 2**10  # what lies between two pieces of a body, such as trailers, is no longer either


class PatientProtocol(HttpToolsProtocol):
    _patience: asyncio.TimerHandle | None = None
    _unheard = 0  # bytes since the last headers that were complete, or the last piece of a body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._unheard += len(data)
        super().data_received(data)
        self._be_calm()
        if self._unheard > UNHEARD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._unheard = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unheard = 0

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()  # which may begin the next request, when that has come already
        self._be_calm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = asyncio.get_running_loop().call_later(HEADERS, self.transport.close)

    def _be_calm(self) -> None:
        """Where a request is being answered nobody waits for its headers."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
