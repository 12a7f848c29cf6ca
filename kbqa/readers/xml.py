"""XML on its own: the "Excel" and "Word" files of 2003 that many systems still export, and any other by its text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping

from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, heading_block, one_line, text_block
from kbqa.readers.grid import Spans, expand, table_blocks
from kbqa.readers.markup import Element, attribute, children, descendants, name, parse
from kbqa.readers.numberformat import PLAIN, NumberFormat, cell_text, parse_format
from kbqa.types import Block

__all__ = ["read_xml"]

_MAX_ROWS = 1 << 20


def read_xml(data: bytes, options: ReadOptions) -> Content:
    if b"<!ENTITY" in data or b"<\0!\0E\0N\0T\0I\0T\0Y\0" in data:
        raise DocumentError("declares XML entities; refused as an XML bomb", kind="bomb")
    root = parse(data)
    if name(root) == "Workbook":
        return Content(blocks=tuple(_workbook(root)))
    if name(root) == "wordDocument":
        return Content(blocks=tuple(text_block(_runs(paragraph)) for paragraph in descendants(root, "p")))
    return Content(blocks=(text_block("\n".join(_leaves(root))),))


def _workbook(root: Element) -> Iterator[Block]:
    formats = _formats(root)
    for sheet in children(root, "Worksheet"):
        blocks = [block for table in children(sheet, "Table") for block in table_blocks(expand(_cells(table, formats)))]
        if blocks:
            yield heading_block(attribute(sheet, "Name") or "", 1)
            yield from blocks


def _formats(root: Element) -> dict[str, NumberFormat]:
    """The number format of each style, by the style's name."""
    codes = {
        attribute(style, "ID") or "": attribute(number, "Format") or ""
        for style in descendants(root, "Style")
        for number in children(style, "NumberFormat")
    }
    return {style: parse_format("0.00%" if code == "Percent" else code) for style, code in codes.items()}


def _cells(table: Element, formats: Mapping[str, NumberFormat]) -> Iterator[Spans]:
    """Rows and cells may be skipped: then the next one carries its index, counted from 1."""
    row = 0
    for line in children(table, "Row"):
        row = int(attribute(line, "Index") or row + 1)
        if row > _MAX_ROWS:
            raise DocumentError("its rows are numbered beyond any spreadsheet", kind="bomb")
        column = 0
        for cell in children(line, "Cell"):
            column = int(attribute(cell, "Index") or column + 1)
            width, height = int(attribute(cell, "MergeAcross") or 0) + 1, int(attribute(cell, "MergeDown") or 0) + 1
            format = formats.get(attribute(cell, "StyleID") or "", PLAIN)
            text = " ".join(_shown(data, format) for data in children(cell, "Data"))
            yield Spans(row - 1, column - 1, height, width, text)
            column += width - 1


def _shown(data: Element, format: NumberFormat) -> str:
    text = "".join(data.itertext())
    try:
        match attribute(data, "Type"):
            case "DateTime":
                date = dt.datetime.fromisoformat(text)
                return cell_text(date.time() if date.year < 1900 else date)
            case "Number":
                return cell_text(float(text), format if format.kind in ("number", "percent") else PLAIN)
            case "Boolean":
                return cell_text(text.strip() == "1")
            case "Error":
                return ""
    except ValueError:  # not what it is said to be
        pass
    return text


def _runs(paragraph: Element) -> str:
    return "".join(text.text or "" for text in descendants(paragraph, "t"))


def _leaves(element: Element) -> Iterator[str]:
    """`name: text` for each element that holds text."""
    if text := one_line(element.text or ""):
        yield f"{name(element)}: {text}"
    for child in element:
        yield from _leaves(child)
        if tail := one_line(child.tail or ""):
            yield tail
