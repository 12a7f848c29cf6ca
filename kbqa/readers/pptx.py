"""PowerPoint slides: one page each, its title a heading, then shapes, groups, tables, charts, SmartArt and notes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

from kbqa.errors import DocumentError
from kbqa.readers.archive import check_markup, open_container
from kbqa.readers.content import Content, ReadOptions, heading_block, one_line, text_block
from kbqa.readers.grid import Spans, expand, table_blocks
from kbqa.readers.markup import Element, attribute, children, descendants, first, name, parse, relations
from kbqa.types import Block

__all__ = ["chart_blocks", "diagram_text", "read_pptx"]

_TITLES = ("title", "ctrTitle")
_MAX_TITLE = 40
_FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")  # placeholders that repeat on every slide


def read_pptx(data: bytes, options: ReadOptions) -> Content:
    with open_container(data, options) as container:
        check_markup(container)
        slides = _slides(container)
        blocks = [block for page, part in enumerate(slides, start=1) for block in _slide(container, part, page)]
    title = next((block.text for block in blocks if block.kind == "heading"), "")
    return Content(title=title, blocks=tuple(blocks), pages=len(slides))


def _slides(container: zipfile.ZipFile) -> list[str]:
    """The parts that hold the slides, in the order of the presentation."""
    main = next((part for kind, part in relations(container, "").values() if kind == "officeDocument"), "")
    if not main:
        raise DocumentError("is damaged: the list of slides is missing", kind="corrupt")
    parts = relations(container, main)
    listed = first(parse(container.read(main)), "sldIdLst")
    # A slide's id element has two attributes called id; the one with a namespace names the relation.
    keys = [
        value for slide in descendants(listed, "sldId") for key, value in slide.attrib.items() if key.endswith("}id")
    ]
    return [parts[key].target for key in keys if key in parts]


def _slide(container: zipfile.ZipFile, part: str, page: int) -> Iterator[Block]:
    tree = first(parse(container.read(part)), "cSld", "spTree")
    shapes = [shape for shape in _shapes(tree) if _placeholder(shape) not in _FURNITURE]
    titles = [shape for shape in shapes if _placeholder(shape) in _TITLES and any(_paragraphs(shape))]
    titles = titles or _set_largest(shapes)
    for shape in titles:
        yield heading_block(" ".join(_paragraphs(shape)), 1, page)
    for shape in shapes:
        if shape not in titles:
            yield from _shape(shape, page)
    for kind, target in relations(container, part).values():
        if kind == "chart":
            yield from chart_blocks(parse(container.read(target)), page)
        elif kind == "diagramData":
            yield text_block(diagram_text(parse(container.read(target))), page)
        elif kind == "notesSlide":
            notes = first(parse(container.read(target)), "cSld", "spTree")
            for shape in _shapes(notes):
                if _placeholder(shape) == "body":
                    yield text_block("\n".join(_paragraphs(shape)), page)


def _set_largest(shapes: list[Element]) -> list[Element]:
    """What serves as title on a slide of text boxes: one short line in larger type than all the others."""
    sizes = {
        index: max(given)
        for index, shape in enumerate(shapes)
        if (given := [int(attribute(run, "sz") or 0) for run in descendants(shape, "rPr")]) and any(_paragraphs(shape))
    }
    largest = [index for index, size in sizes.items() if size and size == max(sizes.values())]
    if len(sizes) < 2 or len(largest) != 1:
        return []
    lines = list(_paragraphs(shapes[largest[0]]))
    return [shapes[largest[0]]] if len(lines) == 1 and 1 < len(lines[0]) <= _MAX_TITLE and "\n" not in lines[0] else []


def _shapes(parent: Element | None) -> Iterator[Element]:
    """Shapes and tables, those inside groups too."""
    for element in parent if parent is not None else ():
        kind = name(element)
        if kind in ("sp", "graphicFrame", "cxnSp"):
            yield element
        elif kind == "grpSp":
            yield from _shapes(element)
        elif kind == "AlternateContent":
            choice = first(element, "Choice")
            yield from _shapes(choice if choice is not None else first(element, "Fallback"))


def _placeholder(shape: Element) -> str:
    """The type of a placeholder, "obj" where it has none, "" for a shape that is no placeholder."""
    for properties in children(shape, "nvSpPr"):
        found = first(properties, "nvPr", "ph")
        return (attribute(found, "type") or "obj") if found is not None else ""
    return ""


def _shape(shape: Element, page: int) -> Iterator[Block]:
    if name(shape) != "graphicFrame":
        yield text_block("\n".join(_paragraphs(shape)), page)
        return
    for table in descendants(shape, "tbl"):
        rows = [list(children(row, "tc")) for row in children(table, "tr")]
        yield from table_blocks(expand(_spans(rows)), page=page)


def _spans(rows: list[list[Element]]) -> Iterator[Spans]:
    """Cells that a merged one covers are there, empty, and marked."""
    for at, row in enumerate(rows):
        for column, cell in enumerate(row):
            if attribute(cell, "hMerge") != "1" and attribute(cell, "vMerge") != "1":
                height, width = int(attribute(cell, "rowSpan") or 1), int(attribute(cell, "gridSpan") or 1)
                yield Spans(at, column, height, width, " ".join(_paragraphs(cell)))


def _paragraphs(shape: Element) -> Iterator[str]:
    for body in shape:
        if name(body) != "txBody":
            continue
        for paragraph in children(body, "p"):
            parts = []
            for run in paragraph:
                if name(run) == "br":
                    parts.append("\n")
                elif name(run) in ("r", "fld", "m", "AlternateContent"):
                    parts += [text.text or "" for text in descendants(run, "t")]
            if text := "".join(parts).strip():
                depth = (
                    int(attribute(properties, "lvl") or 0) if (properties := first(paragraph, "pPr")) is not None else 0
                )
                yield "  " * depth + text


def diagram_text(root: Element) -> str:
    """The words of a SmartArt picture, one a line."""
    return "\n".join(filter(str.strip, (text.text or "" for text in descendants(root, "t"))))


def chart_blocks(root: Element, page: int | None = None) -> Iterator[Block]:
    """The title and the numbers behind a chart, as they were when it was last saved."""
    title = first(root, "chart", "title")
    if title is not None and (text := one_line("".join(part.text or "" for part in descendants(title, "t")))):
        yield text_block(text, page)
    series = list(descendants(root, "ser"))
    if not series:
        return
    names = ["".join(_points(first(one, "tx")).values()) for one in series]
    labels = _points(first(series[0], "cat")) or _points(first(series[0], "xVal"))
    values = [_points(first(one, "val")) or _points(first(one, "yVal")) for one in series]
    indexes = sorted(set(labels).union(*values), key=int)
    rows = [[labels.get(index, ""), *(value.get(index, "") for value in values)] for index in indexes]
    yield from table_blocks([["", *names], *rows], 1, page)


def _points(element: Element | None) -> dict[str, str]:
    """The cached points of a series, by index."""
    points = descendants(element, "pt")
    return {attribute(point, "idx") or "0": "".join(v.text or "" for v in descendants(point, "v")) for point in points}
