"""A sheet as every spreadsheet format is read into: a rectangle of texts, merged cells filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kbqa.errors import DocumentError
from kbqa.readers.grid import MAX_REPEATED, Copy

__all__ = ["Range", "Sheet", "check_extent", "fill_merged", "laid_out", "note"]

MAX_CELLS = 20_000_000  # of a sheet's rectangle; calamine needs some 32 bytes for each, empty or not

Range = tuple[tuple[int, int], tuple[int, int]]  # the first and the last (row, column), from 0, both inside


class Sheet(NamedTuple):
    title: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()  # comments on cells, text in boxes
    formulas_without_value: int = 0
    first: int = 1  # the number of the first of `rows` on the sheet, as a person counts


def laid_out(title: str, cells: Mapping[tuple[int, int], str], merged: Sequence[Range], notes: Sequence[str]) -> Sheet:
    """The sheet with `cells`, which are the text at (row, column). DocumentError when they lie too far apart."""
    if not cells:
        return Sheet(title, (), notes)
    top, bottom = min(row for row, _ in cells), max(row for row, _ in cells)
    left, right = min(column for _, column in cells), max(column for _, column in cells)
    check_extent(title, bottom - top + 1, right - left + 1)
    rows = [[""] * (right - left + 1) for _ in range(bottom - top + 1)]
    for (row, column), text in cells.items():
        rows[row - top][column - left] = text
    fill_merged(rows, merged, top, left)
    return Sheet(title, rows, notes, first=top + 1)


def check_extent(title: str, height: int, width: int) -> None:
    if height * width > MAX_CELLS:
        raise DocumentError(
            f"its sheet {title!r} spans {height:,} rows and {width:,} columns, most of them empty; "
            "delete the stray cells far from the table",
            kind="too-large",
        )


def fill_merged(rows: Sequence[list[str]], ranges: Sequence[Range], top: int, left: int) -> None:
    """Write the value of merged cells into every cell they cover, except titles across the whole sheet; a long one
    into the first column alone.

    `top` and `left` say where on the sheet `rows` begin.
    """
    height, width = len(rows), max(map(len, rows), default=0)
    for (first_row, first_column), (last_row, last_column) in ranges:
        y, x = first_row - top, first_column - left
        if not (0 <= y < height and 0 <= x < width) or (x == 0 and last_column - left >= width - 1):
            continue
        value, end = rows[y][x], last_column - left + 1
        filled = [value, *[Copy("" if len(value) > MAX_REPEATED else value)] * (min(end, width) - x - 1)]
        for row in rows[y : last_row - top + 1]:
            row[x:end] = filled[: len(row[x:end])]


def note(row: int, column: int, text: str) -> str:
    """A comment with the name of its cell, (0, 0) being A1."""
    letters = ""
    column += 1
    while column:
        column, letter = divmod(column - 1, 26)
        letters = chr(65 + letter) + letters
    return f"批注（{letters}{row + 1}）：{' '.join(text.split())}"
