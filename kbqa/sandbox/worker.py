"""The inside of a worker: it reads the files that are named on its connection and prepares them for the store."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kbqa.analyzer import REMEMBERED
from kbqa.embedders.static import StaticEmbedder
from kbqa.errors import DocumentError
from kbqa.readers import ReadOptions
from kbqa.readers.progress import listening
from kbqa.sandbox.limits import limit_cpu, limit_memory
from kbqa.sandbox.messages import (
    Orders,
    receive,
    send,
    write_chunks,
    write_document,
    write_prepared,
    write_vectors,
)
from kbqa.splitter import Splitter
from kbqa.store.lexical import Prepared, prepare
from kbqa.types import Document

if TYPE_CHECKING:
    from kbqa.types import Vectors

__all__ = ["main"]

BATCH = REMEMBERED // 4  # chunks: what is analysed for the one index is remembered for the other

Read = Callable[[Path, str, ReadOptions], Document]


def main(handle: int) -> None:
    """Does as it is told on the connection `handle` until the parent closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    link = _connection(handle)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        orders = Orders.read(receive(link))
        module, _, function = orders.reader.partition(":")
        read = cast(Read, getattr(import_module(module), function))
        preparer = _Preparer(orders) if orders.splitter else None
        limit_memory(orders.memory_mb)
        send(link, {"ready": True})
        _silence()
        while True:
            job = receive(link)
            limit_cpu(orders.total_seconds * (1 + orders.ocr_threads))
            with listening(lambda page, pages: send(link, {"page": page, "pages": pages})):
                reply = _reply(read, preparer, Path(job["path"]), job["source"], orders.options)
            send(link, reply)
            if reply.get("spent"):
                return


def _connection(handle: int) -> Connection:
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        return PipeConnection(handle)
    return Connection(handle)


class _Preparer:
    """Makes of a document what the store takes: chunks, their terms, and their vectors if the embedder is built in."""

    def __init__(self, orders: Orders) -> None:
        self._splitter = Splitter(orders.splitter)
        self._embedder = None if orders.static is None else StaticEmbedder(orders.static or None)

    def prepared(self, document: Document) -> dict[str, Any]:
        chunks = self._splitter.split(document)
        passages: list[Prepared] = []
        vectors: list[Vectors] = []
        for start in range(0, len(chunks), BATCH):
            batch = chunks[start : start + BATCH]
            passages += map(prepare, batch)
            if self._embedder:
                vectors += [*self._embedder.embed_passages([chunk.embedded for chunk in batch])]
        made = {"chunks": write_chunks(chunks), "prepared": write_prepared(passages)}
        return made | ({"vectors": write_vectors(np.array(vectors))} if vectors else {})


def _reply(read: Read, preparer: _Preparer | None, path: Path, source: str, options: ReadOptions) -> dict[str, Any]:
    began = time.monotonic()
    try:
        document = read(path, source, options)
        reply: dict[str, Any] = {"document": write_document(document)}
        if preparer:
            reply |= preparer.prepared(document)
    except DocumentError as error:
        reply = {"error": str(error), "kind": error.kind, "spent": error.kind == "memory"}
    except MemoryError:
        reply = {"error": f"{source}: reading needs more memory than is allowed", "kind": "memory", "spent": True}
    except Exception as error:  # noqa: BLE001  one file of many: it is reported and the rest goes on
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        reply = {"error": f"{source}: the reader failed: {problem}", "kind": "malformed"}
    return reply | {"seconds": time.monotonic() - began}


def _silence() -> None:
    """What parsers print helps nobody and would tear the progress bar."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
