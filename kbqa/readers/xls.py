"""A look into the workbook stream of an old Excel file (MS-XLS) for the number formats that calamine does not tell."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from kbqa.readers.numberformat import BUILT_IN, PLAIN, NumberFormat, parse_format

__all__ = ["formats_of"]

_END, _BEGIN, _SHEET, _FORMAT, _STYLE = 0x0A, 0x809, 0x85, 0x41E, 0xE0
_FORMULA, _NUMBER, _RK, _RK_ROW = 0x06, 0x203, 0x27E, 0xBD
_UNICODE = 0x600  # the version from which texts tell their width


def formats_of(stream: bytes) -> dict[str, Mapping[tuple[int, int], NumberFormat]]:
    """Of each sheet, by its name, the format of each cell that holds a number and shows more than the bare figure."""
    try:
        styles, sheets = _globals(stream)
        return {title: dict(_cells(stream, start, styles)) for title, start in sheets.items()}
    except struct.error:
        return {}  # calamine will say what is wrong with it


def _records(stream: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each record up to the end of the part that begins at `at`; parts nest."""
    depth = 0
    while at + 4 <= len(stream):
        kind, size = struct.unpack_from("<HH", stream, at)
        depth += (kind == _BEGIN) - (kind == _END)
        if depth <= 0:
            return
        if depth == 1:
            yield kind, stream[at + 4 : at + 4 + size]
        at += 4 + size


def _globals(stream: bytes) -> tuple[list[NumberFormat], dict[str, int]]:
    """The number format of each cell style, and where in the stream each sheet begins."""
    known = dict(BUILT_IN)
    styles: list[int] = []
    sheets: dict[str, int] = {}
    unicode = True
    for kind, data in _records(stream, 0):
        if kind == _BEGIN:
            unicode = struct.unpack_from("<H", data)[0] >= _UNICODE
        elif kind == _FORMAT:
            known[struct.unpack_from("<H", data)[0]] = parse_format(_text(data, 2, 2 if unicode else 1, unicode))
        elif kind == _STYLE:
            styles.append(struct.unpack_from("<H", data, 2)[0])
        elif kind == _SHEET:
            sheets[_text(data, 6, 1, unicode)] = struct.unpack_from("<I", data)[0]
    return [known.get(number, PLAIN) for number in styles], sheets


def _text(data: bytes, at: int, counted_in: int, unicode: bool) -> str:
    """A text whose length is written in `counted_in` bytes."""
    count = int.from_bytes(data[at : at + counted_in], "little")
    at += counted_in
    if not unicode:
        return data[at : at + count].decode("gb18030", "replace")
    if data[at : at + 1] == b"\1":
        return data[at + 1 : at + 1 + 2 * count].decode("utf-16-le", "replace")
    return data[at + 1 : at + 1 + count].decode("latin-1")


def _cells(stream: bytes, start: int, styles: list[NumberFormat]) -> Iterator[tuple[tuple[int, int], NumberFormat]]:
    for row, column, style in _styled(stream, start):
        format = styles[style] if style < len(styles) else PLAIN
        if format != PLAIN:
            yield (row, column), format


def _styled(stream: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Row, column and style of each cell with a number."""
    for kind, data in _records(stream, start):
        if kind in (_NUMBER, _RK, _FORMULA):
            row, column, style = struct.unpack_from("<3H", data)
            yield row, column, style
        elif kind == _RK_ROW:
            row, column = struct.unpack_from("<2H", data)
            for at in range(4, len(data) - 2, 6):
                yield row, column + (at - 4) // 6, struct.unpack_from("<H", data, at)[0]
