"""Jobs: what was asked of a base that takes longer than a request, and how far it is.

Whoever serves adds jobs and reads them; one process at a time works through them, each base's in the order in which
they came. What a job has done already is kept: it can be begun anew at any time.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import takewhile
from typing import Any, Literal, get_args

from kbqa.errors import KnowledgeBaseBusy, UnknownJob
from kbqa.registry.database import Database

__all__ = ["ENDED", "KINDS", "STATES", "Job", "JobFile", "JobKind", "JobState", "Jobs", "Progress"]

JobKind = Literal["ingest", "rebuild", "remove"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
KINDS: tuple[JobKind, ...] = get_args(JobKind)
STATES: tuple[JobState, ...] = get_args(JobState)
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")

MOST_WAITING = 1000  # jobs; more are told to come again
MOST_ALIKE = 200  # jobs that are done in one go
KEPT = 1000  # jobs that have ended, the newest
ATTEMPTS = 3  # a job in whose midst the service ended so often may be the reason for it


@dataclass(frozen=True, slots=True)
class Progress:
    """How many files there are to look at, how many are done and with what outcome, and which was begun last."""

    total: int = 0
    done: int = 0
    current: str = ""
    chunks: int = 0  # of those that went in
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """`sources` None: the whole folder. Times are seconds since 1970."""

    id: str
    base: str
    kind: JobKind
    state: JobState
    by: str  # the key of whoever asked for it
    sources: tuple[str, ...] | None
    allow_empty: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    cancel: bool  # somebody wants it to end
    note: str  # what it waits for
    error: str
    error_type: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file of a job. `status` is queued, reading, or as in a FileReport."""

    source: str
    status: str
    reader: str = ""
    chunks: int = 0
    pages: int | None = None
    error: str = ""
    seconds: float = 0.0
    error_kind: str = ""


_COLUMNS = ", ".join(name if name != "by" else '"by"' for name in Job.__dataclass_fields__)
_FILE = ", ".join(JobFile.__dataclass_fields__)


class Jobs:
    """The jobs of an installation. Safe to use from many threads and processes; everything here blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- for those who ask -------------------------------------------------------------------------------------------

    def add(
        self, base: str, kind: JobKind, by: str, sources: Sequence[str] | None = None, allow_empty: bool = False
    ) -> Job:
        """KnowledgeBaseBusy when too many wait already."""
        job = _new(base, kind, by, sources, allow_empty)
        values = {
            **{f.name: getattr(job, f.name) for f in fields(job)},
            "sources": None if sources is None else json.dumps(job.sources, ensure_ascii=False),
            "progress": json.dumps(asdict(job.progress)),
        }
        with self._database.writing() as connection:
            _check_room(connection)
            places = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO jobs ({_COLUMNS}) VALUES ({places})", tuple(values.values()))
            _put_files(connection, job.id, [JobFile(source, "queued") for source in dict.fromkeys(sources or ())])
            connection.execute(
                "DELETE FROM jobs WHERE state IN ('done', 'failed', 'cancelled') AND number <= "
                "(SELECT max(number) FROM jobs) - ?",
                (KEPT,),
            )
        return job

    def check_room(self) -> None:
        """KnowledgeBaseBusy where `add` would raise it, and RegistryError where nothing can be written."""
        with self._database.writing() as connection:
            _check_room(connection)

    def get(self, number: str) -> Job:
        """UnknownJob when there is none of that id, or it ended long ago."""
        with self._database.reading() as connection:
            return _get(connection, number)

    def all(
        self, sees: Callable[[str], bool] = lambda base: True, state: JobState | None = None, base: str | None = None
    ) -> list[Job]:
        """Those of the bases that `sees` allows, newest first."""
        return self.page(sees, state, base)[1]

    def pending(self) -> dict[str, int]:
        """How many wait and run."""
        with self._database.reading() as connection:
            query = "SELECT state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY state"
            return {"queued": 0, "running": 0} | dict(connection.execute(query).fetchall())

    def page(
        self,
        sees: Callable[[str], bool] = lambda base: True,
        state: JobState | None = None,
        base: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[int, list[Job]]:
        """How many there are, as `all` has them, and some of them: a job of many files is not small."""
        chosen = {name: value for name, value in (("state", state), ("base", base)) if value is not None}
        where = " AND ".join(["1", *(f"{name} = ?" for name in chosen)])
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT base, id FROM jobs WHERE {where} ORDER BY number DESC", tuple(chosen.values())
            ).fetchall()
            numbers = [number for base, number in found if sees(base)]
            shown = numbers[offset : None if limit is None else offset + limit]
            return len(numbers), [_get(connection, number) for number in shown]

    def files(self, job: str, limit: int, offset: int = 0) -> list[JobFile]:
        """In the order in which they became known."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {_FILE} FROM job_files WHERE job = ? ORDER BY number LIMIT ? OFFSET ?", (job, limit, offset)
            ).fetchall()
        return [JobFile(*row) for row in rows]

    def cancel(self, number: str) -> Job:
        """One that waits has ended at once, one that runs will soon; one that has ended stays as it is."""
        with self._database.writing() as connection:
            if _get(connection, number).state == "queued":
                _end(connection, number, "cancelled")
            connection.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (number,))
            return _get(connection, number)

    def withdraw(self, number: str) -> None:
        """Forgets one that still waits, and that whoever added it has done himself."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ? AND state = 'queued'", (number,))

    def cancel_all(self, base: str) -> None:
        for job in self.all(base=base):
            if job.state not in ENDED:
                self.cancel(job.id)

    # --- for the one who works ---------------------------------------------------------------------------------------

    def recover(self, busy: Collection[str] = ()) -> list[Job]:
        """What was running when the process ended that worked on it: begins anew, unless that happens for ever.

        Nothing of the bases in `busy`, whose jobs do run.
        """
        why = (
            f"the service ended or broke down {ATTEMPTS} times while this job ran (look for the cause in its log); "
            "what is done is kept, and an ingest of the folder does the rest"
        )
        with self._database.writing() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running'").fetchall()
            lost = [job for job in map(_job, rows) if job.base not in busy]
            for job in lost:
                if job.cancel:
                    _end(connection, job.id, "cancelled")
                elif job.attempts >= ATTEMPTS:
                    _end(connection, job.id, "failed", why, "JobFailed")
                else:
                    connection.execute("UPDATE jobs SET state = 'queued', note = '' WHERE id = ?", (job.id,))
        return lost

    def claim(self, busy: Collection[str]) -> Job | None:
        """The oldest that waits and whose base is not among `busy`, which now runs; None when there is none."""
        with self._database.reading() as connection:  # a reader, because this is asked all the time
            waiting = connection.execute("SELECT base, id FROM jobs WHERE state = 'queued' ORDER BY number").fetchall()
        number = next((number for base, number in waiting if base not in busy), None)
        if number is None:
            return None
        with self._database.writing() as connection:
            row = connection.execute("SELECT state FROM jobs WHERE id = ?", (number,)).fetchone()
            return _run(connection, number) if row == ("queued",) else None

    def claim_alike(self, job: Job) -> list[Job]:
        """Those that wait right behind `job`, which was claimed, and can be done in one go with it: they run now.

        To take in files by their names costs little beside beginning to, and programs upload them one by one.
        """
        if job.kind != "ingest" or job.sources is None:
            return []
        with self._database.writing() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' AND base = ? ORDER BY number LIMIT ?",
                (job.base, MOST_ALIKE),
            ).fetchall()
            alike = takewhile(lambda other: other.kind == "ingest" and other.sources is not None, map(_job, rows))
            return [_run(connection, other.id) for other in alike]

    def tell(self, number: str, progress: Progress, files: Sequence[JobFile] = (), note: str = "") -> bool:
        """How far a job is; `files` are those about which something is new. Whether somebody wants it to end."""
        with self._database.writing() as connection:
            _put_files(connection, number, files)
            connection.execute(
                "UPDATE jobs SET progress = ?, note = ? WHERE id = ?",
                (json.dumps(asdict(progress), ensure_ascii=False), note, number),
            )
            row = connection.execute("SELECT cancel FROM jobs WHERE id = ?", (number,)).fetchone()
        return bool(row and row[0])

    def wanted(self, number: str) -> bool:
        """Whether nobody has asked for its end."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT cancel FROM jobs WHERE id = ?", (number,)).fetchone()
        return bool(row) and not row[0]

    def finish(self, number: str, state: JobState, error: str = "", error_type: str = "") -> None:
        """Files that were not come to are gone when the job is done, and cancelled else."""
        with self._database.writing() as connection:
            _end(connection, number, state, error, error_type)

    def put_back(self, number: str) -> None:
        """The service ends in an orderly way: the job goes on when it is there again."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'queued', note = '', attempts = attempts - 1 WHERE id = ?", (number,)
            )


def _new(base: str, kind: JobKind, by: str, sources: Sequence[str] | None, allow_empty: bool) -> Job:
    return Job(
        id=secrets.token_hex(8),
        base=base,
        kind=kind,
        state="queued",
        by=by,
        sources=None if sources is None else tuple(sources),
        allow_empty=allow_empty,
        created_at=time.time(),
        started_at=None,
        finished_at=None,
        attempts=0,
        cancel=False,
        note="",
        error="",
        error_type="",
        progress=Progress(total=len(sources or ())),
    )


def _run(connection: sqlite3.Connection, number: str) -> Job:
    connection.execute(
        "UPDATE jobs SET state = 'running', started_at = coalesce(started_at, ?), attempts = attempts + 1 WHERE id = ?",
        (time.time(), number),
    )
    return _get(connection, number)


def _check_room(connection: sqlite3.Connection) -> None:
    (waiting,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
    if waiting >= MOST_WAITING:
        raise KnowledgeBaseBusy(f"{waiting} jobs wait already; try again when some of them are done")


def _get(connection: sqlite3.Connection, number: str) -> Job:
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise UnknownJob(f"there is no job {number}; one that ended long ago is forgotten")
    return _job(row)


def _end(connection: sqlite3.Connection, number: str, state: JobState, error: str = "", error_type: str = "") -> None:
    rest = ("skipped", "it was not there any more", "gone") if state == "done" else ("cancelled", "", "")
    connection.execute(
        "UPDATE job_files SET status = ?, error = ?, error_kind = ? WHERE job = ? AND status IN ('queued', 'reading')",
        (*rest, number),
    )
    connection.execute(
        "UPDATE jobs SET state = ?, error = ?, error_type = ?, note = '', finished_at = ? WHERE id = ?",
        (state, error, error_type, time.time(), number),
    )


def _job(row: Sequence[Any]) -> Job:
    values = dict(zip(Job.__dataclass_fields__, row, strict=True))
    values["sources"] = None if values["sources"] is None else tuple(json.loads(values["sources"]))
    values["progress"] = Progress(**json.loads(values["progress"]))
    values["allow_empty"], values["cancel"] = bool(values["allow_empty"]), bool(values["cancel"])
    return Job(**values)


def _put_files(connection: sqlite3.Connection, job: str, files: Sequence[JobFile]) -> None:
    names = JobFile.__dataclass_fields__
    update = ", ".join(f"{name} = excluded.{name}" for name in names if name != "source")
    connection.executemany(
        f"INSERT INTO job_files (job, {_FILE}) VALUES (?{', ?' * len(names)})"
        # What was done before the service ended in the midst of a job stays told as it was.
        f" ON CONFLICT (job, source) DO UPDATE SET {update}"
        " WHERE excluded.status NOT IN ('queued', 'unchanged') OR status IN ('queued', 'reading')",
        [(job, *(getattr(file, name) for name in names)) for file in files],
    )
