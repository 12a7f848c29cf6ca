"""What commands print: pleasant on a terminal, plain and stable in a pipe, one JSON object a line with --json.

Whatever comes from documents, file names or the network goes through `shown` before a person sees it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import click

from kbqa.types import Citation

__all__ = [
    "cited",
    "complain",
    "figure_table",
    "is_terminal",
    "prepare_streams",
    "print_json",
    "quoted",
    "say",
    "shown",
    "table",
]

# Everything that moves the cursor, starts an escape sequence, ends a line or turns the direction of writing.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NEVER_WRAPPED = ("status", "taken in", "size")  # columns
GAP = 3  # between the columns of a table
QUOTE_CHARACTERS = 120  # of a quote on one line; the whole of it is in --json


def shown(text: str, lines: bool = False) -> str:
    """`text` with every control character spelled out (\\x1b, \\n); `lines` keeps line breaks and tabs as they are."""
    keep = "\n\t" if lines else ""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person looks at the stream (standard output if not given), on a terminal that knows colours."""
    stream = stream or sys.stdout
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def prepare_streams() -> None:
    """Make output fit for Chinese whatever the locale says.

    A terminal keeps its own encoding, if that knows more than ASCII: it would not understand another. Everything else
    is UTF-8. What cannot be written becomes `?` instead of an error half way through an answer.
    """
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is None:  # closed, or replaced by a program that runs us
            continue
        ascii_only = (stream.encoding or "").lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "iso-8859-1")
        reconfigure(encoding=stream.encoding if stream.isatty() and not ascii_only else "utf-8", errors="replace")


def say(text: str = "", *, end: str = "\n", **style: Any) -> None:
    """A line on standard output; `style` (fg, bold, dim) shows on a terminal only, and not under NO_COLOR."""
    click.echo((click.style(text, **style) if style else text) + end, nl=False, color=_colours(sys.stdout))


def complain(text: str, **style: Any) -> None:
    """A line on standard error."""
    click.echo(click.style(text, **style) if style else text, err=True, color=_colours(sys.stderr))


def _colours(stream: TextIO) -> bool:
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], header: bool = False) -> None:
    """Rows under their column names on a terminal; tab-separated in a pipe, with the names only if `header` says so."""
    texts = [[shown("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not is_terminal():
        for row in [columns, *texts] if header else texts:
            click.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold", no_wrap=column in NEVER_WRAPPED)
    for row in texts:
        drawn.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(drawn)


def figure_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """The same for figures, of which each row tells those of what its first cell names. On a terminal that is too
    narrow for that, each has a column instead, so that neither they nor their names are broken up."""
    if is_terminal() and _width([columns, *rows]) > shutil.get_terminal_size().columns:
        columns, *rows = [list(map(str, line)) for line in zip(columns, *rows, strict=True)]
    table(columns, rows, header=True)


def _width(rows: Sequence[Sequence[object]]) -> int:
    """Of a table, nothing of which is wrapped."""
    from rich.cells import cell_len

    return sum(max(cell_len(shown(str(cell))) for cell in column) + GAP for column in zip(*rows, strict=True))


def cited(citation: Citation) -> str:
    """Where a quote stands, in one line: [1] 员工手册.docx · 第3页 · 第三章 > 年假"""
    page = f"第{citation.page}页" if citation.page is not None else ""
    return f"[{citation.marker}] " + " · ".join(filter(None, (shown(citation.source), page, shown(citation.heading))))


def quoted(text: str) -> str:
    """A quote in one line, shortened where it is long."""
    line = " ".join(text.split())
    return f"「{shown(line if len(line) <= QUOTE_CHARACTERS else line[: QUOTE_CHARACTERS - 1] + '…')}」"
