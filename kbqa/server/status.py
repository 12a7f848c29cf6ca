"""How the service is: what it is made of, and what `kbqa doctor` would find."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from kbqa import __version__
from kbqa.checks import examine_open
from kbqa.readers import SUFFIXES
from kbqa.server.auth import Caller, allow
from kbqa.server.errors import Forbidden
from kbqa.server.jobs import Reader
from kbqa.server.request import ERRORS, Json, service_of
from kbqa.server.service import Service

__all__ = ["router"]


class GeneratorFields(BaseModel):
    """`writes` false: it quotes, and cannot be talked to without documents."""

    kind: str
    name: str
    writes: bool


class CallerFields(BaseModel):
    """Whom the service takes you for, and what you may do: read, write or admin."""

    name: str
    scope: str


class UploadLimitFields(BaseModel):
    """What one upload may hold."""

    file_mb: int
    total_mb: int
    files: int
    suffixes: list[str]


class StatusFields(BaseModel):
    """`default` is the base that config.yaml names, null where the key does not open it."""

    version: str
    generator: GeneratorFields
    embedder: str
    default: str | None
    caller: CallerFields
    uploads: UploadLimitFields


class FindingFields(BaseModel):
    """`level`: ok, note (nothing asks for it), warn or fail. `detail` says in English what `code` and `values` tell."""

    level: str
    subject: str
    detail: str
    remedy: str
    code: str
    values: dict[str, str | int]


class FindingsFields(BaseModel):
    findings: list[FindingFields]
    failed: int
    warned: int


_WITHOUT_BODY = {status: said for status, said in ERRORS.items() if status not in (400, 404, 408, 413, 502)}
router = APIRouter(prefix="/api/v1", tags=["operation"])


@router.get("/status", response_model=StatusFields, responses=_WITHOUT_BODY, summary="What the service is made of")
async def show_status(request: Request, caller: Reader) -> Response:
    service = service_of(request)
    return Json(await service.run(_status, service, caller))


def _status(service: Service, caller: Caller) -> dict[str, Any]:
    config, installation = service.config, service.installation
    default = installation.config.knowledge.default
    kind, name = installation.config.generator.kind, service.generator.name
    return {
        "version": __version__,
        "generator": {"kind": kind, "name": name, "writes": service.writes},
        "embedder": installation.embedder.name,
        "default": default if caller.sees(default) else None,
        "caller": {"name": caller.name, "scope": caller.scope},
        "uploads": {
            "file_mb": config.max_upload_mb,
            "total_mb": config.max_upload_total_mb,
            "files": config.max_upload_files,
            "suffixes": sorted(SUFFIXES),
        },
    }


@router.get("/doctor", response_model=FindingsFields, responses=_WITHOUT_BODY, summary="What kbqa doctor finds")
async def show_findings(request: Request, caller: Annotated[Caller, Depends(allow("admin"))]) -> Response:
    """Of the whole installation, folders and all bases: a key for some bases alone does not open it."""
    if caller.bases is not None:
        raise Forbidden(f"the key {caller.name} opens some bases; this needs one that opens all")
    service = service_of(request)
    return Json(await service.run(_findings, service))


def _findings(service: Service) -> dict[str, Any]:
    found = list(examine_open(service.installation, lambda name: nullcontext(service.store(name))))
    levels = [finding.level for finding in found]
    return {
        "findings": [asdict(finding) for finding in found],
        "failed": levels.count("fail"),
        "warned": levels.count("warn"),
    }
