"""What every reader gets and gives: bytes and ReadOptions in, a Content out. Knows nothing about any format.

A reader is a function `(data: bytes, options: ReadOptions) -> Content`. It raises DocumentError with a message that
does not name the file (`kbqa.readers.read` puts the name in front) or lets its library's exception through, which
`read` translates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kbqa.types import CELL_SEPARATOR, Block

__all__ = ["Content", "ReadOptions", "Reader", "clean", "heading_block", "table_block", "text_block"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Limits and permissions for reading one file. The limits are far above what an honest document needs."""

    ocr: bool = True  # recognise text in scans and images if the `ocr` extra is installed
    max_bytes: int = 256 * MIB
    max_characters: int = 50_000_000  # of extracted text
    max_uncompressed_bytes: int = 1024 * MIB  # of all members of a zip container (docx, xlsx, epub, ...) together
    max_attachment_depth: int = 3  # mails in mails in mails


@dataclass(frozen=True, slots=True)
class Content:
    """What a reader found. Blocks with no text are allowed: `read` drops them."""

    title: str = ""
    blocks: tuple[Block, ...] = ()
    pages: int | None = None
    warnings: tuple[str, ...] = ()  # what was not read, each in one line
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)


Reader = Callable[[bytes, ReadOptions], Content]

# Lone surrogates, NULs and other control characters that mean no text; and line breaks that are not \n.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufeff\ufffe\uffff]")
_BREAK = re.compile("\r\n?|[\x0b\x0c\u2028\u2029\x85]")
_UNCLEAN = re.compile(f"{_CONTROL.pattern}|[\r\x0b\x0c\u2028\u2029\x85]")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """`text` with plain line breaks, without control characters, trailing spaces and runs of blank lines."""
    if _UNCLEAN.search(text):
        text = _CONTROL.sub("", _BREAK.sub("\n", text))
    if "\n" not in text:
        return text.rstrip()
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return (_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip("\n")


def one_line(text: str) -> str:
    return " ".join((_CONTROL.sub("", text) if _UNCLEAN.search(text) else text).split())


def text_block(text: str, page: int | None = None) -> Block:
    return Block("text", clean(text), page=page)


def heading_block(text: str, level: int, page: int | None = None) -> Block:
    """A heading is one line; `level` counts from 1, the outermost."""
    return Block("heading", one_line(text), level=max(1, level), page=page)


def _cell(text: str) -> str:
    """One line, and no `|` that could be mistaken for the border of a cell (the full-width form stays readable)."""
    return one_line(text).replace("|", "｜")


def table_block(rows: Sequence[Sequence[str]], header_rows: int = 1, page: int | None = None) -> Block:
    """Rows of cells as one table block; empty rows and columns are dropped, short rows are filled up.

    Blank rows among the first `header_rows` are dropped from that count too. A table of one row has no header.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    width = max((len(row) for row in cells), default=0)
    cells = [row + [""] * (width - len(row)) for row in cells]
    keep = [column for column in range(width) if any(row[column] for row in cells)]
    header = sum(any(row) for row in cells[:header_rows])
    lines = [CELL_SEPARATOR.join(row[column] for column in keep) for row in cells if any(row)]
    return Block("table", "\n".join(lines), page=page, header_rows=header if len(lines) > header else 0)
