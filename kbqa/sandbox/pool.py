"""The parent's side of the workers: who has which file, for how long it may take, and what came of it.

Workers are programs of their own, not children of multiprocessing: those would run the main module of a script that
takes documents in once more, unless it is guarded against that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kbqa.config import SplitterConfig
from kbqa.errors import DocumentError, KbqaError
from kbqa.readers import ReadOptions
from kbqa.sandbox.messages import Orders, read_chunks, read_document, read_prepared, read_vectors, receive, send
from kbqa.store.lexical import Prepared
from kbqa.types import Chunk, Document

if TYPE_CHECKING:
    from kbqa.embedders.static import StaticEmbedder
    from kbqa.types import Vectors

__all__ = ["Outcome", "Sandbox", "read_one"]

_START_SECONDS = 60.0  # a worker that is not up by then never will be
_WAIT = 1.0  # seconds between looks at the clocks when nothing happens


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: either `document` or `error` is set. `seconds` is what reading and cutting took."""

    source: str
    path: Path
    document: Document | None
    error: DocumentError | None
    seconds: float
    chunks: list[Chunk] = field(default_factory=list)  # none unless the Sandbox has a splitter
    prepared: list[Prepared] = field(default_factory=list)  # their terms
    vectors: Vectors | None = None  # theirs, (chunks, dim), if the workers embed


class Sandbox:
    """Worker processes that read files.

    With a `splitter` they also cut the documents and analyse the chunks; with an `embedder` they embed them.

    `seconds` is the limit for one file; a reader that reports pages (text recognition) gets it anew for each page,
    but no file gets more than `total_seconds`. `memory_mb` limits each worker's memory; recognition needs about 1,500.
    `reader` names the function `(path, source, options) -> Document` that the workers import, as "module:function".

    Workers start when there is work for them and live until `close`. Not for use from two threads at once.
    """

    def __init__(
        self,
        workers: int,
        seconds: float,
        memory_mb: int,
        options: ReadOptions | None = None,
        *,
        splitter: SplitterConfig | None = None,
        embedder: StaticEmbedder | None = None,
        total_seconds: float = 7200.0,
        reader: str = "kbqa.readers:read",
    ) -> None:
        self._most = max(1, workers)
        self._orders = Orders(
            reader=reader,
            options=options or ReadOptions(),
            splitter=splitter,
            static=None if embedder is None else embedder.path,
            dim=0 if embedder is None else embedder.dim,
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

    def read_all(
        self, jobs: Iterable[tuple[Path, str]], on_pause: Callable[[], None] = lambda: None
    ) -> Iterator[Outcome]:
        """Reads each (path, source), yields as files finish. A job is taken when a worker is free for it and the caller
        is not behind: at most as many outcomes lie here, with all their chunks and vectors, as there are workers.
        `on_pause` is called about once a second or oftener while none comes.

        Raises KbqaError when workers cannot start at all.
        """
        waiting = iter(jobs)
        done: list[Outcome] = []
        try:
            while True:
                busy = self._hand_out(waiting, len(done))
                if not busy and not done:
                    return
                done += self._finished(busy, block=not done)
                self._hand_out(waiting, len(done))  # so that all work goes on while the caller looks at this one
                if done:
                    yield done.pop(0)
                else:
                    on_pause()
        finally:
            for worker in [worker for worker in self._workers if worker.job]:
                self._drop(worker)

    def _hand_out(self, waiting: Iterator[tuple[Path, str]], done: int) -> list[_Worker]:
        """Gives free workers jobs while there are any, and while not too much is `done` that nobody has taken; the
        workers that have one."""
        busy = [worker for worker in self._workers if worker.job]
        while len(busy) < min(self._most, 2 * self._most - done) and (job := next(waiting, None)):
            worker = self._free()
            worker.begin(*job)
            busy.append(worker)
        return busy

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


class _Worker:
    """One process and the job it works on. It counts as busy from `begin` until `look` gives an outcome."""

    def __init__(self, orders: Orders) -> None:
        self.link, theirs = Pipe()
        self._process = _launch(theirs, orders.ocr_threads)
        theirs.close()
        with contextlib.suppress(OSError):  # it died at once: `look` reports that
            send(self.link, orders.write())
        self.job: tuple[Path, str] | None = None
        self.deadline = 0.0  # in seconds of time.monotonic(), of what it does now: starting, reading, one page
        self.spent = False  # not to be used again
        self._orders = orders
        self._ready = False
        self._began = 0.0
        self._place = ""  # "page 3 of 20", as last reported

    def begin(self, path: Path, source: str) -> None:
        self.job = (path, source)
        self._place = ""
        self._began = time.monotonic()
        self.deadline = self._began + (self._orders.seconds if self._ready else _START_SECONDS)
        with contextlib.suppress(OSError):  # it died while idle: `look` reports that
            send(self.link, {"path": str(path.absolute()), "source": source})

    def look(self) -> Outcome | None:
        """The outcome if the job has come to its end, good or bad. Takes in all messages first."""
        try:
            while self.link.poll():
                outcome = self._take(receive(self.link))
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
        return self._failed(f"reading took longer than {self._orders.seconds:g} s{at}", "timeout")

    def _take(self, message: Mapping[str, Any]) -> Outcome | None:
        now = time.monotonic()
        if "ready" in message:
            self._ready, self._began, self.deadline = True, now, now + self._orders.seconds
            return None
        if "page" in message:
            self._place = f"page {int(message['page'])} of {int(message['pages'])}"
            self.deadline = min(now + self._orders.seconds, self._began + self._orders.total_seconds)
            return None
        self.spent = bool(message.get("spent"))
        if "error" in message:
            return self._outcome(DocumentError(str(message["error"]), str(message["kind"])), message)
        path, source = self._given()
        document = read_document(message["document"], source)
        chunks = read_chunks(message.get("chunks", []), document)
        outcome = Outcome(
            source,
            path,
            document,
            None,
            float(message["seconds"]),
            chunks,
            read_prepared(message.get("prepared", []), len(chunks)),
            read_vectors(message["vectors"], len(chunks), self._orders.dim) if "vectors" in message else None,
        )
        self.job = None
        return outcome

    def _given(self) -> tuple[Path, str]:
        if self.job is None:
            raise RuntimeError("the worker has no job")
        return self.job

    def _failed(self, problem: str, kind: str) -> Outcome:
        self.spent = True
        _, source = self._given()
        return self._outcome(DocumentError(f"{source}: {problem}", kind), {})

    def _outcome(self, error: DocumentError, message: Mapping[str, Any]) -> Outcome:
        path, source = self._given()
        spent = message.get("seconds", time.monotonic() - self._began)
        self.job = None
        return Outcome(source, path, None, error, float(spent))

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        if not self._ready:
            raise KbqaError(f"reading workers cannot start (exit code {code})")
        if code is not None and code < 0:
            name = signal.strsignal(-code) or "unknown"
            return f"the reader crashed (signal {-code}: {name})"
        return f"the reader crashed (exit code {code})"

    def kill(self) -> None:
        self.link.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from kbqa.sandbox.worker import main; main(int(sys.argv[1]))"


def _launch(link: Connection, ocr_threads: int) -> subprocess.Popen[bytes]:
    """A new worker at the other end of `link`. It imports from where this process does, and not from the current
    folder, in which a stranger's `json.py` may lie."""
    handle = link.fileno()
    command = [sys.executable, "-P", "-c", _PROGRAM, str(handle), *map(str, sys.path)]
    # Told before the program starts: numerical libraries ask how many threads they may have when they are loaded.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KBQA_OCR_THREADS": str(ocr_threads)}
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        return subprocess.Popen(command, startupinfo=startup, stdin=subprocess.DEVNULL, env=environment)
    return subprocess.Popen(command, pass_fds=[handle], stdin=subprocess.DEVNULL, env=environment)
