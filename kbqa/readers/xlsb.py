"""Binary Excel workbooks (MS-XLSB): sheets of cells out of records of bytes.

calamine takes whole numbers for numbers even where they are dates, and passes over short records and merged cells.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kbqa.errors import DocumentError
from kbqa.readers.markup import relations
from kbqa.readers.numberformat import BUILT_IN, PLAIN, NumberFormat, cell_text, parse_format
from kbqa.readers.sheets import Range, Sheet, laid_out, note

__all__ = ["sheets_of"]

_WORKBOOK = "xl/workbook.bin"
_MAX_ROW, _MAX_COLUMN = 1 << 20, 1 << 14


class _Record:
    """Types of records; F_ are results of formulas."""

    ROW, BLANK, RK, ERROR, BOOL, REAL, STRING, SHARED, F_STRING, F_REAL, F_BOOL = range(11)
    SHORT_BLANK, SHORT_SHARED = 12, 18  # without the column: right of the cell before; the others stand between
    SHARED_ITEM, FORMAT, STYLE, RICH_STRING = 19, 44, 47, 62
    PROPERTIES, SHEET, MERGED, BEGIN_STYLES, END_STYLES, COMMENT, COMMENT_TEXT = 153, 156, 176, 617, 618, 635, 637


class _Shared(NamedTuple):
    """What the sheets of a workbook share."""

    strings: Sequence[str]
    formats: Sequence[NumberFormat]
    since_1904: bool


def sheets_of(container: zipfile.ZipFile) -> Iterator[Sheet]:
    """Every sheet of cells, hidden ones too. Raises DocumentError: corrupt, too-large."""
    try:
        yield from _sheets(container)
    except (struct.error, IndexError, KeyError) as error:
        raise DocumentError("is damaged: its records cannot be read", kind="corrupt") from error


def _sheets(container: zipfile.ZipFile) -> Iterator[Sheet]:
    parts = relations(container, _WORKBOOK)
    found: list[tuple[str, str]] = []
    since_1904 = False
    for kind, data in _records(container.read(_WORKBOOK)):
        if kind == _Record.PROPERTIES:
            since_1904 = bool(data[0] & 1)
        elif kind == _Record.SHEET:
            part, end = _text(data, 8)
            found.append((_text(data, end)[0], part))
    shared = _Shared(_strings(container), _formats(container), since_1904)
    for title, part in found:
        if part in parts and parts[part].kind == "worksheet":
            member = parts[part].target
            yield _sheet(title, container.read(member), shared, list(_notes(container, member)))


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each record. Both numbers in front are written with seven bits a byte."""
    at = 0
    while at < len(data):
        kind, at = data[at], at + 1
        if kind & 0x80:
            kind, at = (kind & 0x7F) | (data[at] << 7), at + 1
        size = 0
        for shift in (0, 7, 14, 21):
            byte, at = data[at], at + 1
            size |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
        yield kind, data[at : at + size]
        at += size


def _text(data: bytes, at: int) -> tuple[str, int]:
    """The text at `at` and where it ends; a missing one is written as -1."""
    count = struct.unpack_from("<i", data, at)[0]
    if count < 0:
        return "", at + 4
    if at + 4 + 2 * count > len(data):
        raise IndexError
    return data[at + 4 : at + 4 + 2 * count].decode("utf-16-le", "replace"), at + 4 + 2 * count


def _strings(container: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.bin" not in container.namelist():
        return []
    return [
        _text(data, 1)[0]
        for kind, data in _records(container.read("xl/sharedStrings.bin"))
        if kind == _Record.SHARED_ITEM
    ]


def _formats(container: zipfile.ZipFile) -> list[NumberFormat]:
    """The number format of each cell style, by the style's number."""
    if "xl/styles.bin" not in container.namelist():
        return []
    known = dict(BUILT_IN)
    found: list[NumberFormat] = []
    in_cells = False
    for kind, data in _records(container.read("xl/styles.bin")):
        if kind == _Record.FORMAT:
            known[struct.unpack_from("<H", data)[0]] = parse_format(_text(data, 2)[0])
        elif kind in (_Record.BEGIN_STYLES, _Record.END_STYLES):
            in_cells = kind == _Record.BEGIN_STYLES
        elif kind == _Record.STYLE and in_cells:
            found.append(known.get(struct.unpack_from("<H", data, 2)[0], PLAIN))
    return found


def _sheet(title: str, data: bytes, shared: _Shared, notes: Sequence[str]) -> Sheet:
    cells: dict[tuple[int, int], str] = {}
    merged: list[Range] = []
    row, column = 0, -1
    for kind, record in _records(data):
        if kind == _Record.ROW:
            row, column = struct.unpack_from("<I", record)[0], -1
            if row >= _MAX_ROW:
                raise DocumentError("is damaged: its rows are numbered beyond any sheet", kind="corrupt")
        elif _Record.BLANK <= kind <= _Record.SHORT_SHARED or kind == _Record.RICH_STRING:
            if _Record.SHORT_BLANK <= kind <= _Record.SHORT_SHARED:
                kind, column, at = kind - _Record.SHORT_BLANK + _Record.BLANK, column + 1, 0
            else:
                column, at = struct.unpack_from("<I", record)[0], 4
            if column >= _MAX_COLUMN:
                raise DocumentError("is damaged: its columns are numbered beyond any sheet", kind="corrupt")
            if text := _cell(kind, record, at, shared):
                cells[row, column] = text
        elif kind == _Record.MERGED:
            top, bottom, left, right = struct.unpack_from("<4I", record)
            merged.append(((top, left), (bottom, right)))
    return laid_out(title, cells, merged, notes)


def _notes(container: zipfile.ZipFile, member: str) -> Iterator[str]:
    """The comments on cells of a sheet."""
    for relation in relations(container, member).values():
        if relation.kind == "comments":
            row = column = 0
            for kind, data in _records(container.read(relation.target)):
                if kind == _Record.COMMENT:
                    row, _, column = struct.unpack_from("<3I", data, 4)
                elif kind == _Record.COMMENT_TEXT:
                    yield note(row, column, _text(data, 1)[0])


def _cell(kind: int, record: bytes, at: int, shared: _Shared) -> str:
    """The text of a cell; its style stands at `at`, its value behind that."""
    style = int.from_bytes(record[at : at + 3], "little")
    at += 4
    format = shared.formats[style] if style < len(shared.formats) else PLAIN
    match kind:
        case _Record.RK:
            return cell_text(_rk(struct.unpack_from("<i", record, at)[0]), format, shared.since_1904)
        case _Record.BOOL | _Record.F_BOOL:
            return cell_text(bool(record[at]))
        case _Record.REAL | _Record.F_REAL:
            return cell_text(struct.unpack_from("<d", record, at)[0], format, shared.since_1904)
        case _Record.STRING | _Record.F_STRING:
            return _text(record, at)[0]
        case _Record.SHARED:
            return shared.strings[int.from_bytes(record[at : at + 4], "little")]
        case _Record.RICH_STRING:
            return _text(record, at + 1)[0]
        case _:
            return ""  # blank, or an error such as #DIV/0!


def _rk(number: int) -> float:
    """A number in 32 bits: a whole one or the upper half of a float, perhaps in hundredths."""
    value: float = number >> 2 if number & 2 else struct.unpack("<d", struct.pack("<q", (number & ~3) << 32))[0]
    return value / 100 if number & 1 else value
