"""Jobs over HTTP: what was asked of the bases that takes longer than a request, and how far it is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from kbqa.errors import UnknownJob
from kbqa.registry import ENDED, Job, JobState
from kbqa.server.auth import Caller, allow
from kbqa.server.request import ERRORS, Json, service_of, trace_of
from kbqa.server.service import Service

__all__ = ["JobFields", "Limit", "Offset", "Reader", "Writer", "at", "job_fields", "router"]

SHOWN = 1000  # files of a job, unless more are asked for

Reader = Annotated[Caller, Depends(allow("read"))]
Writer = Annotated[Caller, Depends(allow("write"))]
Limit = Annotated[int, Query(ge=1, le=10_000, description="At most so many.")]
Offset = Annotated[int, Query(ge=0, le=10**9, description="Leave so many out at the beginning.")]


class JobErrorFields(BaseModel):
    type: str
    message: str


class ProgressFields(BaseModel):
    """`total` grows while the folder is looked at; `current` was begun last; `counts` by status of a file."""

    total: int
    done: int
    current: str
    chunks: int
    counts: dict[str, int]


class JobFileFields(BaseModel):
    """`status`: queued, reading, added, updated, unchanged, removed, failed, skipped; cancelled: not come to.
    `error_kind` is `error` in a word, as of documents."""

    source: str
    status: str
    reader: str
    chunks: int
    pages: int | None
    error: str
    error_kind: str
    seconds: float


class JobFields(BaseModel):
    """`sources` null: the whole folder. `note` says what it waits for."""

    id: str
    base: str
    kind: str = Field(description="ingest, rebuild or remove")
    state: str = Field(description="queued, running, done, failed or cancelled")
    by: str
    sources: list[str] | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    cancelling: bool
    note: str
    error: JobErrorFields | None
    progress: ProgressFields


class JobsFields(BaseModel):
    total: int
    jobs: list[JobFields]


class WholeJobFields(JobFields):
    files: list[JobFileFields]


def at(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def job_fields(job: Job) -> dict[str, Any]:
    progress = job.progress
    return {
        "id": job.id,
        "base": job.base,
        "kind": job.kind,
        "state": job.state,
        "by": job.by,
        "sources": None if job.sources is None else list(job.sources),
        "created_at": at(job.created_at),
        "started_at": at(job.started_at),
        "finished_at": at(job.finished_at),
        "cancelling": job.cancel and job.state not in ENDED,
        "note": job.note,
        "error": {"type": job.error_type, "message": job.error} if job.error else None,
        "progress": {
            "total": progress.total,
            "done": progress.done,
            "current": progress.current,
            "chunks": progress.chunks,
            "counts": dict(progress.counts),
        },
    }


_WITHOUT_BODY = {status: said for status, said in ERRORS.items() if status not in (400, 408, 413, 502)}
router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])


@router.get("", response_model=JobsFields, responses=_WITHOUT_BODY, summary="What is being done and was done")
async def list_jobs(
    request: Request,
    caller: Reader,
    state: JobState | None = None,
    kb: Annotated[str | None, Query(description="Of this base alone.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Response:
    """Newest first, of the bases that the key opens."""
    service = service_of(request)
    total, jobs = await service.run(service.jobs.page, caller.sees, state, kb, limit, offset)
    return Json({"total": total, "jobs": [job_fields(job) for job in jobs]})


@router.get("/{job}", response_model=WholeJobFields, responses=_WITHOUT_BODY, summary="How far a job is, file by file")
async def show_job(job: str, request: Request, caller: Reader, limit: Limit = SHOWN, offset: Offset = 0) -> Response:
    """A file that was unchanged is only counted, unless it was named."""
    service = service_of(request)
    return Json(await service.run(_shown, service, job, caller, limit, offset))


def _shown(service: Service, number: str, caller: Caller, limit: int, offset: int) -> dict[str, Any]:
    job = _visible(service, number, caller)
    files = service.jobs.files(job.id, limit, offset)
    return {**job_fields(job), "files": [asdict(file) for file in files]}


def _visible(service: Service, number: str, caller: Caller) -> Job:
    job = service.jobs.get(number)
    if not caller.sees(job.base):  # whether there is one is not told either
        raise UnknownJob(f"there is no job {number}; one that ended long ago is forgotten")
    return job


@router.delete("/{job}", response_model=JobFields, responses=_WITHOUT_BODY, summary="Cancel a job")
async def cancel_job(job: str, request: Request, caller: Writer) -> Response:
    """One that runs stops behind the file it is at; what it has done stays. One that has ended stays as it is."""
    service = service_of(request)
    found = await service.run(_visible, service, job, caller)
    trace_of(request).base = found.base
    caller.check("admin" if found.kind == "rebuild" else "write", found.base)
    cancelled = await service.run(service.jobs.cancel, job)
    service.runner.wake()
    return Json(job_fields(cancelled))
