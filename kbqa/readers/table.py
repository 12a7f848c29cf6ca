"""Spreadsheets (xlsx and xls by calamine, xlsb and ods by us) and delimited text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from kbqa.errors import DocumentError
from kbqa.readers import ods, xlsb
from kbqa.readers.archive import check_markup, open_container
from kbqa.readers.content import Content, ReadOptions, heading_block, text_block
from kbqa.readers.encoding import decode
from kbqa.readers.grid import is_figure, table_blocks
from kbqa.readers.numberformat import PLAIN, cell_text
from kbqa.readers.ole import streams
from kbqa.readers.sheets import Sheet, fill_merged
from kbqa.readers.workbook import SheetFacts, inspect
from kbqa.readers.xls import formats_of
from kbqa.types import Block

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

__all__ = ["read_csv", "read_delimited", "read_sheets", "read_workbook"]

_DELIMITERS = ",\t;|"
_NO_NAME = re.compile(r"(?:sheet|工作表|表|tabelle|feuil|hoja)\s*\d*", re.IGNORECASE)
_MAX_LINES_IN_CELL = 200


def read_workbook(data: bytes, options: ReadOptions) -> Content:
    """All sheets, hidden ones too, each under a heading with its name."""
    found: list[tuple[str, list[Block]]] = []
    missing = 0
    for sheet in read_sheets(data, options):
        blocks = [block for region in _regions(sheet.rows) for block in table_blocks(region, title_level=2)]
        found.append((sheet.title, [*blocks, *map(text_block, sheet.notes)]))
        missing += sheet.formulas_without_value
    blocks = []
    for title, of_sheet in found:
        if of_sheet and (len(found) > 1 or not _NO_NAME.fullmatch(title.strip())):
            blocks.append(heading_block(title, 1))
        blocks += of_sheet
    warning = f"{missing} formulas have no stored result; open and save the file in a spreadsheet program"
    return Content(blocks=tuple(blocks), warnings=(warning,) if missing else ())


def read_sheets(data: bytes, options: ReadOptions) -> Iterator[Sheet]:
    """All sheets of a workbook as they are, hidden ones too; rows begin with the first that is not empty."""
    characters = 0
    for sheet in _sheets(data, options):
        characters += _size(sheet, options.max_characters - characters)
        yield sheet


def _sheets(data: bytes, options: ReadOptions) -> Iterator[Sheet]:
    if not data.startswith(b"PK"):
        yield from _old_sheets(data, options)
        return
    with open_container(data, options) as container:
        check_markup(container)
        members = container.namelist()
        if "xl/workbook.bin" in members:
            yield from xlsb.sheets_of(container)
            return
        if "mimetype" in members:
            yield from ods.sheets_of(container)
            return
        facts = inspect(container)
    yield from _calamine_sheets(data, facts, options)


def _size(sheet: Sheet, allowed: int) -> int:
    """How many characters the sheet holds. One long text can stand in a million cells at no cost in the file."""
    size = 0
    for row in sheet.rows:
        size += sum(map(len, row))
        if size > allowed:
            raise DocumentError("holds more characters than allowed", kind="too-large")
    return size


def _old_sheets(data: bytes, options: ReadOptions) -> Iterator[Sheet]:
    parts = streams(data) if data.startswith(b"\xd0\xcf") else {}  # refuses lengths that calamine would believe
    formats = formats_of(parts.get("Workbook") or parts.get("Book") or b"")
    return _calamine_sheets(data, {title: SheetFacts(found) for title, found in formats.items()}, options)


def _calamine_sheets(data: bytes, facts: Mapping[str, SheetFacts], options: ReadOptions) -> Iterator[Sheet]:
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
        for sheet in workbook.sheets_metadata:
            if sheet.typ != SheetTypeEnum.ChartSheet:
                known = facts.get(sheet.name, SheetFacts())
                yield _calamine_sheet(workbook.get_sheet_by_name(sheet.name), known, options)
    except PasswordError as error:
        raise DocumentError("is protected by a password; save a copy without one", kind="encrypted") from error
    except CalamineError as error:
        raise DocumentError(f"is damaged: {error}", kind="corrupt") from error


def _calamine_sheet(sheet: CalamineSheet, facts: SheetFacts, options: ReadOptions) -> Sheet:
    if sheet.start is None:
        return Sheet(sheet.name, (), facts.notes, facts.formulas_without_value)
    top, left = sheet.start
    rows: list[list[str]] = []
    for y, values in enumerate(sheet.iter_rows(), start=top):
        rows.append([cell_text(value, facts.formats.get((y, x), PLAIN)) for x, value in enumerate(values, start=left)])
    fill_merged(rows, sheet.merged_cell_ranges or [], top, left)
    return Sheet(sheet.name, rows, facts.notes, facts.formulas_without_value, top + 1)


def read_csv(data: bytes, options: ReadOptions) -> Content:
    rows, warnings = read_delimited(data, options)
    return Content(blocks=tuple(table_blocks(rows, title_level=1)), warnings=warnings)


def read_delimited(data: bytes, options: ReadOptions) -> tuple[list[list[str]], tuple[str, ...]]:
    """The rows of delimited text in whatever encoding, and warnings about what could not be read."""
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
    return rows, warnings


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


def _regions(rows: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    """Tables below each other on one sheet. A blank row parts them when what follows begins like a table of its own."""
    region: list[Sequence[str]] = []
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


def _is_table(region: Sequence[Sequence[str]]) -> bool:
    """More than the titles above a table."""
    return sum(len({cell for cell in row if cell.strip()}) > 1 for row in region) > 1


def _begins_table(rows: Sequence[Sequence[str]], index: int) -> bool:
    """A row without figures that has something below it: a title or a header."""
    filled = [cell for cell in rows[index] if cell.strip()]
    below = rows[index + 1] if index + 1 < len(rows) else []
    return not any(map(is_figure, filled)) and sum(bool(cell.strip()) for cell in below) >= 2
