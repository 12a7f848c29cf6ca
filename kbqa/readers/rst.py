"""reStructuredText, read by lines: titles, paragraphs, lists, code, grid and simple tables, directives' text.

A reader of documents needs none of what docutils resolves (references, substitutions, roles), only their text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kbqa.readers.content import Content, ReadOptions, clean, heading_block, table_block, text_block
from kbqa.readers.encoding import decode
from kbqa.types import Block

__all__ = ["read_rst"]

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"\s*\.\.\s+(?:\|[^|]+\|\s+)?([\w:.+-]+)::\s*(.*)$")
_COMMENT = re.compile(r"\s*\.\.(?:\s|$)")
_OPTION = re.compile(r"\s+:[\w -]+:(?:\s|$)")
_GRID = re.compile(r"\s*\+(?:[-=]+\+)+\s*$")
_SIMPLE = re.compile(r"\s*=+(?:\s+=+)+\s*$")
_CODE = ("code", "code-block", "sourcecode", "literalinclude", "parsed-literal", "highlight", "prompt", "math")
_SILENT = ("toctree", "contents", "image", "include", "index", "raw", "meta", "autoclass", "automodule", "only", "role")
_INLINE = (
    (re.compile(r":[\w:+.-]+:`([^`<]*?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+.-]+:`~?([^`]*)`"), r"\1"),
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?"), r"\1"),
    (re.compile(r"`([^`]+)`__?"), r"\1"),
    (re.compile(r"\*\*(\S(?:.*?\S)?)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)\*(\S(?:[^*]*?\S)?)\*(?!\w)"), r"\1"),
    (re.compile(r"(?<!\w)\|([^|\s][^|]*)\|_?"), r"\1"),
)


def read_rst(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    blocks = tuple(_blocks(clean(text).expandtabs(8).split("\n"), []))
    title = next((block.text for block in blocks if block.kind == "heading"), "")
    return Content(title=title, blocks=blocks, warnings=warnings)


def _plain(text: str) -> str:
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text


def _blocks(lines: Sequence[str], styles: list[str]) -> Iterator[Block]:
    """`styles` are the adornments seen so far, outermost first: in rst the first one met is the highest level."""
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
        elif heading := _heading(lines, at):
            style, text, used = heading
            if style not in styles:
                styles.append(style)
            yield heading_block(_plain(text), styles.index(style) + 1)
            at += used
        elif _GRID.match(line) or _SIMPLE.match(line):
            end = _table_end(lines, at)
            yield _grid(lines[at:end]) if _GRID.match(line) else _simple(lines[at:end])
            at = end
        elif _COMMENT.match(line):
            end = _indented_end(lines, at)
            yield from _directive(lines[at:end], styles)
            at = end
        else:
            end = at + 1
            while (
                end < len(lines) and lines[end].strip() and not _COMMENT.match(lines[end]) and not _heading(lines, end)
            ):
                end += 1
            paragraph = [_plain(text) for text in lines[at:end]]
            literal = paragraph[-1].endswith("::")
            if literal:
                paragraph[-1] = paragraph[-1].removesuffix(":").removesuffix(" :")
            yield text_block("\n".join(paragraph))
            at = end
            if literal:
                end = _indented_end(lines, at - 1)
                yield Block("code", clean("\n".join(_dedent(lines[at:end]))))
                at = end


def _heading(lines: Sequence[str], at: int) -> tuple[str, str, int] | None:
    """Adornment, text and number of lines of the title that begins at `at`."""
    line, below = lines[at], lines[at + 1] if at + 1 < len(lines) else ""
    if _ADORNMENT.match(line) and at + 2 < len(lines) and below.strip() and lines[at + 2].strip() == line.strip():
        return line[0] * 2, below.strip(), 3
    long_enough = len(below.strip()) >= min(3, len(line.strip()))
    if (
        _ADORNMENT.match(below)
        and long_enough
        and line.strip()
        and not line[0].isspace()
        and not _ADORNMENT.match(line)
    ):
        return below[0], line.strip(), 2
    return None


def _indented_end(lines: Sequence[str], at: int) -> int:
    """The line after what is indented below line `at`."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    return end


def _dedent(lines: Sequence[str]) -> list[str]:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[indent:] for line in lines]


def _directive(lines: Sequence[str], styles: list[str]) -> Iterator[Block]:
    """Code stays code, pictures and tables of contents go, whatever else holds text is read. Comments are silent."""
    directive = _DIRECTIVE.match(lines[0])
    if directive is None:
        return
    name, argument = directive.group(1), directive.group(2)
    body = list(lines[1:])
    while body and _OPTION.match(body[0]):
        body.pop(0)
    body = _dedent(body)
    if name in _CODE:
        yield Block("code", clean("\n".join(body)))
    elif name in ("csv-table", "list-table"):
        if argument:
            yield text_block(_plain(argument))
        yield _listed(body) if name == "list-table" else table_block(_comma_rows(body))
    elif name not in _SILENT:
        if argument and name not in ("figure", "image"):
            yield text_block(_plain(argument))
        yield from _blocks(body, styles)


def _comma_rows(lines: Sequence[str]) -> list[list[str]]:
    import csv

    return [[_plain(cell) for cell in row] for row in csv.reader(lines, skipinitialspace=True)]


def _listed(lines: Sequence[str]) -> Block:
    rows: list[list[str]] = []
    for line in lines:
        item = re.match(r"(\*\s+)?-\s*(.*)$", line.strip()) if line.strip() else None
        if item and (line.startswith("*") or not rows):
            rows.append([_plain(item.group(2))])
        elif item:
            rows[-1].append(_plain(item.group(2)))
        elif rows and line.strip():
            rows[-1][-1] += " " + _plain(line.strip())
    return table_block(rows)


def _table_end(lines: Sequence[str], at: int) -> int:
    """A grid table ends at a blank line; a simple one at its last border, which a blank line follows."""
    end = at + 1
    border = _SIMPLE.match(lines[at])
    while end < len(lines):
        if not lines[end].strip() and (not border or _SIMPLE.match(lines[end - 1])):
            break
        end += 1
    return end


def _grid(lines: Sequence[str]) -> Block:
    rows: list[list[str]] = [[]]
    header = 1
    for line in lines:
        if _GRID.match(line) or re.match(r"\s*[+|][-=+| ]+[+|]\s*$", line):
            if "=" in line:
                header = len(rows) if rows[-1] else len(rows) - 1
            if rows[-1]:
                rows.append([])
            continue
        cells = [_plain(cell.strip()) for cell in line.strip().strip("|").split("|")]
        previous = rows[-1]
        rows[-1] = [f"{a} {b}".strip() for a, b in zip(previous, cells, strict=False)] if previous else cells
    return table_block(rows, max(1, header))


def _simple(lines: Sequence[str]) -> Block:
    starts = [match.start() for match in re.finditer(r"=+", lines[0])]
    ends = [*starts[1:], None]
    borders = [at for at, line in enumerate(lines) if _SIMPLE.match(line)]
    rows: list[list[str]] = []
    for at, line in enumerate(lines):
        if at in borders or not line.strip() or re.match(r"\s*-+(?:\s+-+)*\s*$", line):
            continue
        cells = [_plain(line[start:end].strip()) for start, end in zip(starts, ends, strict=True)]
        if rows and not cells[0] and at - 1 not in borders:
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    return table_block(rows, 1 if len(borders) > 2 else 0)
