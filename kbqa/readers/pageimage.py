"""One page of a PDF as a picture, with a passage marked on it.

The passage is text as the reader made it: spaces, line breaks and the bars between cells are not on the page. So both
are compared by letters and digits alone, and where that finds nothing, line by line and cell by cell.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as raw  # type: ignore[import-untyped]

from kbqa.errors import DocumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # (height, width, 3)

__all__ = ["page_png"]

MARK = np.array([255, 226, 120], np.uint16)  # what is marked is seen through glass of this colour
_MAX_PIXELS = 12_000_000
_MAX_GLYPHS = 100_000
_SHORTEST = 2  # letters of a cell: one alone stands everywhere
_BORDERS = re.compile(r"[\n|。！？；]")

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def page_png(path: Path, number: int, passage: str, width: int) -> bytes:
    """Page `number`, counted from 1, `width` pixels wide. DocumentError: encrypted, corrupt, unreadable (no such page).

    A passage that is not found on the page is not marked.
    """
    pdf = _open(path)
    try:
        if not 1 <= number <= len(pdf):
            raise DocumentError(f"there is no page {number}: the file has {len(pdf)}", "unreadable")
        page = pdf[number - 1]
        pixels = _painted(page, width)
        for box in _boxes(page, passage, pixels.shape[1], pixels.shape[0]):
            _mark(pixels, box)
        return _png(pixels)
    except pdfium.PdfiumError as error:
        raise DocumentError(f"page {number} cannot be shown: {error}", "corrupt") from error
    finally:
        pdf.close()


def _open(path: Path) -> Any:
    try:
        return pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            raise DocumentError("is protected by a password", "encrypted") from error
        raise DocumentError(f"cannot be opened: {error}", "corrupt") from error


def _painted(page: Any, width: int) -> Pixels:
    across, down = page.get_size()
    scale = min(width / max(across, 1.0), (_MAX_PIXELS / max(across * down, 1.0)) ** 0.5)
    bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
    found: Pixels = np.array(bitmap.to_numpy())
    if found.ndim == 2:  # a page in grey
        found = found[:, :, None]
    return np.ascontiguousarray(found[:, :, :3] if found.shape[2] >= 3 else np.repeat(found[:, :, :1], 3, axis=2))


# --- where the passage stands -----------------------------------------------------------------------------------------


def _boxes(page: Any, passage: str, width: int, height: int) -> Iterator[Box]:
    """One for each line, or part of one."""
    textpage = page.get_textpage()
    try:
        letters, glyphs = _letters(textpage)
        for first, last in _places(letters, passage):
            yield from _lines(page, textpage, glyphs[first:last], width, height)
    finally:
        textpage.close()


def _letters(textpage: Any) -> tuple[str, list[int]]:
    """The letters and digits of the page, and which glyph each belongs to."""
    letters: list[str] = []
    glyphs: list[int] = []
    for index in range(min(textpage.count_chars(), _MAX_GLYPHS)):
        code = raw.FPDFText_GetUnicode(textpage.raw, index)
        if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000:
            for letter in _plain(chr(code)):
                letters.append(letter)
                glyphs.append(index)
    return "".join(letters), glyphs


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).lower()))


def _places(letters: str, passage: str) -> Iterator[tuple[int, int]]:
    whole = _plain(passage)
    if whole and (at := letters.find(whole)) >= 0:
        yield at, at + len(whole)
        return
    reached = 0
    for part in map(_plain, _BORDERS.split(passage)):
        at = letters.find(part, reached)
        if at < 0:
            at = letters.find(part)
        if len(part) >= _SHORTEST and at >= 0:
            reached = at + len(part)
            yield at, reached


def _lines(page: Any, textpage: Any, glyphs: list[int], width: int, height: int) -> Iterator[Box]:
    line: Box | None = None
    for index in dict.fromkeys(glyphs):
        box = _on_picture(page, textpage.get_charbox(index, loose=True), width, height)
        if line and _goes_on(line, box):
            line = min(box[0], line[0]), min(box[1], line[1]), max(box[2], line[2]), max(box[3], line[3])
        else:
            if line:
                yield line
            line = box
    if line:
        yield line


def _goes_on(line: Box, glyph: Box) -> bool:
    """Whether the glyph stands on the line, at most the width of a broad space behind it."""
    left, top, _, bottom = glyph
    return min(bottom, line[3]) - max(top, line[1]) > (bottom - top) / 2 and left <= line[2] + 1.5 * (bottom - top)


def _on_picture(page: Any, corners: tuple[float, float, float, float], width: int, height: int) -> Box:
    """PDFium knows how the page is turned and cut."""
    points = []
    for x, y in (corners[:2], corners[2:]):
        across, down = raw.c_int(), raw.c_int()
        raw.FPDF_PageToDevice(page.raw, 0, 0, width, height, 0, x, y, across, down)
        points.append((across.value, down.value))
    (x0, y0), (x1, y1) = points
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _mark(pixels: Pixels, box: Box) -> None:
    height, width = pixels.shape[:2]
    left, right = (min(max(value, 0), width) for value in (box[0] - 1, box[2] + 1))
    top, bottom = (min(max(value, 0), height) for value in (box[1] - 1, box[3] + 1))
    part = pixels[top:bottom, left:right]
    part[:] = (part * MARK // 255).astype(np.uint8)


def _png(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
