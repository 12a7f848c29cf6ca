"""A look into an xlsx package for what calamine does not tell or cannot survive.

calamine lays a sheet out as a full rectangle, so that two values in far corners take hundreds of gigabytes: extents
are measured first. It gives 0.985 for a cell that shows 98.5%: the cells with a percent format are listed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbqa.errors import DocumentError
from kbqa.readers.markup import attribute, name, parse, relations

__all__ = ["SheetFacts", "inspect"]

_MAX_CELLS = 20_000_000  # of a sheet's rectangle; calamine needs some 32 bytes for each, empty or not
_CELL = re.compile(rb"<(?:\w+:)?c\s([^>]*)(?<!/)>(.*?)</(?:\w+:)?c>", re.DOTALL)
_REFERENCE = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')
_STYLE = re.compile(rb'\bs="(\d+)"')
_VALUE = re.compile(rb"<(?:\w+:)?(?:v|t)(?:\s[^>]*)?>[^<]")
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s>/]")
_BUILT_IN_PERCENT = {9: 0, 10: 2}


@dataclass(frozen=True, slots=True)
class SheetFacts:
    percents: Mapping[tuple[int, int], int] = field(default_factory=dict)  # (row, column) from 0 -> decimals shown
    formulas_without_value: int = 0


def inspect(container: zipfile.ZipFile) -> dict[str, SheetFacts]:
    """Facts of each sheet by its name. Raises DocumentError for a sheet too sparse to be laid out."""
    styles = _percent_styles(container)
    return {title: _sheet(title, container.read(part), styles) for title, part in _sheets(container).items()}


def _sheets(container: zipfile.ZipFile) -> dict[str, str]:
    """The part that holds each sheet, by the sheet's name."""
    if "xl/workbook.xml" not in container.namelist():
        return {}
    parts = relations(container, "xl/workbook.xml")
    sheets = (element for element in parse(container.read("xl/workbook.xml")).iter() if name(element) == "sheet")
    named = {sheet.get("name", ""): attribute(sheet, "id") for sheet in sheets}
    return {title: parts[part].target for title, part in named.items() if part in parts}


def _percent_styles(container: zipfile.ZipFile) -> dict[int, int]:
    """Index of a cell format -> decimals, for the formats that show a percentage."""
    if "xl/styles.xml" not in container.namelist():
        return {}
    formats = dict(_BUILT_IN_PERCENT)
    styles: dict[int, int] = {}
    for part in parse(container.read("xl/styles.xml")):
        if name(part) == "numFmts":
            for element in part:
                code = re.sub(r'"[^"]*"|\\.|\[[^\]]*\]', "", element.get("formatCode", "")).split(";")[0]
                if "%" in code:
                    decimals = re.search(r"\.([0#?]+)", code)
                    formats[int(element.get("numFmtId", "0"))] = len(decimals.group(1)) if decimals else 0
        elif name(part) == "cellXfs":
            for index, element in enumerate(part):
                number = int(element.get("numFmtId", "0"))
                if number in formats:
                    styles[index] = formats[number]
    return styles


def _sheet(title: str, markup: bytes, styles: Mapping[int, int]) -> SheetFacts:
    rows: set[int] = set()
    columns: set[bytes] = set()
    percents: dict[tuple[int, int], int] = {}
    missing = 0
    for cell in _CELL.finditer(markup):
        attributes, content = cell.groups()
        if not _VALUE.search(content):
            missing += _FORMULA.search(content) is not None
            continue
        if reference := _REFERENCE.search(attributes):
            rows.add(int(reference.group(2)))
            columns.add(reference.group(1))
            style = _STYLE.search(attributes)
            if style and int(style.group(1)) in styles:
                position = (int(reference.group(2)) - 1, _column(reference.group(1)))
                percents[position] = styles[int(style.group(1))]
    if rows:
        numbers = [_column(letters) for letters in columns]
        height, width = max(rows) - min(rows) + 1, max(numbers) - min(numbers) + 1
        if height * width > _MAX_CELLS:
            raise DocumentError(
                f"its sheet {title!r} spans {height:,} rows and {width:,} columns, most of them empty; "
                "delete the stray cells far from the table",
                kind="too-large",
            )
    return SheetFacts(percents, missing)


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1
