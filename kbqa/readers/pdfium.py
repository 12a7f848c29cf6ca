"""What stands on a page of a PDF and where: glyphs, ruling lines, the share that pictures cover.

The one module that talks to PDFium's C functions. PDFium knows each glyph in the order of the content stream; what
is a line, a column or a table is for `layout` and `grid` to find out. Coordinates are points; x grows to the right
and y downwards, after the page has been turned so that its text stands upright.
"""

from __future__ import annotations

import ctypes
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as raw  # type: ignore[import-untyped]

from kbqa.readers.glyphs import Glyph, Style
from kbqa.readers.rulings import Ruling, merge_rulings

__all__ = ["PageContent", "page_content"]

_BOLD = re.compile(r"bold|heavy|black|demi|simhei|stheiti|黑体|heiti", re.IGNORECASE)
_FORCE_BOLD = 1 << 18  # font descriptor flag, PDF 32000-1 table 123
_FILL_AND_STROKE = 2  # text rendering mode by which word processors fake boldness
_MAX_PATHS = 20_000  # a page with more is a drawing, not a table
_MAX_GLYPHS = 400_000  # on one page; an honest one has a few thousand
_OUTSIDE = 2.0  # points beyond the page's border where text no longer belongs to it
_SKEW = 8.0  # degrees off the axes from which text counts as a watermark

# Ligatures and radicals that fonts map to code points of their own; read as the letters and characters they show.
_PLAIN = {
    code: unicodedata.normalize("NFKC", chr(code))
    for block in (range(0xFB00, 0xFB07), range(0x2F00, 0x2FD6))
    for code in block
} | {2: "-", 0xAD: "\xad"}  # PDFium reports a hyphen at the end of a line as U+0002

Sides = tuple[float, float, float, float]
Turn = int  # quarter turns counter-clockwise that the text makes in the page's own coordinates; -1 is askew


@dataclass(slots=True)
class PageContent:
    """`glyphs` by direction, the most frequent one first; `rulings` are turned as the first of them is.

    `askew` are those off the axes, such as watermarks, as they follow each other in the stream.
    """

    width: float = 0.0
    height: float = 0.0
    glyphs: list[list[Glyph]] = field(default_factory=list)
    askew: list[Glyph] = field(default_factory=list)
    rulings: list[Ruling] = field(default_factory=list)
    characters: int = 0  # that can be seen, of any kind
    garbage: int = 0  # of these: without a meaning outside their font
    picture_share: float = 0.0  # of the page's area, 1 when a scan fills it
    paths: int = 0


def page_content(page: pdfium.PdfPage) -> PageContent:
    content = PageContent()
    textpage = page.get_textpage()
    try:
        frame = _frame(page)
        by_turn = _glyphs(textpage.raw, frame, content)
    finally:
        textpage.close()
    if len(by_turn) > 1:  # a page that is turned by a few degrees as a whole is read like any other
        content.askew = by_turn.pop(-1, [])
    turns = sorted(by_turn, key=lambda turn: -len(by_turn[turn]))
    content.glyphs = [by_turn[turn] for turn in turns]
    main = turns[0] if turns else 0
    x0, top, x1, bottom = frame.sides(max(main, 0))
    content.width, content.height = x1 - x0, bottom - top
    _objects(page, max(main, 0), frame, content)
    return content


@dataclass(frozen=True, slots=True)
class _Frame:
    """The visible box of a page in PDF coordinates: points are given relative to its upper left corner."""

    left: float
    bottom: float
    right: float
    top: float

    def sides(self, turn: Turn) -> Sides:
        return _turned(self.left, self.bottom, self.right, self.top, turn)

    def turned(self, left: float, bottom: float, right: float, top: float, turn: Turn) -> Sides:
        """(x0, top, x1, bottom) of a box, y downwards, the page turned back by `turn` quarters."""
        dx, dy, _, _ = self.sides(turn)
        x0, upper, x1, lower = _turned(left, bottom, right, top, turn)
        return x0 - dx, upper - dy, x1 - dx, lower - dy


def _frame(page: pdfium.PdfPage) -> _Frame:
    box = raw.FS_RECTF()
    if not raw.FPDF_GetPageBoundingBox(page.raw, box):
        width, height = page.get_size()
        return _Frame(0.0, 0.0, width, height)
    return _Frame(box.left, box.bottom, box.right, box.top)


def _glyphs(textpage: Any, frame: _Frame, content: PageContent) -> dict[Turn, list[Glyph]]:
    """All glyphs by direction, in stream order; spaces are only marked on the glyph that follows them."""
    found: dict[Turn, list[Glyph]] = {}
    count = min(max(raw.FPDFText_CountChars(textpage), 0), _MAX_GLYPHS)
    unicode_of, box_of, object_of = raw.FPDFText_GetUnicode, raw.FPDFText_GetLooseCharBox, raw.FPDFText_GetTextObject
    box = raw.FS_RECTF()
    style, turn, last, fonts = Style(0.0, False), 0, 0, dict[int, bool]()
    styles: dict[Style, Style] = {}
    space, drawn, dx, dy, width, height = 0, 0, 0.0, 0.0, 0.0, 0.0
    for index in range(count):
        code = unicode_of(textpage, index)
        if code in (10, 13):  # PDFium's own idea of lines
            continue
        if code in (32, 9, 0xA0, 0x3000):
            space = max(space, 1 if code == 32 and raw.FPDFText_IsGenerated(textpage, index) else 2)
            continue
        content.characters += 1
        if _is_garbage(code):
            content.garbage += 1
            if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                continue
        owner = object_of(textpage, index)
        address = ctypes.addressof(owner.contents) if owner else -1
        if address != last:
            last = address
            style, turn = _style(textpage, index, owner, fonts)
            style = styles.setdefault(style, style)
            dx, dy, right, lower = frame.sides(turn)
            width, height = right - dx, lower - dy
        if not box_of(textpage, index, box):
            continue
        x0, top, x1, bottom = _turned(box.left, box.bottom, box.right, box.top, turn)
        x0, top, x1, bottom = x0 - dx, top - dy, x1 - dx, bottom - dy
        if x1 < -_OUTSIDE or x0 > width + _OUTSIDE or bottom < -_OUTSIDE or top > height + _OUTSIDE:
            continue  # beyond the visible page: crop marks, notes of the typesetter
        text = _PLAIN.get(code) or chr(code)
        glyphs = found.setdefault(turn, [])
        if address == drawn and not space and glyphs and glyphs[-1][1:5] == (x0, top, x1, bottom):
            glyphs[-1] = glyphs[-1]._replace(text=glyphs[-1].text + text)  # one glyph, two letters: a ligature
        else:
            glyphs.append(Glyph(text, x0, top, x1, bottom, style, index, space))
        drawn, space = address, 0
    return found


def _is_garbage(code: int) -> bool:
    """Codes that mean nothing outside the font: no mapping, replacement characters, private use, controls."""
    return code == 0xFFFD or code < 2 or 2 < code < 32 or 0xE000 <= code <= 0xF8FF or code >= 0xF0000 or code == 0xFFFE


def _style(textpage: Any, index: int, owner: Any, fonts: dict[int, bool]) -> tuple[Style, Turn]:
    matrix = raw.FS_MATRIX()
    size = raw.FPDFText_GetFontSize(textpage, index)
    if not raw.FPDFText_GetMatrix(textpage, index, matrix):
        return Style(size, False), 0
    scale = math.hypot(matrix.c, matrix.d)
    angle = math.degrees(math.atan2(matrix.b, matrix.a))
    if matrix.a * matrix.d - matrix.b * matrix.c < 0 and abs(angle) > 90:
        angle = 0.0  # mirrored, as in pages that flip the y axis twice
    quarter = round(angle / 90)
    turn = quarter % 4 if abs(angle - 90 * quarter) < _SKEW else -1
    bold = owner is not None and bool(owner) and _is_bold(owner, fonts)
    return Style(round(abs(size) * scale, 2), bold), turn


def _is_bold(owner: Any, fonts: dict[int, bool]) -> bool:
    if raw.FPDFTextObj_GetTextRenderMode(owner) == _FILL_AND_STROKE:
        return True
    font = raw.FPDFTextObj_GetFont(owner)
    if not font:
        return False
    address = ctypes.addressof(font.contents)
    if address not in fonts:
        name = ctypes.create_string_buffer(128)
        raw.FPDFFont_GetBaseFontName(font, name, 128)
        fonts[address] = bool(
            _BOLD.search(name.value.decode("utf-8", "replace"))
            or raw.FPDFFont_GetWeight(font) >= 600
            or raw.FPDFFont_GetFlags(font) & _FORCE_BOLD
        )
    return fonts[address]


def _turned(left: float, bottom: float, right: float, top: float, turn: Turn) -> Sides:
    """(x0, top, x1, bottom) with y downwards of a box in PDF coordinates, turned back by `turn` quarters."""
    match turn:
        case 1:
            return bottom, left, top, right
        case 2:
            return -right, bottom, -left, top
        case 3:
            return -top, -right, -bottom, -left
        case _:
            return left, -top, right, -bottom


def _objects(page: pdfium.PdfPage, turn: Turn, frame: _Frame, content: PageContent) -> None:
    """Adds the ruling lines and the share of pictures; looks into form objects too."""
    area = max(content.width * content.height, 1.0)
    rulings: list[Ruling] = []
    for kind, item in _walk(page):
        if kind == raw.FPDF_PAGEOBJ_PATH:
            content.paths += 1
            if content.paths <= _MAX_PATHS:
                rulings += _path_rulings(item, turn, frame)
        elif kind == raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = _bounds(item)
            content.picture_share += max(0.0, right - left) * max(0.0, top - bottom) / area
    if content.paths <= _MAX_PATHS:
        content.rulings = merge_rulings(rulings)


def _walk(page: pdfium.PdfPage) -> Iterator[tuple[int, Any]]:
    """(type, object) of each page object. Forms are taken by their own coordinates' bounds: see `_bounds`."""
    for index in range(raw.FPDFPage_CountObjects(page.raw)):
        item = raw.FPDFPage_GetObject(page.raw, index)
        kind = raw.FPDFPageObj_GetType(item)
        yield kind, item
        if kind == raw.FPDF_PAGEOBJ_FORM:
            matrix = raw.FS_MATRIX()
            raw.FPDFPageObj_GetMatrix(item, matrix)
            if (matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f) == (1.0, 0.0, 0.0, 1.0, 0.0, 0.0):
                for inner in range(max(raw.FPDFFormObj_CountObjects(item), 0)):
                    child = raw.FPDFFormObj_GetObject(item, inner)
                    yield raw.FPDFPageObj_GetType(child), child
            else:
                yield from _pictures_of_form(item)


def _pictures_of_form(form: Any) -> Iterator[tuple[int, Any]]:
    """A scaled form that holds a picture counts as one: scanners wrap their pages so."""
    for inner in range(max(raw.FPDFFormObj_CountObjects(form), 0)):
        if raw.FPDFPageObj_GetType(raw.FPDFFormObj_GetObject(form, inner)) == raw.FPDF_PAGEOBJ_IMAGE:
            yield raw.FPDF_PAGEOBJ_IMAGE, form
            return


def _bounds(item: Any) -> Sides:
    """(left, bottom, right, top)"""
    values = [ctypes.c_float() for _ in range(4)]
    if not raw.FPDFPageObj_GetBounds(item, *values):
        return 0.0, 0.0, 0.0, 0.0
    return values[0].value, values[1].value, values[2].value, values[3].value


def _path_rulings(item: Any, turn: Turn, frame: _Frame) -> Iterator[Ruling]:
    """Straight lines along the axes: thin shapes, the sides of stroked rectangles, grids in one path."""
    count = raw.FPDFPath_CountSegments(item)
    x0, top, x1, bottom = frame.turned(*_bounds(item), turn)
    if x1 - x0 < 3 and bottom - top < 3:
        return
    if bottom - top < 3 or x1 - x0 < 3:  # a line, or a filled rectangle as thin as one
        yield Ruling.of(x0, top, x1, bottom)
        return
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    raw.FPDFPath_GetDrawMode(item, fill, stroke)
    if not stroke.value:
        return
    if 4 <= count <= 6:
        yield Ruling.of(x0, top, x1, top)
        yield Ruling.of(x0, bottom, x1, bottom)
        yield Ruling.of(x0, top, x0, bottom)
        yield Ruling.of(x1, top, x1, bottom)
        return
    yield from _segments(item, min(count, _MAX_PATHS), turn, frame)


def _segments(item: Any, count: int, turn: Turn, frame: _Frame) -> Iterator[Ruling]:
    matrix = raw.FS_MATRIX()
    raw.FPDFPageObj_GetMatrix(item, matrix)
    px, py = ctypes.c_float(), ctypes.c_float()
    last: tuple[float, float] | None = None
    for index in range(count):
        segment = raw.FPDFPath_GetPathSegment(item, index)
        raw.FPDFPathSegment_GetPoint(segment, px, py)
        x = matrix.a * px.value + matrix.c * py.value + matrix.e
        y = matrix.b * px.value + matrix.d * py.value + matrix.f
        kind = raw.FPDFPathSegment_GetType(segment)
        if kind == raw.FPDF_SEGMENT_LINETO and last and (abs(x - last[0]) < 0.5) != (abs(y - last[1]) < 0.5):
            sides = min(x, last[0]), min(y, last[1]), max(x, last[0]), max(y, last[1])
            yield Ruling.of(*frame.turned(*sides, turn))
        last = (x, y)
