"""Word documents, read from their XML: python-docx hides tracked changes, text boxes and nested content from us."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator

from kbqa.errors import DocumentError
from kbqa.readers.archive import check_markup, open_container
from kbqa.readers.content import Content, ReadOptions, clean, heading_block, one_line, text_block
from kbqa.readers.grid import Spans, expand, table_blocks
from kbqa.readers.markup import Element, attribute, children, descendants, first, name, parse, relations
from kbqa.readers.numbering import Numbering
from kbqa.readers.pptx import chart_blocks, diagram_text
from kbqa.readers.text import drop_bare_headings, heading_level
from kbqa.types import Block

__all__ = ["read_docx"]

_SKIPPED = frozenset(
    {"del", "moveFrom", "instrText", "delText", "rt", "pPr", "rPr", "Fallback", "proofErr", "posOffset"}
)
_HEADING_NAME = re.compile(r"(?:heading|标题|標題|überschrift|titre)\s*([1-9])", re.IGNORECASE)
_TITLE_NAME = re.compile(r"title|标题|標題|文档标题", re.IGNORECASE)
_CONTENTS_NAME = re.compile(r"(?:toc|目录|目錄)\s*\d", re.IGNORECASE)
_PAGE_NUMBER = re.compile(r"[\s\d\-–—/第页共頁of|Pp.age]*")
_RAISED = "\0"  # stands before the digits of a superscript until their line is known
_POWER = re.compile(f"(?<=\\d){_RAISED}(?=\\d)")
_MAX_TITLE = 60


def read_docx(data: bytes, options: ReadOptions) -> Content:
    with open_container(data, options) as container:
        check_markup(container)
        part = _main_part(container)
        return _Docx(container, part).content()


def _main_part(container: zipfile.ZipFile) -> str:
    for relation in relations(container, "").values():
        if relation.kind == "officeDocument":
            return relation.target
    if "word/document.xml" in container.namelist():
        return "word/document.xml"
    raise DocumentError("is damaged: the main text of the document is missing", kind="corrupt")


class _Styles:
    """What the paragraph styles mean to a reader: the heading level and the list they belong to."""

    def __init__(self, root: Element | None) -> None:
        self._styles = {attribute(style, "styleId") or "": style for style in children(root, "style")}

    def _chain(self, style_id: str | None) -> Iterator[Element]:
        seen: set[str] = set()
        while style_id and style_id in self._styles and style_id not in seen:
            seen.add(style_id)
            style = self._styles[style_id]
            yield style
            style_id = _value(style, "basedOn")

    def is_title(self, style_id: str | None) -> bool:
        return any(_TITLE_NAME.fullmatch((_value(style, "name") or "").strip()) for style in self._chain(style_id))

    def level(self, style_id: str | None) -> int:
        """1 is the outermost, 0 no heading. A derived style is what its base is, unless it says otherwise."""
        for style in self._chain(style_id):
            if found := _HEADING_NAME.fullmatch((_value(style, "name") or "").strip()):
                return int(found.group(1))
            outline = first(style, "pPr", "outlineLvl")
            if outline is not None:
                return _outline(outline)
        return 0

    def is_contents(self, style_id: str | None) -> bool:
        """A line of the table of contents: the headings themselves follow."""
        return any(_CONTENTS_NAME.fullmatch((_value(style, "name") or "").strip()) for style in self._chain(style_id))

    def number(self, style_id: str | None) -> Element | None:
        return next((n for style in self._chain(style_id) if (n := first(style, "pPr", "numPr")) is not None), None)


def _value(element: Element | None, child: str) -> str | None:
    found = first(element, child)
    return attribute(found, "val") if found is not None else None


def _outline(element: Element) -> int:
    value = attribute(element, "val") or ""
    return int(value) + 1 if value.isdigit() and int(value) < 9 else 0


class _Docx:
    def __init__(self, container: zipfile.ZipFile, part: str) -> None:
        self.container = container
        self.root = parse(container.read(part))
        self.relations = relations(container, part)
        self.styles = _Styles(self.related("styles"))
        self.numbering = Numbering(self.related("numbering"))
        self.notes = {
            kind: {attribute(note, "id") or "": note for note in children(self.related(f"{kind}s"), kind)}
            for kind in ("footnote", "endnote", "comment")
        }
        self.title = ""
        self.started = False  # whether a paragraph with text has been seen
        self.styled = any(self.styles.level(_value(pr, "pStyle")) for pr in descendants(self.root, "pPr"))

    def related(self, kind: str) -> Element | None:
        part = next((relation.target for relation in self.relations.values() if relation.kind == kind), None)
        return parse(self.container.read(part)) if part else None

    def content(self) -> Content:
        body = list(self.blocks(first(self.root, "body")))
        if not self.styled:
            body = list(drop_bare_headings(body))
        blocks = [*self.margins("header"), *body, *self.drawings(), *self.margins("footer")]
        title = self.title or (body[0].text if body and body[0].kind == "heading" else "")
        return Content(title=one_line(title), blocks=tuple(blocks))

    def margins(self, kind: str) -> Iterator[Block]:
        """The text of headers or footers, each once, page numbers left out."""
        seen = set()
        for relation in self.relations.values():
            if relation.kind == kind:
                text = "\n".join(block.text for block in self.blocks(parse(self.container.read(relation.target))))
                if text not in seen and not _PAGE_NUMBER.fullmatch(text):
                    seen.add(text)
                    yield text_block(text)

    def drawings(self) -> Iterator[Block]:
        """SmartArt and charts keep their words and numbers in parts of their own."""
        for relation in self.relations.values():
            if relation.kind == "diagramData":
                yield text_block(diagram_text(parse(self.container.read(relation.target))))
            elif relation.kind == "chart":
                yield from chart_blocks(parse(self.container.read(relation.target)))

    def blocks(self, parent: Element | None) -> Iterator[Block]:
        """Paragraphs and tables in order; the items of a list gather in one block."""
        items: list[str] = []
        for element in _body_elements(parent):
            found = list(self.paragraph(element)) if name(element) == "p" else list(self.table(element))
            is_item = len(found) == 1 and found[0].kind == "text" and self.number(element) is not None
            if is_item:
                items.append(found[0].text)
                continue
            if items:
                yield text_block("\n".join(items))
                items = []
            yield from found
        if items:
            yield text_block("\n".join(items))

    def number(self, paragraph: Element) -> Element | None:
        number = first(paragraph, "pPr", "numPr")
        return number if number is not None else self.styles.number(_value(first(paragraph, "pPr"), "pStyle"))

    def paragraph(self, element: Element) -> Iterator[Block]:
        boxes: list[Element] = []
        marks: list[tuple[str, str]] = []
        text = _line(_run_text(element, boxes, marks)) or _line(_run_text(element, [], [], struck=True))
        if text.strip() and not self.styles.is_contents(_value(first(element, "pPr"), "pStyle")):
            yield self.paragraph_block(element, text)
        for kind, number in marks:
            note = " ".join(block.text for block in self.blocks(self.notes[kind].get(number)))
            if note.strip():
                yield text_block(("批注：" if kind == "comment" else "注：") + one_line(note))
        for box in boxes:
            yield from self.blocks(box)

    def paragraph_block(self, element: Element, text: str) -> Block:
        properties = first(element, "pPr")
        style = _value(properties, "pStyle")
        outline = first(properties, "outlineLvl")
        level = _outline(outline) if outline is not None else self.styles.level(style)
        if not level and not self.styled:
            level = heading_level(text)
        number = self.number(element)
        if number is not None and (number_id := _value(number, "numId")) not in (None, "0"):
            depth = _value(number, "ilvl") or "0"
            text = self.numbering.next(number_id or "", int(depth)) + text
        if not self.title and len(text) <= _MAX_TITLE and self.is_title(properties, style):
            self.title = text
            level = level or 1
        self.started = True
        return heading_block(text, level) if level and len(text) <= 200 else text_block(text)

    def is_title(self, properties: Element | None, style: str | None) -> bool:
        """A paragraph in the style Title; without styled headings, the first one if it is centred."""
        centred = _value(properties, "jc") == "center"
        return self.styles.is_title(style) or (centred and not self.styled and not self.started)

    def table(self, element: Element) -> Iterator[Block]:
        rows = list(_rows(element))
        cells = [list(_wrapped(row, "tc")) for row in rows]
        if len(cells) == 1 and len(cells[0]) == 1:  # a frame around text
            yield from self.blocks(cells[0][0])
            return
        headers = 0
        while headers < len(rows) - 1 and first(rows[headers], "trPr", "tblHeader") is not None:
            headers += 1
        yield from table_blocks(expand(self.spans(rows, cells)), headers or None)

    def spans(self, rows: list[Element], cells: list[list[Element]]) -> Iterator[Spans]:
        open_cells: dict[int, Spans] = {}  # column -> the cell that vertical merging continues
        for at, (row, row_cells) in enumerate(zip(rows, cells, strict=True)):
            column = int(_value(first(row, "trPr"), "gridBefore") or 0)
            for cell in row_cells:
                properties = first(cell, "tcPr")
                width = int(_value(properties, "gridSpan") or 1)
                merge = first(properties, "vMerge")
                if merge is not None and attribute(merge, "val") != "restart" and column in open_cells:
                    yield open_cells[column]._replace(row=at)
                else:
                    span = Spans(at, column, 1, width, self.cell_text(cell))
                    if merge is not None:
                        open_cells[column] = span
                    else:
                        open_cells.pop(column, None)
                    yield span
                column += width

    def cell_text(self, cell: Element) -> str:
        """The paragraphs of a cell in one line; the rows of a table in it end with a semicolon."""
        parts = []
        for block in self.blocks(cell):
            lines = block.text.split("\n")
            parts.append(
                "；".join(line.replace(" | ", " ") for line in lines) if block.kind == "table" else " ".join(lines)
            )
        return " ".join(parts)


def _body_elements(parent: Element | None) -> Iterator[Element]:
    """Paragraphs and tables, also those inside content controls and tracked insertions."""
    for element in parent if parent is not None else ():
        kind = name(element)
        if kind in ("p", "tbl"):
            yield element
        elif kind in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag") and not _is_contents(element):
            yield from _body_elements(element)
        elif kind == "AlternateContent":
            yield from _body_elements(_alternative(element))


def _alternative(element: Element) -> Element | None:
    choice = first(element, "Choice")
    return choice if choice is not None else first(element, "Fallback")


def _rows(table: Element) -> Iterator[Element]:
    for row in _wrapped(table, "tr"):
        if first(row, "trPr", "del") is None:  # a row whose deletion is tracked
            yield row


def _wrapped(parent: Element, wanted: str) -> Iterator[Element]:
    for element in parent:
        if name(element) == wanted:
            yield element
        elif name(element) in ("sdt", "sdtContent", "customXml", "ins", "moveTo"):
            yield from _wrapped(element, wanted)


def _line(parts: Iterator[str]) -> str:
    return clean(_POWER.sub("^", "".join(parts)))


def _run_text(
    element: Element, boxes: list[Element], marks: list[tuple[str, str]], struck: bool = False
) -> Iterator[str]:
    """The text of a paragraph as it stands after all changes; text boxes and notes are put aside.

    Words that are struck out are left out, or with `struck` read like others.
    """
    for child in element:
        kind = name(child)
        if kind == "t":
            yield child.text or ""
        elif kind in ("tab", "ptab"):
            yield "\t"
        elif kind in ("br", "cr"):
            yield "\n"
        elif kind == "noBreakHyphen":
            yield "-"
        elif kind == "txbxContent":
            boxes.append(child)
        elif kind in ("footnoteReference", "endnoteReference", "commentReference"):
            marks.append((kind.removesuffix("Reference"), attribute(child, "id") or ""))
        elif kind == "AlternateContent":
            if (chosen := _alternative(child)) is not None:
                yield from _run_text(chosen, boxes, marks, struck)
        elif kind and kind not in _SKIPPED and (kind != "r" or struck or not _is_struck(child)):
            if kind == "r" and _value(first(child, "rPr"), "vertAlign") == "superscript":
                yield _RAISED
            yield from _run_text(child, boxes, marks, struck)


def _is_struck(run: Element) -> bool:
    marks = [mark for kind in ("strike", "dstrike") for mark in children(first(run, "rPr"), kind)]
    return any(attribute(mark, "val") not in ("0", "false", "off") for mark in marks)


def _is_contents(element: Element) -> bool:
    """Whether a content control holds the table of contents: the headings themselves follow."""
    return (_value(first(element, "sdtPr", "docPartObj"), "docPartGallery") or "") == "Table of Contents"
