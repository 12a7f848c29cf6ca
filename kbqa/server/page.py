"""The page at /: static files, read once. Everything else it does through the API, like any other client.

Its policy lets nothing run but its own modules, and nothing come from elsewhere; text of documents and models can be
nothing but text in it, because a script that would make HTML of a string is stopped by the browser (trusted types).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from kbqa.server.errors import NotFound

__all__ = ["router"]

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
TYPES |= {".js": "text/javascript; charset=utf-8", ".webmanifest": "application/manifest+json"}
START = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Site:
    """`version` changes with any of the files; it is part of their addresses, so that a browser keeps them for ever."""

    version: str
    start: bytes
    files: Mapping[str, bytes]


@cache
def site() -> Site:
    found = {entry.name: entry.read_bytes() for entry in files("kbqa.server").joinpath("web").iterdir()}
    held = {name: found[name] for name in sorted(found) if _suffix(name) in TYPES}
    version = blake2b(b"".join(held.values()), digest_size=6).hexdigest()
    start = held.pop(START).replace(b"{web}", f"web/{version}".encode())
    return Site(version, start, held)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


@router.get("/")
@router.head("/")
async def start(request: Request) -> Response:
    tag = f'"{site().version}"'
    headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(site().start, headers=headers, media_type=TYPES[".html"])


@router.get("/web/{version}/{name}")
@router.head("/web/{version}/{name}")
async def part(version: str, name: str) -> Response:
    content = site().files.get(name)
    if content is None:
        raise NotFound("there is no such page")
    headers = {**HEADERS, "Cache-Control": FOR_EVER if version == site().version else "no-store"}
    return Response(content, headers=headers, media_type=TYPES[_suffix(name)])


@router.get("/favicon.ico")
async def icon() -> Response:
    return Response(site().files["icon.svg"], headers=HEADERS, media_type=TYPES[".svg"])
