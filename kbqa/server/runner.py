"""Works through the jobs, each in a process of its own.

A process, because taking documents in keeps a processor busy: in a thread it would slow down every answer, and what a
hostile file or a model that needs too much memory brings down is that job alone. Of all processes that serve an
installation one runs jobs: the one that holds a lock, which the system takes from it when it dies. What was running
then is begun anew; what it had done is found unchanged, which takes no time.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from filelock import FileLock, Timeout

from kbqa.config import Home
from kbqa.errors import KbqaError, KnowledgeBaseBusy, RegistryError
from kbqa.registry import ENDED, Job, JobFile, Jobs, Progress, remedy
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
SWEEP = 600.0  # seconds between looks for what dead uploads left behind
LYING = "the files lie in knowledge/{}, and the next ingest of that folder takes them in"
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
        self._swept = float("-inf")
        self._lost = False  # whether a job may be "running" on which nobody works

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def take_in(self, base: str, by: str, sources: Sequence[str]) -> Job:
        """The job for files that somebody has put into the folder already."""
        try:
            job = self._jobs.add(base, "ingest", by, sources)
        except (RegistryError, KnowledgeBaseBusy) as error:
            raise type(error)(f"{error}; {LYING.format(base)}") from error
        self.wake()
        return job

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
                        self._sweep()
                        self._begin()
                self._wake.wait(LOOK)
                self._wake.clear()
            for thread in list(self._busy.values()):
                thread.join()
        finally:
            self._lock.release()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A registry that cannot be used now, or whatever else it is, is told of once in the log, and tried again."""
        try:
            yield
            self._complained = ""
        except Exception as error:  # noqa: BLE001  (without this thread no job would ever be done)
            self._lost = True
            if str(error) != self._complained:
                foreseen = isinstance(error, KbqaError | OSError)
                what_to_do = f"; {remedy(error)}" if isinstance(error, OSError) else ""
                log.error(f"jobs cannot be looked at: {error}{what_to_do}", exc_info=None if foreseen else error)
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
            for job in self._jobs.recover():
                log.warning(f"the service had ended in the midst of job {job.id} ({job.kind} of {job.base})")
        except BaseException:
            self._lock.release()
            raise
        return True

    def _sweep(self) -> None:
        if time.monotonic() - self._swept > SWEEP:
            self._swept = time.monotonic()
            sweep(self._home.knowledge)

    def _begin(self) -> None:
        if self._lost:
            self._lost = False  # first: what is lost from here on is for the next time
            self._jobs.recover(self._busy.keys())
        while len(self._busy) < AT_ONCE and (job := self._jobs.claim(self._busy.keys())):
            together = [job, *self._jobs.claim_alike(job)]
            thread = threading.Thread(target=self._work, args=(together,), name=f"kbqa-job-{job.id}", daemon=True)
            self._busy[job.base] = thread
            try:
                thread.start()
            except BaseException:
                del self._busy[job.base]
                raise

    def _work(self, together: Sequence[Job]) -> None:
        try:
            begun = time.monotonic()
            _Run(together, self._jobs, self._home, self._stopping, self._metrics).to_its_end()
            for job in together:
                if (state := self._jobs.get(job.id).state) in ENDED:
                    self._metrics.jobs.labels(job.kind, state).inc()
                    self._metrics.job_seconds.labels(job.kind).observe(time.monotonic() - begun)
        except Exception as error:  # noqa: BLE001  (a job must not stay "running", whatever happened)
            log.error(f"job {together[0].id} broke down", exc_info=error)
            del self._busy[together[0].base]
            self._lost = True  # behind that: what is lost is looked for where nobody works
        else:
            del self._busy[together[0].base]
        finally:
            self._wake.set()


@dataclass
class _Share:
    """What one job has of what a process does."""

    job: Job
    progress: Progress = field(default_factory=Progress)
    counts: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)
    news: dict[str, JobFile] = field(default_factory=dict)
    written: object = None  # what was told last

    def __post_init__(self) -> None:
        self.known = set(self.job.sources or ())
        self.progress = Progress(total=len(self.known))

    def plan(self, read: Sequence[str], total: int) -> None:
        self.counts.clear()
        if self.job.sources is None:
            self.progress = Progress(total=total)
            self.known.update(read)
            self.news |= {source: JobFile(source, "queued") for source in read}

    def begin(self, source: str) -> None:
        if source in self.known:
            self.progress = replace(self.progress, current=source)
            self.news[source] = JobFile(source, "reading")

    def end(self, file: JobFile) -> None:
        if self.job.sources is not None and file.source not in self.known:
            return
        self.counts[file.status] += 1
        new = file.chunks if file.status in ("added", "updated") else 0
        self.progress = replace(
            self.progress,
            done=self.counts.total(),
            total=max(self.progress.total, self.counts.total()),
            chunks=self.progress.chunks + new,
            counts=dict(self.counts),
        )
        if file.status != "unchanged" or file.source in self.known:  # what nobody asked for is only counted
            self.news[file.source] = file

    def tell(self, jobs: Jobs, note: str) -> bool:
        """Writes down what is new; whether somebody wants the job to end."""
        news, self.news = self.news, {}
        if news or (self.progress, note) != self.written:
            self.written = self.progress, note
            return jobs.tell(self.job.id, self.progress, list(news.values()), note)
        return not jobs.wanted(self.job.id)


class _Run:
    """Jobs that are done in one go, mostly one, and the process that does them."""

    def __init__(
        self, together: Sequence[Job], jobs: Jobs, home: Home, stopping: threading.Event, metrics: Metrics
    ) -> None:
        self._shares = [_Share(job) for job in together]
        self._first = together[0]
        self._jobs = jobs
        self._home = home
        self._stopping = stopping
        self._metrics = metrics
        self._note = ""
        self._end: Mapping[str, Any] = {}

    def to_its_end(self) -> None:
        with tempfile.TemporaryFile() as said:
            process = self._start(said)
            try:
                parting = self._follow(process)
            finally:
                _kill(process)
                process.wait()
            self._finish(parting, process.returncode, said)

    def _start(self, said: IO[bytes]) -> subprocess.Popen[bytes]:
        """It imports from where this process does, and not from the current folder. With those that it starts it is a
        group of its own, so that none of them outlives it."""
        command = [sys.executable, "-P", "-c", _PROGRAM, *map(str, sys.path)]
        slow = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  # on Windows; elsewhere it asks for it itself
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            creationflags=slow,
            start_new_session=True,
        )

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
                _kill(process)
        self._tell()
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PARTING)
        process.stdout.close()
        return parting

    def _order(self) -> Mapping[str, Any]:
        sources = [source for share in self._shares for source in share.job.sources or ()]
        return {
            "home": str(self._home.folder),
            "base": self._first.base,
            "kind": self._first.kind,
            "sources": None if self._first.sources is None else list(dict.fromkeys(sources)),
            "allow_empty": self._first.allow_empty,
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
                self._note = ""
                for share in self._shares:
                    share.plan(read, total)
            case {"start": source}:
                for share in self._shares:
                    share.begin(source)
            case {"file": fields}:
                file = JobFile(**fields)
                self._metrics.count_file(file.status, file.chunks, file.seconds)
                for share in self._shares:
                    share.end(file)
            case {"waiting": why}:
                self._note = why
            case {"end": _}:
                self._end = message

    def _tell(self) -> bool:
        """Writes down what is new; whether somebody wants one of the jobs to end."""
        wishes = [share.tell(self._jobs, self._note) for share in self._shares]
        return any(wishes)

    def _finish(self, parting: bool, code: int, said: IO[bytes]) -> None:
        died = not self._end and not parting
        if died and self._wanted():
            log.error(f"the process of job {self._first.id} ended with exit code {code}: {_last(said)}")
        for share in self._shares:
            job = share.job.id
            match self._end.get("end"):
                case "done":
                    share.progress = replace(share.progress, current="")
                    share.tell(self._jobs, "")
                    self._jobs.finish(job, "done")
                case "failed":
                    why = f"{self._end['message']}{_still_there(self._home, share.job)}"
                    self._jobs.finish(job, "failed", why, self._end["type"])
                case _ if not self._jobs.wanted(job):
                    self._jobs.finish(job, "cancelled")
                case _ if died and self._wanted():
                    why = f"the process that did it ended with exit code {code} (the log of the service says more)"
                    rest = _still_there(self._home, share.job) or "; ask again for the rest"
                    self._jobs.finish(job, "failed", f"{why}; what is done is kept{rest}", "JobFailed")
                case _:  # the service ends, or one that it ran together with was cancelled
                    self._jobs.put_back(job)

    def _wanted(self) -> bool:
        return all(self._jobs.wanted(share.job.id) for share in self._shares)


def _still_there(home: Home, job: Job) -> str:
    """What whoever uploaded or removed files is to know of them when the job fails, as the end of the reason; "" if
    nothing."""
    if job.kind == "remove":
        return "; the document is still in the base, delete it again"
    folder = home.documents(job.base)
    if job.kind != "ingest" or not any(folder.joinpath(*source.split("/")).is_file() for source in job.sources or ()):
        return ""
    return f"; {LYING.format(job.base)}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """And those that read files for it: one that is stuck in a file would go on without anybody to stop it."""
    if os.name == "nt":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: on macOS, when only its remains are left
        os.killpg(process.pid, signal.SIGKILL)


def _pump(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with suppress(OSError, ValueError):  # it was closed
        for line in stream:
            lines.put(line)
    lines.put(None)


def _last(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, 2) - SAID))
    return said.read().decode(errors="replace")
