"""Word 97-2003 documents (.doc), from the binary format itself (MS-DOC).

Own code, because what is at hand fails on Chinese: kreuzberg 4.10 gives mojibake for text kept in UTF-16, and
LibreOffice is rarely installed on a server. The text lies in pieces, listed in a table; which paragraphs are
headings is told by their style.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, heading_block, text_block
from kbqa.readers.grid import table_blocks
from kbqa.readers.ole import streams
from kbqa.readers.text import drop_bare_headings, heading_level
from kbqa.types import Block

__all__ = ["read_doc"]

_FIELD = re.compile("\x13[^\x13\x14\x15]*(?:\x14([^\x13\x15]*))?\x15")  # instruction, result
_OBJECTS = re.compile("[\x01\x02\x03\x04\x05\x08\x1f]")
_CELL_END = "\x07"
_IN_TABLE, _ENDS_ROW = b"\x16\x24\x01", b"\x17\x24\x01"  # sprmPFInTable and sprmPFTtp, switched on
_OUTLINE = b"\x40\x26"  # sprmPOutLvl
_MAX_TITLE = 60
_FKP = 512  # bytes of a page of paragraph formats


def read_doc(data: bytes, options: ReadOptions) -> Content:
    parts = streams(data)
    main = parts.get("WordDocument", b"")
    if len(main) < 0x200 or struct.unpack_from("<H", main)[0] not in (0xA5EC, 0xA5DC):
        raise DocumentError("is damaged, or older than Word 97: save it as .docx", kind="corrupt")
    flags = struct.unpack_from("<H", main, 0x0A)[0]
    if flags & 0x0100:
        raise DocumentError("is protected by a password; save a copy without one", kind="encrypted")
    table = parts.get("1Table" if flags & 0x0200 else "0Table", b"")
    try:
        pieces = list(_pieces(main, table))
        formats = _Formats(main, table)
    except (struct.error, IndexError) as error:
        raise DocumentError("is damaged: its text cannot be located", kind="corrupt") from error
    blocks = list(_blocks(pieces, formats))
    if not any(block.kind == "heading" for block in blocks):
        blocks = list(drop_bare_headings([_guessed(block) for block in blocks]))
    first = next((block for block in blocks if block.text.strip()), None)
    title = first.text if first and "\n" not in first.text and len(first.text) <= _MAX_TITLE else ""
    return Content(title=title if title and title[-1] not in "。；，：" else "", blocks=tuple(blocks))


class _Piece:
    """A run of text and where its bytes lie: `offset` into the WordDocument stream, `width` bytes a character."""

    def __init__(self, text: str, offset: int, width: int) -> None:
        self.text, self.offset, self.width = text, offset, width


def _pieces(main: bytes, table: bytes) -> Iterator[_Piece]:
    """The main text, its footnotes, headers and comments left out: they follow it in the same table."""
    characters = struct.unpack_from("<I", main, 0x4C)[0]
    start, length = struct.unpack_from("<II", main, 0x01A2)
    formats = table[start : start + length]
    at = 0
    while at < len(formats) and formats[at] == 1:  # property changes come first
        at += 3 + struct.unpack_from("<H", formats, at + 1)[0]
    if at >= len(formats) or formats[at] != 2:
        raise IndexError("no piece table")
    size = struct.unpack_from("<I", formats, at + 1)[0]
    plc = formats[at + 5 : at + 5 + size]
    count = (len(plc) - 4) // 12
    positions = struct.unpack_from(f"<{count + 1}I", plc)
    for index in range(count):
        begin, end = positions[index], min(positions[index + 1], characters)
        if begin >= end:
            continue
        place = struct.unpack_from("<I", plc, 4 * (count + 1) + 8 * index + 2)[0]
        if place & 0x40000000:
            offset = (place & 0x3FFFFFFF) // 2
            yield _Piece(main[offset : offset + end - begin].decode("cp1252", "replace"), offset, 1)
        else:
            yield _Piece(main[place : place + 2 * (end - begin)].decode("utf-16-le", "replace"), place, 2)


class _Format(NamedTuple):
    """What the format of a paragraph tells: its heading level (0: none), and its place in a table."""

    level: int = 0
    in_table: bool = False
    ends_row: bool = False


class _Formats:
    """The format of a paragraph by the byte where it ends; _Format() where that cannot be told."""

    def __init__(self, main: bytes, table: bytes) -> None:
        self._levels = _style_levels(main, table)
        self._starts: list[int] = []
        self._formats: list[_Format] = []
        start, length = struct.unpack_from("<II", main, 0x0102)  # PlcfBtePapx: pages of paragraph formats
        plc = table[start : start + length]
        count = max(0, (len(plc) - 4) // 8)
        for number in struct.unpack_from(f"<{count}I", plc, 4 * (count + 1)) if count else ():
            page = main[(number & 0x3FFFFF) * _FKP :][:_FKP]
            if len(page) == _FKP:
                self._read_page(page)

    def _read_page(self, page: bytes) -> None:
        runs = page[511]
        if 4 * (runs + 1) + 13 * runs > 511:
            return
        bounds = struct.unpack_from(f"<{runs + 1}I", page)
        for index in range(runs):
            at = 2 * page[4 * (runs + 1) + 13 * index]
            found = _Format()
            if 0 < at < _FKP - 4:
                begin, length = (at + 1, 2 * page[at] - 1) if page[at] else (at + 2, 2 * page[at + 1])
                changes = page[begin + 2 : begin + length]
                level = _outline_level(changes) or self._levels.get(struct.unpack_from("<H", page, begin)[0], 0)
                found = _Format(level, _IN_TABLE in changes, _ENDS_ROW in changes)
            self._starts.append(bounds[index])
            self._formats.append(found)

    def at(self, offset: int) -> _Format:
        index = bisect_right(self._starts, offset) - 1
        return self._formats[index] if index >= 0 else _Format()


def _style_levels(main: bytes, table: bytes) -> dict[int, int]:
    """The style sheet: which style indexes are headings. Word's own heading styles have the fixed ids 1 to 9."""
    start, length = struct.unpack_from("<II", main, 0x00A2)
    sheet = table[start : start + length]
    if len(sheet) < 20:
        return {}
    header = struct.unpack_from("<H", sheet)[0]
    count = struct.unpack_from("<H", sheet, 2)[0]
    levels: dict[int, int] = {}
    bases: dict[int, int] = {}
    at = 2 + header
    for index in range(count):
        if at + 2 > len(sheet):
            break
        size = struct.unpack_from("<H", sheet, at)[0]
        if size >= 6:
            identity, base = struct.unpack_from("<HH", sheet, at + 2)
            if 1 <= identity & 0x0FFF <= 9:
                levels[index] = identity & 0x0FFF
            elif own := _outline_level(sheet[at + 12 : at + 2 + size]):
                levels[index] = own
            bases[index] = base >> 4
        at += 2 + size + (size & 1)
    for index, base in bases.items():
        if index not in levels and base in levels:
            levels[index] = levels[base]
    return levels


def _outline_level(changes: bytes) -> int:
    """The outline level that a list of format changes sets; 0 for body text."""
    at = changes.find(_OUTLINE)
    return changes[at + 2] + 1 if at >= 0 and len(changes) > at + 2 and changes[at + 2] < 9 else 0


def _blocks(pieces: Sequence[_Piece], formats: _Formats) -> Iterator[Block]:
    table = _Table()
    for text, offset, ends_cell in _paragraphs(pieces):
        format, plain = formats.at(offset), _plain(text)
        if ends_cell or format.in_table:
            table.add(plain, ends_cell, format.ends_row)
            continue
        yield from table.blocks()
        table = _Table()
        if plain:
            is_heading = format.level and len(plain) <= 200
            yield heading_block(plain, format.level) if is_heading else text_block(plain)
    yield from table.blocks()


def _paragraphs(pieces: Sequence[_Piece]) -> Iterator[tuple[str, int, bool]]:
    """Text, the byte where it ends, and whether it ends a table's cell. A paragraph may run over several pieces."""
    parts: list[str] = []
    for piece in pieces:
        begin = 0
        for match in re.finditer("[\r\x07\x0c]", piece.text):
            parts.append(piece.text[begin : match.start()])
            yield "".join(parts), piece.offset + match.start() * piece.width, match.group() == _CELL_END
            parts, begin = [], match.end()
        parts.append(piece.text[begin:])
    yield "".join(parts), 0, False


class _Table:
    """Gathers the cells of one table. Each row closes with a mark of its own that looks like an empty cell."""

    def __init__(self) -> None:
        self.paragraphs: list[str] = []
        self.cells: list[str] = []  # of the row at hand; of the whole table where row ends are not marked
        self.rows: list[list[str]] = []

    def add(self, text: str, ends_cell: bool, ends_row: bool) -> None:
        if ends_row:
            self.rows.append(self.cells)
            self.cells = []
        elif ends_cell:
            self.cells.append(" ".join(filter(None, [*self.paragraphs, text])))
            self.paragraphs = []
        else:
            self.paragraphs.append(text)

    def blocks(self) -> Iterator[Block]:
        yield from table_blocks([*self.rows, *_by_width(self.cells)])


def _by_width(cells: list[str]) -> list[list[str]]:
    """Rows by guess: the fewest columns for which an empty cell follows every row are the columns."""
    for width in range(1, len(cells)):
        if len(cells) % (width + 1) == 0 and not any(cells[width :: width + 1]):
            return [cells[at : at + width] for at in range(0, len(cells), width + 1)]
    return [cells] if cells else []


def _plain(text: str) -> str:
    """Field instructions out, their results in; \\x0b is a line break, \\x1e a hyphen."""
    while (shorter := _FIELD.sub(lambda match: match.group(1) or "", text)) != text:
        text = shorter
    text = _OBJECTS.sub("", text).replace("\x0b", "\n").replace("\x1e", "-").replace("\xa0", " ")
    return re.sub("[\x13\x14\x15]", "", text).strip()


def _guessed(block: Block) -> Block:
    level = heading_level(block.text) if block.kind == "text" and "\n" not in block.text else 0
    return heading_block(block.text, level) if level else block
