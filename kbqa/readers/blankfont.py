"""A font for PDFs that name a Chinese font without embedding it, on machines that have none.

Such files are common (reports made with "STSong-Light" or "SimSun"). PDFium knows their characters all the same, but
measures each glyph in the substitute font; where that lacks the glyph the box is empty, and text whose box is empty is
dropped: single characters, cells of a table, lines that are turned. The font made here has a square for every
character, which is all that measuring needs. Nothing is ever drawn with it that a reader looks at.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import Any

import pypdfium2 as pdfium  # type: ignore[import-untyped]

__all__ = ["blank_font", "install"]

_EAST_ASIAN = {128, 129, 134, 136}  # charsets as in Windows: Shift-JIS, Hangul, GB2312, Big5
_EM = 1000
_SIDE = 880  # of the square
_ASCENT, _DESCENT = 880, -120
_HANDLE = 0x6B627161  # any address that no real font has


def blank_font() -> bytes:
    """A TrueType font of two glyphs, nothing and a square; every character is shown by the square."""
    square = struct.pack(">5h", 1, 0, _DESCENT, _SIDE, _DESCENT + _SIDE)  # contours, box
    square += struct.pack(">HH4B", 3, 0, 1, 1, 1, 1)  # last point, no instructions, four points on the curve
    square += struct.pack(">4h", 0, _SIDE, 0, -_SIDE) + struct.pack(">4h", _DESCENT, 0, _SIDE, 0)
    square += b"\0" * (-len(square) % 4)
    # Format 13 maps a range of characters to one glyph (OpenType, "cmap").
    ranges = struct.pack(">HHIII3I", 13, 0, 28, 0, 1, 0x20, 0x10FFFF, 1)
    tables = {
        b"cmap": struct.pack(">HHHHI", 0, 1, 3, 10, 12) + ranges,
        b"glyf": square,
        b"head": struct.pack(
            ">IIIIHHqqhhhhHHhhh",
            *(0x10000, 0x10000, 0, 0x5F0F3CF5, 0, _EM, 0, 0),
            *(0, _DESCENT, _SIDE, _DESCENT + _SIDE, 0, 8, 2, 1, 0),
        ),
        b"hhea": struct.pack(">IhhhHhhhhhhhhhhhH", 0x10000, _ASCENT, _DESCENT, 0, _EM, *([0] * 11), 2),
        b"hmtx": struct.pack(">HhHh", _EM, 0, _EM, 0),
        b"loca": struct.pack(">III", 0, 0, len(square)),
        b"maxp": struct.pack(">IHHHHHHHHHHHHHH", 0x10000, 2, 4, 1, 0, 0, 1, *([0] * 8)),
        b"post": struct.pack(">IIhhIIIII", 0x30000, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    return _font_file(tables)


def _font_file(tables: dict[bytes, bytes]) -> bytes:
    directory = struct.pack(">IHHHH", 0x10000, len(tables), 128, 3, len(tables) * 16 - 128)
    at = len(directory) + 16 * len(tables)
    body = b""
    for name, table in sorted(tables.items()):
        padded = table + b"\0" * (-len(table) % 4)
        check = sum(struct.unpack(f">{len(padded) // 4}I", padded)) & 0xFFFFFFFF
        directory += name + struct.pack(">III", check, at + len(body), len(table))
        body += padded
    return directory + body


@cache
def install() -> None:
    """Lets PDFium use the font wherever the system has none; for this process, once."""

    class Fonts(pdfium.PdfSysfontBase):  # type: ignore[misc]
        def MapFont(self, _: Any, weight: int, italic: int, charset: int, *rest: Any) -> Any:  # noqa: N802
            found = self.default.MapFont(self.default, weight, italic, charset, *rest)
            return _HANDLE if not found and charset in _EAST_ASIAN else found

        def GetFontData(self, _: Any, font: Any, table: int, buffer: Any, size: int) -> int:  # noqa: N802
            if font != _HANDLE:
                return int(self.default.GetFontData(self.default, font, table, buffer, size))
            data = _BLANK if table == 0 else b""
            if buffer and size >= len(data):
                ctypes.memmove(buffer, data, len(data))
            return len(data)

        def GetFaceName(self, _: Any, font: Any, buffer: Any, size: int) -> int:  # noqa: N802
            return 0 if font == _HANDLE else int(self.default.GetFaceName(self.default, font, buffer, size))

        def GetFontCharset(self, _: Any, font: Any) -> int:  # noqa: N802
            return 134 if font == _HANDLE else int(self.default.GetFontCharset(self.default, font))

        def DeleteFont(self, _: Any, font: Any) -> None:  # noqa: N802
            if font != _HANDLE:
                self.default.DeleteFont(self.default, font)

    Fonts().setup()


_BLANK = blank_font()
