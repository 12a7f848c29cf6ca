"""HTML and MHTML: headings, paragraphs, lists, tables, preformatted text; no scripts, styles or navigation.

selectolax (lexbor) builds the tree; it fetches and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kbqa.analyzer import CJK
from kbqa.errors import DocumentError
from kbqa.readers.content import Content, ReadOptions, clean, heading_block, one_line, text_block
from kbqa.readers.encoding import decode
from kbqa.readers.grid import Spans, expand, table_blocks
from kbqa.types import CELL_SEPARATOR, Block

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

__all__ = ["html_blocks", "html_content", "read_html", "read_mhtml"]

_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w:.-]+)", re.IGNORECASE)
_NOISE = ["script", "style", "noscript", "template", "svg", "iframe", "object", "embed", "canvas", "audio", "video"]
_NOISE += ["select", "datalist", "rp", "rt", "annotation"]
_STRUCK = "del, s, strike, [style*=line-through]"
_NAVIGATION = "nav, [role=navigation], [role=search]"
_MENUS = ".nav, .navbar, .navigation, .breadcrumb, .breadcrumbs, #nav, #navbar, #navigation"
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_BLOCKS = frozenset(
    """address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure footer
    form header hgroup hr legend li main menu nav ol optgroup option p section summary tbody td tfoot th thead tr ul
    caption""".split()
)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_BETWEEN_CJK = re.compile(rf"(?<=[{CJK}，。、；：！？）」』》])[ \t]*[\r\n]\s*(?=[{CJK}（「『《])")
_MAX_DEPTH = 150  # of elements inside elements; what lies deeper is taken as plain text


def read_html(data: bytes, options: ReadOptions) -> Content:
    declared = _CHARSET.search(data[:4096]) or _XML_ENCODING.search(data[:200])
    text, warnings = decode(data, declared.group(1).decode("ascii") if declared else "")
    title, blocks = html_content(text)
    return Content(title=title, blocks=tuple(blocks), warnings=warnings)


def read_mhtml(data: bytes, options: ReadOptions) -> Content:
    """A web page saved as one file: a mail message whose first HTML part is the page."""
    from email import message_from_bytes, policy

    for part in message_from_bytes(data, policy=policy.compat32).walk():
        payload = part.get_payload(decode=True)
        if part.get_content_type() in ("text/html", "application/xhtml+xml") and isinstance(payload, bytes):
            text, warnings = decode(payload, part.get_content_charset("") or "")
            title, blocks = html_content(text)
            return Content(title=title, blocks=tuple(blocks), warnings=warnings)
    raise DocumentError("holds no HTML page", kind="empty")


def html_content(text: str) -> tuple[str, list[Block]]:
    """Title and blocks. Navigation is left out unless hardly anything else is there."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(text.encode("utf-8", "replace").decode())
    heading = tree.css_first("head title") or tree.css_first("title")
    title = one_line(heading.text()) if heading else ""
    tree.strip_tags(_NOISE)
    if tree.body is None:
        return title, []
    _drop_struck(tree.body)
    everything = list(_Walk().blocks(tree.body))
    _drop_navigation(tree.body)
    main = list(_Walk().blocks(tree.body))
    return title, main if _length(main) > 0.1 * _length(everything) else everything


def _length(blocks: list[Block]) -> int:
    return sum(len(block.text) for block in blocks)


def _drop_struck(body: LexborNode) -> None:
    """Removes words that are struck out where others stand beside them: 900 in front of 800元 is no 900800元."""
    for node in body.css(_STRUCK):
        block = node
        while block.parent is not None and block.tag not in _BLOCKS:
            block = block.parent
        if block.mem_id != node.mem_id and len(block.text(strip=True)) > len(node.text(strip=True)):
            node.remove()


def _drop_navigation(body: LexborNode) -> None:
    found = [node for node in body.css(_NAVIGATION) if node.tag not in ("main", "article", "span")]
    found += [node for node in body.css(_MENUS) if _is_menu(node)]
    found += [node for node in body.css("header ul, footer ul, aside ul") if _is_link_list(node)]
    for node in found:
        node.remove()


def _is_menu(node: LexborNode) -> bool:
    """A box that is named like a menu and holds but a few words, no paragraphs."""
    if node.css_first("p, table, h1, h2, h3, pre") is not None:
        return False
    return len(node.text(strip=True)) < 300


def _is_link_list(node: LexborNode) -> bool:
    """A list of five links or more and hardly any other words: languages, sections, friends of the site."""
    links = node.css("a")
    linked = sum(len(link.text(strip=True)) for link in links)
    return len(links) >= 5 and linked > 0.8 * len(node.text(strip=True))


def html_blocks(text: str) -> list[Block]:
    """The blocks of a fragment."""
    return html_content(text)[1]


class _Walk:
    """Text gathers in `line` until a block element begins or ends; lines gather in `lines` while a list is open."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.lines: list[str] = []
        self.lists: list[int | None] = []  # one an open list: the next number, None for bullets
        self.mark = ""

    def blocks(self, root: LexborNode) -> Iterator[Block]:
        yield from self.children(root, 0)
        yield from self.flush()

    def children(self, node: LexborNode, depth: int) -> Iterator[Block]:
        for child in node.iter(include_text=True):
            if child.is_text_node:
                self.line.append(child.text_content or "")
            elif depth > _MAX_DEPTH:
                self.line.append(child.text(separator=" "))
            elif child.tag is not None:
                yield from self.element(child, child.tag, depth + 1)

    def element(self, node: LexborNode, tag: str, depth: int) -> Iterator[Block]:
        if tag in _HEADINGS:
            yield from self.flush()
            yield heading_block(_inline(node.text(separator="")), _HEADINGS[tag])
        elif tag == "br":
            self.line.append("\0")
        elif tag == "sup" and (power := node.text(strip=True)).isdecimal():
            ends_in_digit = bool(self.line) and self.line[-1][-1:].isdecimal()
            self.line.append(f"^{power}" if ends_in_digit else power)  # 10 to the 3rd is not 103
        elif tag in ("pre", "listing", "xmp", "textarea"):
            yield from self.flush()
            yield Block("code", clean(node.text()))
        elif tag == "table":
            self.end_line()
            yield from self.table(node, depth)
        elif tag in ("ul", "ol", "menu", "dir"):
            yield from self.list(node, tag, depth)
        elif tag in _BLOCKS:
            self.end_line()
            if tag == "li" and self.lists:
                self.mark = self.next_mark()
            yield from self.children(node, depth)
            self.end_line()
            if tag == "td":
                self.line.append(" ")
            if not self.lists and tag not in ("dt", "dd"):
                yield from self.flush()
        else:
            yield from self.children(node, depth)

    def list(self, node: LexborNode, tag: str, depth: int) -> Iterator[Block]:
        self.end_line()
        start = (node.attributes.get("start") or "1") if tag == "ol" else None
        self.lists.append(None if start is None else int(start) if start.isdigit() else 1)
        yield from self.children(node, depth)
        self.end_line()
        self.lists.pop()
        if not self.lists:
            yield from self.flush()

    def next_mark(self) -> str:
        number = self.lists[-1]
        if number is None:
            return "- "
        self.lists[-1] = number + 1
        return f"{number}. "

    def end_line(self) -> None:
        text = _inline("".join(self.line))
        self.line = []
        if text:
            indent = "  " * max(0, len(self.lists) - 1)
            self.lines.append(indent + self.mark + text)
            self.mark = ""

    def flush(self) -> Iterator[Block]:
        self.end_line()
        if self.lines:
            yield text_block("\n".join(self.lines))
            self.lines = []

    def table(self, node: LexborNode, depth: int) -> Iterator[Block]:
        rows = [row for row in node.css("tr") if _table_of(row) == node.mem_id]
        cells = [[cell for cell in row.iter() if cell.tag in ("td", "th")] for row in rows]
        if _is_layout(node, cells):
            yield from self.children(node, depth)
            yield from self.flush()
            return
        yield from self.flush()
        if (caption := node.css_first("caption")) is not None and _table_of(caption) == node.mem_id:
            yield text_block(_inline(caption.text()))
        marked = sum(1 for _ in _leading_headers(rows, cells))
        yield from table_blocks(expand(_spans(cells)), marked or None)


def _inline(text: str) -> str:
    """Source line breaks are spaces (nothing between Chinese characters), <br> is a line break."""
    text = _SPACE.sub(" ", _BETWEEN_CJK.sub("", text).replace("\xa0", " "))
    return "\n".join(line for line in (part.strip() for part in text.split("\0")) if line)


def _table_of(node: LexborNode) -> int | None:
    parent = node.parent
    while parent is not None and parent.tag != "table":
        parent = parent.parent
    return parent.mem_id if parent is not None else None


def _is_layout(table: LexborNode, cells: list[list[LexborNode]]) -> bool:
    """Whether a table only places things on the page: then its cells are read one after another."""
    if table.attributes.get("role") == "presentation":
        return True
    if max(map(len, cells), default=0) < 2 or len(cells) < 2:
        return True
    if table.css_first("th, caption, thead") is not None:
        return False
    if table.css_first("h1, h2, h3, form, article, section") is not None:
        return True
    return any(inner.mem_id != table.mem_id for inner in table.css("table"))


def _leading_headers(rows: list[LexborNode], cells: list[list[LexborNode]]) -> Iterator[LexborNode]:
    """The first rows that lie in <thead> or consist of <th> alone; a few <th> further down begin a group of rows."""
    widths = [sum(_span(cell, "colspan") for cell in row) for row in cells]
    for index, (row, row_cells) in enumerate(zip(rows, cells, strict=True)):
        in_head = row.parent is not None and row.parent.tag == "thead"
        all_heads = bool(row_cells) and all(cell.tag == "th" for cell in row_cells)
        if not in_head and not (all_heads and (index == 0 or 2 * widths[index] >= max(widths))):
            return
        yield row


def _spans(cells: list[list[LexborNode]]) -> Iterator[Spans]:
    taken: set[tuple[int, int]] = set()
    for at, row in enumerate(cells):
        column = 0
        for cell in row:
            while (at, column) in taken:
                column += 1
            height, width = _span(cell, "rowspan") or len(cells) - at, _span(cell, "colspan") or 1
            height = min(height, len(cells) - at)
            taken.update((y, x) for y in range(at, at + height) for x in range(column, column + width))
            yield Spans(at, column, height, width, _cell_text(cell))
            column += width


def _span(cell: LexborNode, name: str) -> int:
    value = (cell.attributes.get(name) or "1").strip()
    return min(int(value), 1000) if value.isascii() and value.isdigit() else 1


def _cell_text(cell: LexborNode) -> str:
    """The cell's lines in one; the rows of a table in it end with a semicolon."""
    return " ".join(
        "；".join(block.text.replace(CELL_SEPARATOR, " ").split("\n"))
        if block.kind == "table"
        else block.text.replace("\n", " ")
        for block in _Walk().blocks(cell)
    )
