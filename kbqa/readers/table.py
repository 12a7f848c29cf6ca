"""Spreadsheets (calamine: xlsx, xls, xlsb, ods) and delimited text."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from kbqa.errors import DocumentError
from kbqa.readers.archive import check_markup, open_container
from kbqa.readers.content import Content, ReadOptions, heading_block
from kbqa.readers.encoding import decode
from kbqa.readers.grid import is_figure, table_blocks
from kbqa.readers.ole import streams
from kbqa.readers.workbook import SheetFacts, inspect
from kbqa.types import Block

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

__all__ = ["read_csv", "read_workbook"]

_DELIMITERS = ",\t;|"
_NO_NAME = re.compile(r"(?:sheet|工作表|表|tabelle|feuil|hoja)\s*\d*", re.IGNORECASE)
_MAX_LINES_IN_CELL = 200
Value = object


def read_workbook(data: bytes, options: ReadOptions) -> Content:
    """All sheets, hidden ones too, each under a heading with its name."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

    facts: Mapping[str, SheetFacts] = {}
    if data.startswith(b"PK"):
        with open_container(data, options) as container:
            check_markup(container)
            facts = inspect(container)
    elif data.startswith(b"\xd0\xcf"):
        streams(data)  # refuses lengths that calamine would believe and reserve gigabytes for
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
        names = [sheet.name for sheet in workbook.sheets_metadata if sheet.typ != SheetTypeEnum.ChartSheet]
        blocks: list[Block] = []
        for name in names:
            found = _sheet_blocks(workbook.get_sheet_by_name(name), facts.get(name, SheetFacts()), options)
            if found and (len(names) > 1 or not _NO_NAME.fullmatch(name.strip())):
                blocks.append(heading_block(name, 1))
            blocks += found
    except PasswordError as error:
        raise DocumentError("is protected by a password; save a copy without one", kind="encrypted") from error
    except CalamineError as error:
        raise DocumentError(f"is damaged: {error}", kind="corrupt") from error
    missing = sum(sheet.formulas_without_value for sheet in facts.values())
    warnings = (f"{missing} formulas have no stored result; open and save the file in a spreadsheet program",)
    return Content(blocks=tuple(blocks), warnings=warnings if missing else ())


def read_csv(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    text = text.replace("\0", "")
    if hint := re.match(r"sep=(.)\r?\n", text):  # what Excel writes and obeys
        delimiter, text = hint.group(1), text[hint.end() :]
    else:
        delimiter = _delimiter(text)
    csv.field_size_limit(max(csv.field_size_limit(), options.max_characters))
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    if any(cell.count("\n") > _MAX_LINES_IN_CELL for row in rows for cell in row):
        warnings += ("a quotation mark is opened and never closed; quotation marks were taken as plain characters",)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=csv.QUOTE_NONE))
    return Content(blocks=tuple(table_blocks(rows, title_level=1)), warnings=warnings)


def _delimiter(text: str) -> str:
    """The delimiter that cuts most of the first lines into the same number of cells, and into many."""

    def score(delimiter: str) -> tuple[float, int]:
        rows = list(islice(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), 200))
        widths = Counter(len(row) for row in rows if row)
        width, count = max(widths.items(), key=lambda item: (item[0] > 1, item[1]), default=(1, 0))
        return (count / max(1, sum(widths.values())) if width > 1 else 0.0, width)

    head = text[:65536]
    csv.field_size_limit(max(csv.field_size_limit(), len(head) + 1))
    return max(_DELIMITERS, key=score)


def _sheet_blocks(sheet: CalamineSheet, facts: SheetFacts, options: ReadOptions) -> list[Block]:
    if sheet.start is None:
        return []
    top, left = sheet.start
    rows: list[list[str]] = []
    characters = 0
    for y, values in enumerate(sheet.iter_rows(), start=top):
        row = [cell_text(value, facts.percents.get((y, x))) for x, value in enumerate(values, start=left)]
        characters += sum(map(len, row))
        if characters > options.max_characters:
            raise DocumentError(f"holds more than {options.max_characters:,} characters", kind="too-large")
        rows.append(row)
    _fill_merged(rows, sheet.merged_cell_ranges or [], top, left)
    return [block for region in _regions(rows) for block in table_blocks(region, title_level=2)]


def cell_text(value: object, percent_decimals: int | None = None) -> str:
    """What a person would read in the cell: no float noise, ISO dates, percentages as they are shown."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case float() if percent_decimals is not None:
            return f"{value * 100:.{percent_decimals}f}%"
        case float() if value.is_integer() and abs(value) < 1e16:
            return str(int(value))
        case float():
            return format(Decimal(f"{value:.12g}"), "f")
        case dt.datetime():
            return value.date().isoformat() if value.time() == dt.time() else value.isoformat(" ", "seconds")
        case dt.time():
            return value.isoformat("seconds" if value.second else "minutes")
        case dt.timedelta():
            minutes, seconds = divmod(round(value.total_seconds()), 60)
            return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        case _:
            return str(value)


def _fill_merged(
    rows: list[list[str]], ranges: Sequence[tuple[tuple[int, int], tuple[int, int]]], top: int, left: int
) -> None:
    """Write the value of merged cells into every cell they cover, except titles across the whole sheet."""
    height, width = len(rows), max(map(len, rows), default=0)
    for (first_row, first_column), (last_row, last_column) in ranges:
        y, x = first_row - top, first_column - left
        if not (0 <= y < height and 0 <= x < width) or (x == 0 and last_column - left >= width - 1):
            continue
        value = rows[y][x]
        for row in rows[y : last_row - top + 1]:
            row[x : last_column - left + 1] = [value] * len(row[x : last_column - left + 1])


def _regions(rows: Sequence[list[str]]) -> Iterator[list[list[str]]]:
    """Tables below each other on one sheet. A blank row parts them when what follows begins like a table of its own."""
    region: list[list[str]] = []
    blank = False
    for index, row in enumerate(rows):
        filled = [cell for cell in row if cell.strip()]
        if not filled:
            blank = True
            continue
        if blank and _is_table(region) and _begins_table(rows, index):
            yield region
            region = []
        region.append(row)
        blank = False
    if region:
        yield region


def _is_table(region: Sequence[list[str]]) -> bool:
    """More than the titles above a table."""
    return sum(len({cell for cell in row if cell.strip()}) > 1 for row in region) > 1


def _begins_table(rows: Sequence[list[str]], index: int) -> bool:
    """A row without figures that has something below it: a title or a header."""
    filled = [cell for cell in rows[index] if cell.strip()]
    below = rows[index + 1] if index + 1 < len(rows) else []
    return not any(map(is_figure, filled)) and sum(bool(cell.strip()) for cell in below) >= 2
