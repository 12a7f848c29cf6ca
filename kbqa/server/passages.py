"""Where a citation comes from: the passage in its surroundings, and the page that it stands on as a picture."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from kbqa.errors import DocumentError
from kbqa.sandbox import render_page
from kbqa.server.documents import file_of
from kbqa.server.errors import NotFound, Unprocessable
from kbqa.server.jobs import Reader
from kbqa.server.removal import no_document
from kbqa.server.request import ERRORS, Json, service_of, trace_of
from kbqa.server.service import Service
from kbqa.types import Chunk

__all__ = ["router"]

AROUND = 600  # characters on either side
LONGEST = 20_000  # characters of a passage

_SENTENCE_END = re.compile(r"[。！？!?\n]|\.\s")

At = Annotated[int, Query(ge=0, le=10**9)]


class PartFields(BaseModel):
    """`heading` and `page` are those of the part's beginning."""

    text: str
    cited: bool
    heading: str
    page: int | None


class PassageFields(BaseModel):
    """`parts` in reading order; `more_before` and `more_after`: the document goes on there."""

    source: str
    title: str
    parts: list[PartFields]
    more_before: bool
    more_after: bool


_WITHOUT_BODY = {status: said for status, said in ERRORS.items() if status not in (400, 408, 413, 502)}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The page.", "content": {"image/png": {"schema": {"format": "binary"}}}}
}

router = APIRouter(prefix="/api/v1/kb", tags=["documents"])


@router.get(
    "/{kb}/passages/{source:path}",
    response_model=PassageFields,
    responses=_WITHOUT_BODY,
    summary="A passage in its surroundings",
)
async def show_passage(
    kb: str,
    source: str,
    request: Request,
    caller: Reader,
    start: At,
    end: At,
    around: Annotated[int, Query(ge=0, le=5000, description="So many characters on either side.")] = AROUND,
) -> Response:
    """`start` and `end` are the span of a citation. Its quote is the text of the cited parts, as long as the document
    is the one that was cited."""
    service = service_of(request)
    trace_of(request).base = kb
    if not start < end <= start + LONGEST:
        raise Unprocessable(f"end: it must be above start, by at most {LONGEST}")
    return Json(await service.run(_passage, service, kb, source, (start, end), around))


def _passage(service: Service, kb: str, source: str, span: tuple[int, int], around: int) -> dict[str, Any]:
    store = service.store(kb)
    document = store.document(source)
    if document is None:
        raise no_document(kb, source)
    start, end = span
    chunks = store.reaching(source, max(0, start - around), end + around)
    if not any(chunk.span[0] < end and chunk.span[1] > start for chunk in chunks):
        raise NotFound(f"{source} has no such passage any more; it has changed since it was cited")
    window = _window(chunks, span, around)
    return {
        "source": source,
        "title": document.title,
        "parts": list(_parts(chunks, span, window)),
        "more_before": window[0] > chunks[0].span[0] or chunks[0].ordinal > 0,
        "more_after": window[1] < chunks[-1].span[1] or chunks[-1].ordinal + 1 < document.chunks,
    }


def _window(chunks: Sequence[Chunk], span: tuple[int, int], around: int) -> tuple[int, int]:
    """What is shown: about `around` characters on either side, from the beginning of a sentence to the end of one."""
    start, end = span
    first, last = max(0, start - around), end + around
    for chunk in chunks:
        low, high = chunk.span
        if low < first < high and (found := _SENTENCE_END.search(chunk.text, first - low, max(0, start - low))):
            first = low + found.end()
        if low < last < high and (ends := list(_SENTENCE_END.finditer(chunk.text, max(0, end - low), last - low))):
            last = low + ends[-1].end()
    return first, last


def _parts(chunks: Sequence[Chunk], span: tuple[int, int], window: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """What stands between chunks is white space, and headings, which are told with the parts below them."""
    told = window[0]
    for chunk in chunks:
        low, high = chunk.span
        if chunk is chunks[0] and chunk.preface:
            yield _part(chunk, low, f"{chunk.preface}\n", cited=False)
        if low > told and chunk is not chunks[0]:
            yield _part(chunk, low, "\n", cited=False)
        for cited, (start, end) in _cuts(max(low, told), min(high, window[1]), span):
            yield _part(chunk, start, chunk.text[start - low : end - low], cited)
        told = max(told, min(high, window[1]))


def _cuts(start: int, end: int, span: tuple[int, int]) -> Iterator[tuple[bool, tuple[int, int]]]:
    """What of `start` to `end` lies before the passage, in it and behind it; nothing that is empty."""
    before, inside = min(max(span[0], start), end), min(max(span[1], start), end)
    for cited, first, last in ((False, start, before), (True, before, inside), (False, inside, end)):
        if first < last:
            yield cited, (first, last)


def _part(chunk: Chunk, at: int, text: str, cited: bool) -> dict[str, Any]:
    return {"text": text, "cited": cited, "heading": chunk.heading, "page": chunk.page_at(at)}


@router.get(
    "/{kb}/pages/{source:path}",
    responses={**_WITHOUT_BODY, **_PICTURE},
    response_class=Response,
    summary="A page of a PDF as a picture",
)
async def show_page(
    kb: str,
    source: str,
    request: Request,
    caller: Reader,
    page: Annotated[int, Query(ge=1, le=1_000_000)],
    start: At = 0,
    end: At = 0,
    width: Annotated[int, Query(ge=100, le=2000, description="In pixels.")] = 1000,
) -> Response:
    """With a passage marked on it, where `start` and `end` say which."""
    service = service_of(request)
    trace_of(request).base = kb
    path, quote = await service.run(_to_draw, service, kb, source, (start, min(end, start + LONGEST)))
    async with service.drawing:
        try:
            picture = await asyncio.to_thread(render_page, path, page, quote, width)
        except DocumentError as error:
            raise (NotFound if error.kind == "unreadable" else Unprocessable)(str(error)) from error
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=300"})


def _to_draw(service: Service, kb: str, source: str, span: tuple[int, int]) -> tuple[Path, str]:
    """The file, and the text of the passage, "" if there is none."""
    path = file_of(service, kb, source)
    if path.suffix.lower() != ".pdf":
        raise Unprocessable(f"{source} is no PDF; only its pages can be shown")
    if not span[0] < span[1]:
        return path, ""
    chunks = service.store(kb).reaching(source, *span)
    return path, "".join(part["text"] for part in _parts(chunks, span, span) if part["cited"] or part["text"] == "\n")
