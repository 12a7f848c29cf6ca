"""Documents and bases over HTTP: what goes in, what is there, what goes out."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from kbqa.errors import ConfigError, DocumentError, KnowledgeBaseBusy, KnowledgeBaseError, UnknownKnowledgeBase
from kbqa.fields import document_fields
from kbqa.registry import Job
from kbqa.server.auth import Caller, allow
from kbqa.server.errors import Conflict, NotFound, NotStored, Unprocessable
from kbqa.server.jobs import JobFields, Limit, Offset, Reader, Writer, at, job_fields
from kbqa.server.native import WholeBaseFields
from kbqa.server.removal import no_document, remove
from kbqa.server.request import ERRORS, Error, ErrorFields, Json, Route, Text, service_of, trace_of
from kbqa.server.service import Service
from kbqa.server.uploads import HIDDEN, Limits, Received, Receiver, as_source, below, boundary_of, place, settle
from kbqa.store import StoredDocument

__all__ = ["file_of", "router"]

PIECE = 1 << 18  # bytes of a body that are written at once
PATIENCE = 15.0  # seconds in which jobs may end whose base is to be deleted

Admin = Annotated[Caller, Depends(allow("admin"))]


class RejectedFields(BaseModel):
    """`error_kind` is a word for the reason: name, hidden, unsupported, exists, twice, folder, link, disk."""

    name: str
    error: str
    error_kind: str


class NoneTakenFields(ErrorFields):
    rejected: list[RejectedFields]


class NoneTakenError(BaseModel):
    error: NoneTakenFields


class AcceptedFields(BaseModel):
    """`source` is what the document is called from now on."""

    name: str
    source: str


class UploadFields(BaseModel):
    """The accepted files are safe on disk; the job takes them in."""

    accepted: list[AcceptedFields]
    rejected: list[RejectedFields]
    job: JobFields


class DocumentFields(BaseModel):
    """`error` says why a document could not be taken in; `warnings` what is missing of one that was."""

    source: str
    title: str
    status: Literal["indexed", "failed"]
    origin: str
    reader: str
    chunks: int
    pages: int | None
    tables: int
    bytes: int
    error: str
    error_kind: str
    warnings: list[str]
    added_at: str
    updated_at: str
    seconds: float


class DocumentsFields(BaseModel):
    total: int
    documents: list[DocumentFields]


class WholeDocumentFields(DocumentFields):
    metadata: dict[str, Any]


class RemovedFields(BaseModel):
    """`removed` false: the base is being written, and the job removes it as soon as it can."""

    source: str
    removed: bool
    job: JobFields | None


class NewBase(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(examples=["制度"])


class DeletedFields(BaseModel):
    deleted: str
    files_deleted: bool


_WITHOUT_BODY = {status: said for status, said in ERRORS.items() if status not in (400, 408, 413, 502)}
_CONFLICT: dict[int | str, dict[str, Any]] = {409: {**ERRORS[400], "description": "It is there already."}}
_STUCK: dict[int | str, dict[str, Any]] = {409: {**ERRORS[400], "description": "The files cannot be removed."}}
_NONE_TAKEN: dict[int | str, dict[str, Any]] = {
    422: {"model": Error | NoneTakenError, "description": "A field is not as it should be, or no file was taken in."}
}
_FULL: dict[int | str, dict[str, Any]] = {507: {**ERRORS[400], "description": "The disk cannot take the files."}}
_SAID = {"text/plain": {"schema": {"type": "string"}}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"application/octet-stream": {"schema": {"format": "binary"}}}},
    206: {"description": "The part of the file that was asked for."},
    400: {"description": "The header Range names no part of a file.", "content": _SAID},
    416: {"description": "The file has no such part.", "content": _SAID},
}
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        }
    },
}

router = APIRouter(prefix="/api/v1/kb", tags=["documents"], route_class=Route)


# --- documents -------------------------------------------------------------------------------------------------------


@router.post(
    "/{kb}/documents",
    status_code=202,
    response_model=UploadFields,
    responses={**ERRORS, **_NONE_TAKEN, **_FULL},
    openapi_extra={"requestBody": _FORM},
    summary="Upload documents",
)
async def upload(
    kb: str,
    request: Request,
    caller: Writer,
    replace: Annotated[bool, Query(description="Take the place of other files of the same name.")] = False,
) -> Response:
    """A file whose name cannot be a document's is rejected alone; one that is too large rejects the request."""
    service, trace = service_of(request), trace_of(request)
    trace.base = kb
    boundary = boundary_of(request.headers.get("content-type", ""))
    kb, folder = await service.run(_folder, service, kb)
    await service.run(service.jobs.check_room)  # before the files are sent
    limits = Limits(service.config.max_upload_files, service.config.max_upload_mb * 2**20)
    receiver = await asyncio.to_thread(Receiver, folder, boundary, limits)
    try:
        async for piece in _pieces(request):
            await asyncio.to_thread(receiver.feed, piece)
        files = receiver.finish()
        placed, rejected = await asyncio.to_thread(_placed, files, folder, replace)
    finally:
        await asyncio.shield(asyncio.to_thread(receiver.close))
    sources = [source for _, source in placed]
    job = await service.run(service.runner.take_in, kb, caller.name, sources)
    await service.run(lambda: service.audit.write(trace, "upload", kb, "", documents=sources))
    accepted = [{"name": name, "source": source} for name, source in placed]
    return Json({"accepted": accepted, "rejected": rejected, "job": job_fields(job)}, 202)


async def _pieces(request: Request) -> Any:
    """The body in pieces that are worth a thread."""
    held = bytearray()
    async for bit in request.stream():
        held += bit
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _placed(files: list[Received], folder: Path, replace: bool) -> tuple[list[tuple[str, str]], list[dict[str, str]]]:
    """Name and source of those that are in `folder` now; the fields of those that are not. Unprocessable when that is
    all of them."""
    placed: dict[str, tuple[str, str]] = {}  # by the source, as a disk without capitals has it
    rejected: list[dict[str, str]] = []
    full: NotStored | None = None
    for file in files:
        try:
            source = as_source(file.name)
            if source.casefold() in placed:
                raise DocumentError(f"{file.name!r} comes twice in this request; the first one was taken", "twice")
            place(file, folder, source, replace)
            placed[source.casefold()] = file.name, source
        except DocumentError as error:
            rejected.append({"name": file.name, "error": str(error), "error_kind": error.kind})
        except NotStored as error:  # the others are in their places already, and must be told of
            rejected.append({"name": file.name, "error": str(error), "error_kind": "disk"})
            full = error
    if not placed and full:
        raise full
    if not placed:
        more = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        raise Unprocessable(f"no file was taken in: {rejected[0]['error']}{more}", {"rejected": rejected})
    settle(folder, [source for _, source in placed.values()])
    return list(placed.values()), rejected


@router.get(
    "/{kb}/documents", response_model=DocumentsFields, responses=_WITHOUT_BODY, summary="The documents of a base"
)
async def list_documents(
    kb: str,
    request: Request,
    caller: Reader,
    status: Literal["indexed", "failed"] | None = None,
    contains: Annotated[str, Query(description="Whose name has these characters in it.")] = "",
    limit: Limit = 100,
    offset: Offset = 0,
) -> Response:
    """By name. Files that no job has come to yet stand in the job that will."""
    service = service_of(request)
    trace_of(request).base = kb
    found = await service.run(lambda: service.store(kb).documents())
    chosen = [
        document
        for document in found
        if status in (None, document.status) and contains.casefold() in document.source.casefold()
    ]
    shown = [_document_fields(document) for document in chosen[offset : offset + limit]]
    return Json({"total": len(chosen), "documents": shown})


def _document_fields(document: StoredDocument) -> dict[str, Any]:
    return {**document_fields(document), "added_at": at(document.added_at), "seconds": round(document.seconds, 3)}


@router.get(
    "/{kb}/documents/{source:path}",
    response_model=WholeDocumentFields,
    responses=_WITHOUT_BODY,
    summary="What became of a document",
)
async def show_document(kb: str, source: str, request: Request, caller: Reader) -> Response:
    service = service_of(request)
    trace_of(request).base = kb
    document = await service.run(lambda: service.store(kb).document(source))
    if document is None:
        raise no_document(kb, source)
    return Json({**_document_fields(document), "metadata": dict(document.metadata)})


@router.get(
    "/{kb}/files/{source:path}",
    responses={**_WITHOUT_BODY, **_FILE},
    response_class=FileResponse,
    summary="A document's file",
)
async def download(kb: str, source: str, request: Request, caller: Reader) -> Response:
    """Always to be saved, never to be shown: what stands in a document must not act in the name of this service."""
    service = service_of(request)
    trace_of(request).base = kb
    path = await service.run(file_of, service, kb, source)
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename=path.name,
        content_disposition_type="attachment",
        headers={"Content-Security-Policy": "sandbox; default-src 'none'", "Cache-Control": "private, no-cache"},
    )


def file_of(service: Service, kb: str, source: str) -> Path:
    """Where it lies. NotFound."""
    kb, folder = _folder(service, kb)
    path = below(folder, source)
    if path is None or not path.is_file():
        raise NotFound(f"{kb} has no file {source!r}")
    return path


@router.delete(
    "/{kb}/documents/{source:path}",
    response_model=RemovedFields,
    responses={
        **_WITHOUT_BODY,
        **_STUCK,
        202: {"model": RemovedFields, "description": "A job will, as soon as the base can be written."},
    },
    summary="Remove a document and its file",
)
async def remove_document(kb: str, source: str, request: Request, caller: Writer) -> Response:
    service, trace = service_of(request), trace_of(request)
    trace.base = kb
    job = await service.run(_remove, service, kb, source, caller.name)
    await service.run(lambda: service.audit.write(trace, "remove", kb, "", documents=[source]))
    if job is None:
        return Json({"source": source, "removed": True, "job": None})
    service.runner.wake()
    return Json({"source": source, "removed": False, "job": job_fields(job)}, 202)


def _remove(service: Service, kb: str, source: str, who: str) -> Job | None:
    return remove(service, *_folder(service, kb), source, who)


# --- bases -----------------------------------------------------------------------------------------------------------


def _folder(service: Service, kb: str) -> tuple[str, Path]:
    """The base, built or not, under its checked name, and where its documents lie. UnknownKnowledgeBase."""
    installation = service.installation
    try:
        name = installation.name(kb)
    except ConfigError:
        raise UnknownKnowledgeBase(f"there is no knowledge base {kb!r}") from None
    if name not in installation.bases() and name not in installation.unbuilt():
        raise UnknownKnowledgeBase(f"there is no knowledge base {kb!r}")
    return name, installation.home.documents(name)


@router.post(
    "",
    status_code=201,
    response_model=WholeBaseFields,
    responses={**ERRORS, **_CONFLICT, **_FULL},
    summary="Create a base",
)
async def create_base(body: NewBase, request: Request, caller: Admin) -> Response:
    service, trace = service_of(request), trace_of(request)
    try:
        name = service.installation.name(body.name)
    except ConfigError as error:
        raise Unprocessable(f"name: {error}") from error
    caller.check("admin", name)
    trace.base = name
    await service.run(_create, service, name)
    await service.run(lambda: service.audit.write(trace, "create", name, ""))
    return Json(await service.run(service.show, name), 201)


def _create(service: Service, name: str) -> None:
    installation = service.installation
    if name in installation.bases():
        raise Conflict(f"there is a knowledge base {name} already")
    try:
        if name in installation.unbuilt() and any(installation.home.documents(name).iterdir()):
            raise Conflict(
                f"there is a folder {name} with documents already; POST /api/v1/kb/{name}/ingest takes them in"
            )
        installation.create(name)
    except KnowledgeBaseBusy:
        raise
    except KnowledgeBaseError as error:
        if name in installation.bases():  # somebody else made it in the same moment
            raise Conflict(f"there is a knowledge base {name} already") from error
        raise NotStored(f"{name} cannot be made: {error}") from error
    except OSError as error:
        raise NotStored(f"{name} cannot be made: {error.strerror or error}") from error


@router.delete("/{kb}", response_model=DeletedFields, responses={**_WITHOUT_BODY, **_STUCK}, summary="Delete a base")
async def delete_base(
    kb: str,
    request: Request,
    caller: Admin,
    files: Annotated[bool, Query(description="Delete the documents' files too.")] = False,
) -> Response:
    """Cancels its jobs. Without `files` the documents stay in knowledge/, from which it can be built again."""
    service, trace = service_of(request), trace_of(request)
    trace.base = kb
    name = await asyncio.to_thread(_delete, service, kb, files)
    await service.run(lambda: service.audit.write(trace, "delete", name, "", files=files))
    return Json({"deleted": name, "files_deleted": files})


def _delete(service: Service, kb: str, files: bool) -> str:
    name, folder = _folder(service, kb)
    service.jobs.cancel_all(name)
    service.runner.wake()
    until = time.monotonic() + PATIENCE
    while service.jobs.all(state="running", base=name) and time.monotonic() < until:  # it might make the base anew
        time.sleep(0.1)
    while name in service.installation.bases():
        try:
            service.forget(name)
            service.installation.delete(name)
        except KnowledgeBaseBusy:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    service.forget(name)  # somebody may have opened it in between
    if files and folder.is_symlink():
        folder.unlink()
    elif files and folder.is_dir():
        try:
            going = folder.rename(folder.with_name(f"{HIDDEN}{time.time_ns()}"))  # hidden: gone at once, or not
        except OSError as error:
            raise Conflict(f"{name} is deleted, but not its files: {error.strerror or error}") from error
        shutil.rmtree(going, ignore_errors=True)  # what is held open (Windows) goes with what dead uploads left
    return name


@router.post(
    "/{kb}/ingest", status_code=202, response_model=JobFields, responses=_WITHOUT_BODY, summary="Mirror the folder"
)
async def ingest(
    kb: str,
    request: Request,
    caller: Writer,
    allow_empty: Annotated[bool, Query(description="Even when the folder has lost all documents at once.")] = False,
) -> Response:
    """Takes in new and changed files of knowledge/{kb}/ and removes vanished ones, as `kbqa ingest` does."""
    return await _whole(kb, request, caller, "ingest", allow_empty)


@router.post(
    "/{kb}/rebuild", status_code=202, response_model=JobFields, responses=_WITHOUT_BODY, summary="Build a base anew"
)
async def rebuild(kb: str, request: Request, caller: Admin) -> Response:
    """Beside the old one, which answers until then, with the parts that config.yaml names now."""
    return await _whole(kb, request, caller, "rebuild", False)


async def _whole(
    kb: str, request: Request, caller: Caller, kind: Literal["ingest", "rebuild"], allow_empty: bool
) -> Response:
    service, trace = service_of(request), trace_of(request)
    trace.base = kb
    kb, _ = await service.run(_folder, service, kb)
    job = await service.run(service.jobs.add, kb, kind, caller.name, None, allow_empty)
    service.runner.wake()
    await service.run(lambda: service.audit.write(trace, kind, kb, ""))
    return Json(job_fields(job), 202)
