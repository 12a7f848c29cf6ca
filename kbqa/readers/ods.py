"""OpenDocument spreadsheets, read piece by piece: the tree of a large one would take gigabytes.

calamine passes over merged cells, percentages and comments.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from xml.etree.ElementTree import iterparse

from kbqa.errors import DocumentError
from kbqa.readers.content import one_line
from kbqa.readers.markup import Element
from kbqa.readers.numberformat import cell_text
from kbqa.readers.odf import paragraph_text
from kbqa.readers.sheets import MAX_CELLS, Range, Sheet, laid_out, note

__all__ = ["sheets_of"]

_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"  # written out, for there are millions of cells
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_CONTENT = "content.xml"
_MANIFEST = "META-INF/manifest.xml"
_ERROR = re.compile(r"#(?:DIV/0!|N/A|NAME\?|NULL!|NUM!|REF!|VALUE!)|Err:\d{3}")
_DURATION = re.compile(r"PT(\d+)H(\d+)M(\d+)(?:[.,]\d+)?S")


def sheets_of(container: zipfile.ZipFile) -> Iterator[Sheet]:
    """Every sheet, hidden ones too. Raises DocumentError: encrypted, corrupt, too-large."""
    members = container.namelist()
    if _MANIFEST in members and b"encryption-data" in container.read(_MANIFEST):
        raise DocumentError("is protected by a password; save a copy without one", kind="encrypted")
    if _CONTENT not in members:
        raise DocumentError("is damaged: its content.xml is missing", kind="corrupt")
    with container.open(_CONTENT) as stream:
        sheet: _Sheet | None = None
        for event, element in iterparse(stream, ("start", "end")):
            if element.tag == f"{_TABLE}table-row" and event == "end" and sheet is not None:
                sheet.add(element)
                element.clear()
            elif element.tag == f"{_TABLE}table":
                title = element.get(f"{_TABLE}name", "")
                if event == "start" and sheet is None:
                    sheet = _Sheet(title)
                elif event == "end" and sheet is not None and title == sheet.title:
                    yield laid_out(sheet.title, sheet.cells, sheet.merged, sheet.notes)
                    sheet = None


class _Sheet:
    """A sheet in the making."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.row = 0
        self.cells: dict[tuple[int, int], str] = {}
        self.merged: list[Range] = []
        self.notes: list[str] = []

    def add(self, row: Element) -> None:
        """A row stands for as many as it says; equal cells side by side are written once, with their number, too."""
        repeated = _number(row, "number-rows-repeated")
        column = 0
        for cell in row:
            count = _number(cell, "number-columns-repeated")
            if cell.tag == f"{_TABLE}table-cell":
                self._add_cell(cell, column, count, repeated)
            column += count
        self.row += repeated

    def _add_cell(self, cell: Element, column: int, count: int, rows: int) -> None:
        for annotation in cell.iterfind(f"{_OFFICE}annotation"):
            self.notes.append(note(self.row, column, _words(annotation)))
        text = _shown(cell)
        if not text:
            return
        if len(self.cells) + rows * count > MAX_CELLS:
            raise DocumentError(f"its sheet {self.title!r} has more than {MAX_CELLS:,} cells", kind="too-large")
        for y in range(self.row, self.row + rows):
            for x in range(column, column + count):
                self.cells[y, x] = text
        height, width = _number(cell, "number-rows-spanned"), _number(cell, "number-columns-spanned")
        if height > 1 or width > 1:
            self.merged.append(((self.row, column), (self.row + height - 1, column + width - 1)))


def _number(element: Element, wanted: str) -> int:
    return max(1, int(element.get(_TABLE + wanted, 1)))


def _words(element: Element) -> str:
    return " ".join(one_line(paragraph_text(paragraph)) for paragraph in element.iter(f"{_TEXT}p"))


def _shown(cell: Element) -> str:
    """The text of a cell: dates in ISO, figures without grouping but with the percent sign and the unit shown."""
    shown = " ".join(filter(None, [paragraph_text(paragraph).strip() for paragraph in cell.iterfind(f"{_TEXT}p")]))
    kind, value = cell.get(f"{_OFFICE}value-type"), cell.get(f"{_OFFICE}value")
    if kind == "date":
        day, _, time = cell.get(f"{_OFFICE}date-value", shown).partition("T")
        return day if time in ("", "00:00:00") else f"{day} {time[:8]}"
    if kind == "time" and (duration := _DURATION.fullmatch(cell.get(f"{_OFFICE}time-value", ""))):
        hours, minutes, seconds = duration.groups()
        return f"{int(hours)}:{minutes}" + (f":{seconds}" if int(seconds) else "")
    if kind == "boolean":
        return cell.get(f"{_OFFICE}boolean-value", shown).upper()
    if kind in ("float", "currency") and value:
        figure = cell_text(float(value))
        ungrouped = shown.replace(",", "")
        return ungrouped if figure in ungrouped else figure
    return "" if _ERROR.fullmatch(shown) else shown
