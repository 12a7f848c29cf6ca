"""Connections to clients that take their time: a place at the door is not for those who never say what they want.

uvicorn waits for the headers of a request as long as it takes. Here they come within HEADERS seconds, counted from the
beginning of the connection or the end of the answer before, or the connection is closed. (How slow a body may be says
`front`.)
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["PatientProtocol"]

HEADERS = 20.0


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._be_calm()

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
