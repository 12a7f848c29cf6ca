"""Files are read in worker processes: a hostile or broken one costs its worker, not the program.

A worker reads one file at a time under a time limit and, where the system has rlimits for it (Linux), a memory limit;
on Windows and macOS the time limit still holds. What a worker sends back is JSON, checked field by field: a document
that takes over a parser cannot reach the parent through pickle.

Workers are spawned, so a script that uses this must be importable without doing anything:

    if __name__ == "__main__":
        with Sandbox(workers=2, seconds=60, memory_mb=2048) as sandbox:
            for outcome in sandbox.read_all([(Path("a.pdf"), "a.pdf")]):
                ...
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from kbqa.errors import DocumentError, KbqaError
from kbqa.readers import ReadOptions
from kbqa.readers.progress import listening
from kbqa.types import Block, Document

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["Outcome", "Sandbox", "from_json", "read_one", "to_json"]

READER = "kbqa.readers:read"

_START_SECONDS = 60.0  # a worker that is not up by then never will be
_REPLY_BYTES = 1 << 30  # more than ReadOptions lets through
_WAIT = 5.0  # seconds between looks at the clocks when nothing happens

Read = Callable[[Path, str, ReadOptions], Document]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: either `document` or `error` is set. `seconds` is what reading took."""

    source: str
    path: Path
    document: Document | None
    error: DocumentError | None
    seconds: float


class Sandbox:
    """Worker processes that read files.

    `seconds` is the limit for one file; a reader that reports pages (text recognition) gets it anew for each page,
    but no file gets more than `total_seconds`. `memory_mb` limits each worker's memory; recognition needs about 1,500.
    `reader` names the function
    `(path, source, options) -> Document` that the workers import, as "module:function".

    Workers start when there is work for them and live until `close`. Not for use from two threads at once.
    """

    def __init__(
        self,
        workers: int,
        seconds: float,
        memory_mb: int,
        options: ReadOptions | None = None,
        *,
        total_seconds: float = 7200.0,
        reader: str = READER,
    ) -> None:
        self._most = max(1, workers)
        self._orders = _Orders(
            reader=reader,
            options=options or ReadOptions(),
            memory_mb=memory_mb,
            seconds=seconds,
            total_seconds=max(total_seconds, seconds),
            ocr_threads=max(1, (os.cpu_count() or 1) // self._most),
        )
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers, idle or busy."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def read_all(self, jobs: Iterable[tuple[Path, str]]) -> Iterator[Outcome]:
        """Reads each (path, source), yields as files finish. Jobs are taken one for each free worker, not ahead.

        Raises KbqaError when workers cannot start at all.
        """
        waiting = iter(jobs)
        done: list[Outcome] = []
        try:
            while True:
                busy = self._hand_out(waiting)
                if not busy and not done:
                    return
                done += self._finished(busy, block=not done)
                self._hand_out(waiting)  # so that all work goes on while the caller looks at this one
                if done:
                    yield done.pop(0)
        finally:
            for worker in [worker for worker in self._workers if worker.job]:
                self._drop(worker)

    def _hand_out(self, waiting: Iterator[tuple[Path, str]]) -> list[_Worker]:
        """Gives every free worker a job while there are any; the workers that have one."""
        while self._has_room() and (job := next(waiting, None)):
            self._free().begin(*job)
        return [worker for worker in self._workers if worker.job]

    def _has_room(self) -> bool:
        return len(self._workers) < self._most or any(not worker.job for worker in self._workers)

    def _free(self) -> _Worker:
        """An idle worker, or a new one."""
        for worker in self._workers:
            if not worker.job:
                return worker
        worker = _Worker(self._orders)
        self._workers.append(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)

    def _finished(self, busy: list[_Worker], block: bool) -> list[Outcome]:
        """What has come to an end; with `block` it waits until something happens."""
        if not busy:
            return []
        now = time.monotonic()
        timeout = min([_WAIT, *(worker.deadline - now for worker in busy)]) if block else 0.0
        wait([worker.link for worker in busy], max(0.0, timeout))
        outcomes = []
        for worker in busy:
            outcome = worker.look()
            if outcome:
                outcomes.append(outcome)
                if worker.spent:
                    self._drop(worker)
        return outcomes


def read_one(
    path: Path,
    source: str | None = None,
    options: ReadOptions | None = None,
    *,
    seconds: float = 120.0,
    memory_mb: int = 4096,
) -> Document:
    """The document in one file, read in a worker. Raises DocumentError."""
    with Sandbox(1, seconds, memory_mb, options) as sandbox:
        outcome = next(iter(sandbox.read_all([(path, path.name if source is None else source)])))
    if outcome.document is None:
        raise outcome.error or DocumentError(f"{path.name}: nothing was read")
    return outcome.document


# --- the parent's side of a worker -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Orders:
    """What a worker is told once, when it starts."""

    reader: str
    options: ReadOptions
    memory_mb: int
    seconds: float
    total_seconds: float
    ocr_threads: int


class _Worker:
    """One process and the job it works on. It counts as busy from `begin` until `look` gives an outcome."""

    def __init__(self, orders: _Orders) -> None:
        context = multiprocessing.get_context("spawn")
        self.link, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs, orders), daemon=True)
        self._process.start()
        theirs.close()
        self.job: tuple[Path, str] | None = None
        self.deadline = 0.0  # in seconds of time.monotonic(), of what it does now: starting, reading, one page
        self.spent = False  # not to be used again
        self._seconds, self._total = orders.seconds, orders.total_seconds
        self._ready = False
        self._began = 0.0
        self._place = ""  # "page 3 of 20", as last reported

    def begin(self, path: Path, source: str) -> None:
        self.job = (path, source)
        self._place = ""
        self._began = time.monotonic()
        self.deadline = self._began + (self._seconds if self._ready else _START_SECONDS)
        message = json.dumps({"path": str(path.absolute()), "source": source}).encode()
        with contextlib.suppress(OSError):  # it died while idle: `look` reports that
            self.link.send_bytes(message)

    def look(self) -> Outcome | None:
        """The outcome if the job has come to its end, good or bad. Takes in all messages first."""
        try:
            while self.link.poll():
                outcome = self._take(self._message())
                if outcome:
                    return outcome
        except (EOFError, OSError):
            return self._failed(self._death(), "crashed")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return self._failed(f"the reader sent something else than a document: {error}", "crashed")
        if time.monotonic() < self.deadline:
            return None
        if not self._ready:
            raise KbqaError(f"a reading worker did not start within {_START_SECONDS:g} s")
        at = f", at {self._place}" if self._place else ""
        return self._failed(f"reading took longer than {self._seconds:g} s{at}", "timeout")

    def _message(self) -> Mapping[str, Any]:
        message = json.loads(self.link.recv_bytes(_REPLY_BYTES))
        if not isinstance(message, dict):
            raise TypeError("no object")
        return message

    def _take(self, message: Mapping[str, Any]) -> Outcome | None:
        now = time.monotonic()
        if "ready" in message:
            self._ready, self._began, self.deadline = True, now, now + self._seconds
            return None
        if "page" in message:
            self._place = f"page {int(message['page'])} of {int(message['pages'])}"
            self.deadline = min(now + self._seconds, self._began + self._total)
            return None
        self.spent = bool(message.get("spent"))
        if "error" in message:
            return self._outcome(None, DocumentError(_string(message["error"]), _string(message["kind"])), message)
        _, source = self._given()
        return self._outcome(from_json(message["document"], source), None, message)

    def _given(self) -> tuple[Path, str]:
        if self.job is None:
            raise RuntimeError("the worker has no job")
        return self.job

    def _failed(self, problem: str, kind: str) -> Outcome:
        self.spent = True
        _, source = self._given()
        return self._outcome(None, DocumentError(f"{source}: {problem}", kind), {})

    def _outcome(self, document: Document | None, error: DocumentError | None, message: Mapping[str, Any]) -> Outcome:
        path, source = self._given()
        spent = message.get("seconds", time.monotonic() - self._began)
        self.job = None
        return Outcome(source, path, document, error, float(spent))

    def _death(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if not self._ready:
            raise KbqaError(
                f"reading workers cannot start (exit code {code}); "
                "a script that calls this must do so under `if __name__ == '__main__':`"
            )
        if code is not None and code < 0:
            name = signal.strsignal(-code) or "unknown"
            return f"the reader crashed (signal {-code}: {name})"
        return f"the reader crashed (exit code {code})"

    def kill(self) -> None:
        self.link.close()
        self._process.kill()
        self._process.join(5)
        self._process.close()


# --- inside the worker -----------------------------------------------------------------------------------------------


def _serve(link: Connection, orders: _Orders) -> None:
    """Reads files as they are named on `link` until the parent closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["KBQA_OCR_THREADS"] = str(orders.ocr_threads)
    module, _, function = orders.reader.partition(":")
    read = cast(Read, getattr(import_module(module), function))
    _limit_memory(orders.memory_mb)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        _send(link, {"ready": True})
        _silence()
        while True:
            job = json.loads(link.recv_bytes())
            _limit_cpu(orders.total_seconds * (1 + orders.ocr_threads))
            with listening(lambda page, pages: _send(link, {"page": page, "pages": pages})):
                reply = _reply(read, Path(job["path"]), job["source"], orders.options)
            _send(link, reply)
            if reply.get("spent"):
                return


def _reply(read: Read, path: Path, source: str, options: ReadOptions) -> dict[str, Any]:
    began = time.monotonic()
    try:
        reply: dict[str, Any] = {"document": to_json(read(path, source, options))}
    except DocumentError as error:
        reply = {"error": str(error), "kind": error.kind, "spent": error.kind == "memory"}
    except MemoryError:
        reply = {"error": f"{source}: reading needs more memory than is allowed", "kind": "memory", "spent": True}
    except Exception as error:  # noqa: BLE001  one file of many: it is reported and the rest goes on
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        reply = {"error": f"{source}: the reader failed: {problem}", "kind": "malformed"}
    return reply | {"seconds": time.monotonic() - began}


def _send(link: Connection, message: Mapping[str, Any]) -> None:
    link.send_bytes(json.dumps(message).encode())


def _silence() -> None:
    """What parsers print helps nobody and would tear the progress bar."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _limit_memory(megabytes: int) -> None:
    """Private memory on Linux; other systems have no limit that works this way."""
    if sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: float) -> None:
    """So that a worker that spins ends by itself even when its parent was killed and cannot end it."""
    if sys.platform.startswith("linux"):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


# --- documents as JSON -----------------------------------------------------------------------------------------------


def to_json(document: Document) -> dict[str, Any]:
    """Everything but the source, which only the parent says."""
    return {
        "title": document.title,
        "blocks": [[b.kind, b.text, b.level, b.page, b.header_rows] for b in document.blocks],
        "digest": document.digest,
        "reader": document.reader,
        "pages": document.pages,
        "warnings": list(document.warnings),
        "metadata": dict(document.metadata),
    }


def from_json(found: object, source: str) -> Document:
    """The document that `to_json` took apart. Raises TypeError, ValueError or KeyError for anything else."""
    if not isinstance(found, dict) or not isinstance(found["metadata"], dict):
        raise TypeError("no object")
    blocks = tuple(_block(*fields) for fields in found["blocks"])
    metadata = {_string(key): value for key, value in found["metadata"].items()}
    if not all(isinstance(value, str | int | float | bool) for value in metadata.values()):
        raise TypeError("metadata that is no plain value")
    return Document(
        source=source,
        title=_string(found["title"]),
        blocks=blocks,
        digest=_string(found["digest"]),
        reader=_string(found["reader"]),
        pages=_number(found["pages"]),
        warnings=tuple(_string(warning) for warning in found["warnings"]),
        metadata=metadata,
    )


def _block(kind: object, text: object, level: object, page: object, header_rows: object) -> Block:
    if kind not in ("heading", "text", "table", "code"):
        raise ValueError(f"a block of kind {kind!r}")
    return Block(kind, _string(text), _number(level) or 0, _number(page), _number(header_rows) or 0)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} for text")
    return value


def _number(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"{type(value).__name__} for a number")
    return value
