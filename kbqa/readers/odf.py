"""OpenDocument text and presentations (odt, odp). Spreadsheets (ods) are calamine's."""

from __future__ import annotations

from collections.abc import Iterator

from kbqa.errors import DocumentError
from kbqa.readers.archive import check_markup, open_container
from kbqa.readers.content import Content, ReadOptions, heading_block, one_line, text_block
from kbqa.readers.grid import Spans, expand, table_blocks
from kbqa.readers.markup import Element, attribute, children, descendants, first, name, parse
from kbqa.types import Block

__all__ = ["read_odf"]

_SKIPPED = frozenset(
    {"tracked-changes", "sequence-decls", "forms", "table-of-content", "bibliography", "variable-decls"}
)
_MAX_REPEAT = 1000


def read_odf(data: bytes, options: ReadOptions) -> Content:
    with open_container(data, options) as container:
        check_markup(container)
        members = container.namelist()
        if "content.xml" not in members:
            raise DocumentError("is damaged: its content.xml is missing", kind="corrupt")
        if "META-INF/manifest.xml" in members and b"encryption-data" in container.read("META-INF/manifest.xml"):
            raise DocumentError("is protected by a password; save a copy without one", kind="encrypted")
        body = first(parse(container.read("content.xml")), "body")
        meta = first(parse(container.read("meta.xml")), "meta", "title") if "meta.xml" in members else None
    presentation = first(body, "presentation")
    if presentation is not None:
        slides = list(children(presentation, "page"))
        blocks = [block for page, slide in enumerate(slides, start=1) for block in _blocks(slide, page)]
    else:
        blocks = list(_blocks(first(body, "text")))
    title = one_line(meta.text or "") if meta is not None else ""
    if not title:
        title = next((block.text for block in blocks if block.kind == "heading"), "")
    return Content(title=title, blocks=tuple(blocks), pages=len(slides) if presentation is not None else None)


def _blocks(parent: Element | None, page: int | None = None) -> Iterator[Block]:
    for element in parent if parent is not None else ():
        kind = name(element)
        if kind == "h":
            yield heading_block(paragraph_text(element), int(attribute(element, "outline-level") or 1), page)
            yield from _anchored(element, page)
        elif kind == "p":
            yield text_block(paragraph_text(element), page)
            yield from _anchored(element, page)
        elif kind == "list":
            yield text_block("\n".join(_items(element, 0)), page)
        elif kind == "table":
            yield from table_blocks(expand(_spans(list(_rows(element)))), _header_rows(element) or None, page)
        elif kind == "frame" and attribute(element, "class") == "title":
            yield heading_block(" ".join(paragraph_text(p) for p in descendants(element, "p")), 1, page)
        elif kind not in _SKIPPED:
            yield from _blocks(element, page)


def paragraph_text(element: Element) -> str:
    """The text of a paragraph; what is anchored in it (boxes, notes) comes after it."""
    parts = [element.text or ""]
    for child in element:
        kind = name(child)
        if kind == "s":
            parts.append(" " * min(_MAX_REPEAT, int(attribute(child, "c") or 1)))
        elif kind == "tab":
            parts.append("\t")
        elif kind == "line-break":
            parts.append("\n")
        elif kind not in ("note", "annotation", "frame", "custom-shape", "bookmark"):
            parts.append(paragraph_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _anchored(paragraph: Element, page: int | None) -> Iterator[Block]:
    for element in paragraph.iter():
        kind = name(element)
        if kind in ("note", "annotation"):
            body = first(element, "note-body") if kind == "note" else element
            words = " ".join(paragraph_text(p) for p in descendants(body, "p"))
            yield text_block(("注：" if kind == "note" else "批注：") + one_line(words), page)
        elif kind in ("text-box", "custom-shape"):
            yield from _blocks(element, page)


def _items(element: Element, depth: int) -> Iterator[str]:
    for item in element:
        for child in item:
            if name(child) == "list":
                yield from _items(child, depth + 1)
            elif name(child) in ("p", "h") and (text := paragraph_text(child).strip()):
                yield "  " * depth + "- " + text


def _rows(table: Element) -> Iterator[Element]:
    for element in table:
        if name(element) == "table-row":
            yield element
        elif name(element) in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _rows(element)


def _header_rows(table: Element) -> int:
    return sum(1 for header in children(table, "table-header-rows") for _ in children(header, "table-row"))


def _spans(rows: list[Element]) -> Iterator[Spans]:
    """Covered cells are there and marked; equal neighbours may be stored once with a count."""
    for at, row in enumerate(rows):
        column = 0
        for cell in row:
            repeat = min(_MAX_REPEAT, int(attribute(cell, "number-columns-repeated") or 1))
            if name(cell) == "table-cell":
                text = " ".join(filter(None, (paragraph_text(p).strip() for p in descendants(cell, "p"))))
                height = int(attribute(cell, "number-rows-spanned") or 1)
                width = int(attribute(cell, "number-columns-spanned") or 1)
                for copy in range(repeat if text else 0):
                    yield Spans(at, column + copy, height, width, text)
            column += repeat
