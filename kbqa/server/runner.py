"""Works through the jobs, each in a process of its own.

A process, because taking documents in keeps a processor busy: in a thread it would slow down every answer, and what a
hostile file or a model that needs too much memory brings down is that job alone. Of all processes that serve an
installation one runs jobs: the one that holds a lock, which the system takes from it when it dies. What was running
then is begun anew; what it had done is found unchanged, which takes no time.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

from filelock import FileLock, Timeout

from kbqa.config import Home
from kbqa.errors import KbqaError
from kbqa.registry import ENDED, Job, JobFile, Jobs, Progress
from kbqa.server.logs import log
from kbqa.server.metrics import Metrics
from kbqa.server.uploads import sweep

__all__ = ["Runner"]

LOCK = "kbqa.jobs.lock"
AT_ONCE = 2  # jobs, of different bases
LOOK = 0.25  # seconds between looks at what is new
PATIENCE = 600.0  # seconds for which a base that another program writes is waited for
GRACE = 30.0  # seconds in which a job that was cancelled may end by itself; it loses nothing when it is killed
PARTING = 5.0  # the same, where the service ends
SAID = 2000  # last bytes of what a process that broke down had to say

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from kbqa.server.worker import main; main()"


class Runner:
    """`start` it once, `stop` it at the end; `wake` it when there is something new, else it looks now and then."""

    def __init__(self, jobs: Jobs, home: Home, metrics: Metrics) -> None:
        self._jobs = jobs
        self._home = home
        self._metrics = metrics
        self._lock = FileLock(home.vectorstore / LOCK, thread_local=False)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._busy: dict[str, threading.Thread] = {}  # base -> who works on it
        self._thread = threading.Thread(target=self._run, name="kbqa-jobs", daemon=True)
        self._complained = ""

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Jobs that run go on when the service is there again."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with self._told():
                    if self._leads():
                        self._begin()
                self._wake.wait(LOOK)
                self._wake.clear()
            for thread in list(self._busy.values()):
                thread.join()
        finally:
            self._lock.release()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A registry that cannot be used now is told of once in the log, and tried again."""
        try:
            yield
            self._complained = ""
        except (KbqaError, OSError) as error:
            if str(error) != self._complained:
                log.error(f"jobs cannot be looked at: {error}")
            self._complained = str(error)

    def _leads(self) -> bool:
        """Whether this is the process that runs jobs."""
        if self._lock.is_locked:
            return True
        if not self._home.vectorstore.is_dir():  # it is made with the first job
            return False
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            sweep(self._home.knowledge)
            for job in self._jobs.recover():
                log.warning(f"the service had ended in the midst of job {job.id} ({job.kind} of {job.base})")
        except BaseException:
            self._lock.release()
            raise
        return True

    def _begin(self) -> None:
        while len(self._busy) < AT_ONCE and (job := self._jobs.claim(self._busy.keys())):
            thread = threading.Thread(target=self._work, args=(job,), name=f"kbqa-job-{job.id}", daemon=True)
            self._busy[job.base] = thread
            thread.start()

    def _work(self, job: Job) -> None:
        try:
            files = _Run(job, self._jobs, self._home, self._stopping).to_its_end()
        except Exception as error:  # noqa: BLE001  (a job must not stay "running", whatever happened)
            log.error(f"job {job.id} broke down", exc_info=error)
            with suppress(KbqaError):
                self._jobs.finish(job.id, "failed", f"the job broke down: {error}", type(error).__name__)
        else:
            self._count(job, files)
        finally:
            del self._busy[job.base]
            self._wake.set()

    def _count(self, job: Job, files: Mapping[str, int]) -> None:
        for status, count in files.items():
            self._metrics.files.labels(status).inc(count)
        with suppress(KbqaError):
            if (state := self._jobs.get(job.id).state) in ENDED:
                self._metrics.jobs.labels(job.kind, state).inc()


class _Run:
    """One job and the process that does it."""

    def __init__(self, job: Job, jobs: Jobs, home: Home, stopping: threading.Event) -> None:
        self._job = job
        self._jobs = jobs
        self._home = home
        self._stopping = stopping
        self._progress = Progress(total=len(job.sources or ()))
        self._counts: Counter[str] = Counter()
        self._known = set(job.sources or ())
        self._news: dict[str, JobFile] = {}
        self._note = ""
        self._end: Mapping[str, Any] = {}
        self._written: object = None  # what was told last

    def to_its_end(self) -> Mapping[str, int]:
        """How many files there were, by status."""
        with tempfile.TemporaryFile() as said:
            process = self._start(said)
            try:
                parting = self._follow(process)
            finally:
                process.kill()
                process.wait()
            self._finish(parting, process.returncode, said)
        return self._counts

    def _start(self, said: IO[bytes]) -> subprocess.Popen[bytes]:
        """It imports from where this process does, and not from the current folder."""
        command = [sys.executable, "-P", "-c", _PROGRAM, *map(str, sys.path)]
        slow = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  # on Windows; elsewhere it asks for it itself
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, creationflags=slow)

    def _follow(self, process: subprocess.Popen[bytes]) -> bool:
        """Until the process has ended; whether the service was ending before that."""
        assert process.stdin
        assert process.stdout
        lines: queue.Queue[bytes | None] = queue.Queue()
        pump = threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True)
        pump.start()
        with suppress(OSError):  # it died at once: its exit code tells
            process.stdin.write(json.dumps(self._order(), ensure_ascii=False).encode() + b"\n")
            process.stdin.flush()
        killed_at = float("inf")
        stop = parting = False
        while self._take(lines):
            stop = self._tell() or stop
            parting = parting or (self._stopping.is_set() and not stop)
            if (stop or parting) and not process.stdin.closed:
                with suppress(OSError):
                    process.stdin.close()
                killed_at = time.monotonic() + (PARTING if parting else GRACE)
            if self._stopping.is_set():
                killed_at = min(killed_at, time.monotonic() + PARTING)
            if time.monotonic() > killed_at:
                process.kill()
        self._tell()
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PARTING)
        process.stdout.close()
        return parting

    def _order(self) -> Mapping[str, Any]:
        return {
            "home": str(self._home.folder),
            "base": self._job.base,
            "kind": self._job.kind,
            "sources": self._job.sources,
            "allow_empty": self._job.allow_empty,
            "patience": PATIENCE,
        }

    def _take(self, lines: queue.Queue[bytes | None]) -> bool:
        """Takes in all that came within a moment; whether there may be more."""
        until = time.monotonic() + LOOK
        while (left := until - time.monotonic()) > 0:
            try:
                line = lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                return False
            self._hear(json.loads(line))
        return True

    def _hear(self, message: Mapping[str, Any]) -> None:
        match message:
            case {"plan": read, "total": total}:
                self._progress, self._note = replace(self._progress, total=total), ""
                self._counts.clear()
                self._known.update(read)
                self._news |= {source: JobFile(source, "queued") for source in read}
            case {"start": source}:
                self._progress = replace(self._progress, current=source)
                self._news[source] = JobFile(source, "reading")
            case {"file": fields}:
                self._done(JobFile(**fields))
            case {"waiting": why}:
                self._note = why
            case {"end": _}:
                self._end = message

    def _done(self, file: JobFile) -> None:
        self._counts[file.status] += 1
        new = file.chunks if file.status in ("added", "updated") else 0
        self._progress = replace(
            self._progress,
            done=self._counts.total(),
            total=max(self._progress.total, self._counts.total()),
            chunks=self._progress.chunks + new,
            counts=dict(self._counts),
        )
        if file.status != "unchanged" or file.source in self._known:  # what nobody asked for is only counted
            self._news[file.source] = file

    def _tell(self) -> bool:
        """Writes down what is new; whether somebody wants the job to end."""
        news, self._news = self._news, {}
        if news or (self._progress, self._note) != self._written:
            self._written = self._progress, self._note
            return self._jobs.tell(self._job.id, self._progress, list(news.values()), self._note)
        return not self._jobs.wanted(self._job.id)

    def _finish(self, parting: bool, code: int, said: IO[bytes]) -> None:
        match self._end.get("end"):
            case "done":
                self._progress = replace(self._progress, current="")
                self._tell()
                self._jobs.finish(self._job.id, "done")
            case "failed":
                self._jobs.finish(self._job.id, "failed", self._end["message"], self._end["type"])
            case _ if parting:
                self._jobs.put_back(self._job.id)
            case _ if not self._jobs.wanted(self._job.id):
                self._jobs.finish(self._job.id, "cancelled")
            case _:
                log.error(f"the process of job {self._job.id} ended with exit code {code}: {_last(said)}")
                self._jobs.finish(
                    self._job.id,
                    "failed",
                    f"the process that did it ended with exit code {code}; what is done is kept, ask again for the "
                    "rest (the log of the service says more)",
                    "JobFailed",
                )


def _pump(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with suppress(OSError, ValueError):  # it was closed
        for line in stream:
            lines.put(line)
    lines.put(None)


def _last(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, 2) - SAID))
    return said.read().decode(errors="replace")
