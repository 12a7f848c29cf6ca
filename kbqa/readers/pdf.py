"""PDF: text with its place on the page, made readable; pages that are pictures go to text recognition."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import pypdfium2 as pdfium  # type: ignore[import-untyped]
import pypdfium2.raw as raw  # type: ignore[import-untyped]

from kbqa.errors import DocumentError
from kbqa.readers import blankfont
from kbqa.readers.content import Content, ReadOptions, clean
from kbqa.readers.glyphs import Glyph, Segment, Table, join_all, segments, written_askew
from kbqa.readers.grid import header_depth, joined_header
from kbqa.readers.image import NEEDS_OCR, can_ocr, ocr
from kbqa.readers.layout import arrange, rows_of
from kbqa.readers.opentables import missing_rulings
from kbqa.readers.paragraphs import Paragraph
from kbqa.readers.pdfium import PageContent, page_content
from kbqa.readers.progress import advance
from kbqa.readers.rulings import Grid, find_grids, header_rows, spans
from kbqa.readers.structure import (
    OutlineEntry,
    Page,
    blocks_of,
    is_page_number,
    running_heads,
    sensible_title,
)
from kbqa.types import Block

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_pdf"]

_DPI = 200  # for recognition; more is slower and no better on printed type
_MAX_PIXELS = 20_000_000  # of a rendered page
_MAX_PAGES = 20_000
_SCAN = 0.5  # of the page under pictures, with next to no text: a scan
_FEW = 40  # characters of a stamp, a page number or a scanner's advertisement
_GARBAGE = 0.3  # of the characters without meaning: the text layer is useless
_DRAWN = 100  # shapes on a page without text: its letters may have been turned into outlines


@dataclass(slots=True)
class _Page:
    number: int
    height: float
    main: list[Segment]  # of the direction in which most is written, tables included
    others: list[list[Segment]]  # text in other directions, such as along the edge
    askew: Sequence[str] = ()  # words on slanting lines: watermarks
    picture: bool = False  # needs recognition
    damaged: bool = False


def read_pdf(data: bytes, options: ReadOptions) -> Content:
    """The document in `data`, every block with its page, counted from 1.

    Raises DocumentError: encrypted, corrupt, needs-ocr, too-large, empty.
    """
    pdf = _open(data)
    try:
        return _read(pdf, options)
    finally:
        pdf.close()


def _open(data: bytes) -> pdfium.PdfDocument:
    blankfont.install()
    try:
        pdf = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            raise DocumentError("is protected by a password; save a copy without one", "encrypted") from error
        if error.err_code == raw.FPDF_ERR_SECURITY:
            raise DocumentError(
                "is protected in a way that cannot be opened; save an open copy", "encrypted"
            ) from error
        raise DocumentError("is damaged or no PDF at all; export or download it again", "corrupt") from error
    if not 0 < len(pdf) <= _MAX_PAGES:
        problem, kind = (f"{len(pdf):,} pages are more than {_MAX_PAGES:,}", "too-large") if len(pdf) else ("", "")
        pdf.close()
        raise DocumentError(problem or "has no pages: it is damaged or empty", kind or "corrupt")
    return pdf


def _read(pdf: pdfium.PdfDocument, options: ReadOptions) -> Content:
    forms = pdf.get_formtype() != raw.FORMTYPE_NONE
    pages, characters = [], 0
    for number in range(1, len(pdf) + 1):
        page = _page(pdf, number, forms)
        characters += sum(len(segment.text) for segment in page.main)
        if characters > options.max_characters:
            raise DocumentError(f"more than {options.max_characters:,} characters of text", kind="too-large")
        pages.append(page)
    if all(page.damaged for page in pages):
        raise DocumentError("none of its pages can be read: it is damaged", kind="corrupt")
    warnings = _recognise(pdf, pages, options)
    if damaged := [page.number for page in pages if page.damaged]:
        warnings.append(f"{_numbers(damaged, 'damaged', 'damaged')} and not read")
    if attached := pdf.count_attachments():
        warnings.append(f"{attached} attached file{'s' if attached > 1 else ''} not read")
    blocks = blocks_of(_ordered(pages), _outline(pdf))
    metadata = pdf.get_metadata_dict(skip_empty=True)
    return Content(
        title=sensible_title(clean(metadata.get("Title", ""))) or _first_heading(blocks),
        blocks=tuple(blocks),
        pages=len(pdf),
        warnings=tuple(warnings),
        metadata=_metadata(metadata),
    )


def _metadata(found: Mapping[str, str]) -> dict[str, str | int | float | bool]:
    names = {"Author": "author", "Subject": "subject", "Keywords": "keywords"}
    kept: dict[str, str | int | float | bool] = {}
    for key, name in names.items():
        value = clean(found.get(key, "")).strip()
        if value and value not in ("(anonymous)", "(unspecified)"):
            kept[name] = value
    if created := re.match(r"(?:D:)?(\d{4})(\d\d)(\d\d)", found.get("CreationDate", "")):
        kept["created"] = "-".join(created.groups())
    return kept


def _first_heading(blocks: Iterable[Block]) -> str:
    """The outermost of the headings on the first two pages."""
    headings = [block for block in blocks if block.kind == "heading" and (block.page or 0) <= 2]
    headings = [block for block in headings if sensible_title(block.text)]
    best = min(headings, key=lambda block: block.level, default=None)
    return best.text[:200] if best else ""


def _numbers(pages: Sequence[int], one: str, many: str) -> str:
    """[3, 4, 5, 9] -> "pages 3-5, 9 are {many}" """
    runs = [[page for _, page in run] for _, run in groupby(enumerate(pages), lambda pair: pair[1] - pair[0])]
    named = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"page {named} is {one}" if len(pages) == 1 else f"pages {named} are {many}"


# --- one page --------------------------------------------------------------------------------------------------------


def _page(pdf: pdfium.PdfDocument, number: int, forms: bool) -> _Page:
    try:
        page = pdf[number - 1]
        if forms and raw.FPDFPage_Flatten(page.raw, raw.FLAT_NORMALDISPLAY) == raw.FLATTEN_SUCCESS:
            page.close()  # what was typed into form fields is part of the page from now on, once it is loaded again
            page = pdf[number - 1]
        content = page_content(page)
        page.close()
    except pdfium.PdfiumError:
        return _Page(number, 0.0, [], [], damaged=True)
    useless = content.garbage > _GARBAGE * content.characters
    readable = content.characters - content.garbage
    picture = (
        (useless and content.characters > 0)
        or (content.picture_share > _SCAN and readable < _FEW)
        or (not readable and (content.picture_share > 0.01 or content.paths > _DRAWN))
    )
    if useless or not content.glyphs:
        return _Page(number, content.height, [], [], picture=picture)
    main, *others = content.glyphs
    return _Page(
        number,
        content.height,
        _with_tables(main, content),
        [segments(group) for group in others],
        written_askew(content.askew),
        picture,
    )


def _with_tables(glyphs: list[Glyph], content: PageContent) -> list[Segment]:
    """The page's text as segments; a ruled table is one segment in the place where it stands."""
    text = segments(glyphs)
    rulings = [*content.rulings, *missing_rulings(content.rulings, text)]
    grids = [grid for grid in find_grids(rulings) if len(grid.xs) > 2]
    if not grids:
        return text
    free: list[Glyph] = []
    inside: defaultdict[int, list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        x, y = (glyph.x0 + glyph.x1) / 2, (glyph.top + glyph.bottom) / 2
        # The last of those that hold the point is the innermost: grids come top down.
        owner = max((n for n, grid in enumerate(grids) if grid.cell_at(x, y) is not None), default=-1)
        if owner < 0:
            free.append(glyph)
        else:
            inside[owner].append(glyph)
    tables: list[Segment] = []
    for owner, group in inside.items():
        table = _table(grids[owner], group)
        if table:
            x0, top, x1, bottom = grids[owner].box
            tables.append(Segment("", x0, top, x1, bottom, group[0].style.size, order=group[0].order, table=table))
        else:
            free += group
    free.sort(key=lambda glyph: glyph.order)
    return segments(free) + tables


def _table(grid: Grid, glyphs: list[Glyph]) -> Table | None:
    """None when fewer than two columns hold text: a box drawn around text is no table."""
    by_cell: defaultdict[int, list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        cell = grid.cell_at((glyph.x0 + glyph.x1) / 2, (glyph.top + glyph.bottom) / 2)
        if cell is not None:
            by_cell[cell].append(glyph)
    texts = {cell: _cell_text(group) for cell, group in by_cell.items()}
    rows = _filled(grid, texts, 0)
    if len({column for row in rows for column, text in enumerate(row) if text}) < 2:
        return None
    header = 0 if any(_is_figure(text) for text in rows[0]) else header_rows(grid)
    titles = 0
    while titles < header and sum(map(bool, rows[titles])) < 2:
        titles += 1
    if header - titles > 1 and rows[titles][0]:  # without a heading over the first column it is the rest of a table
        spread = _filled(grid, texts, header)
        if header_depth(spread[titles:]) >= header - titles:
            rows = [*spread[:titles], joined_header(spread[titles:header]), *spread[header:]]
            header = titles + 1
    _, top, _, bottom = grid.box
    return Table(tuple(tuple(row) for row in rows), header, top, bottom, grid.xs)


def _filled(grid: Grid, texts: Mapping[int, str], header: int) -> list[list[str]]:
    """The rows of the table. Merged cells stand in every row they cover, in the header in every column, too.

    A cell across the whole table stands once.
    """
    height, width = len(grid.ys) - 1, len(grid.xs) - 1
    rows = [[""] * width for _ in range(height)]
    for cell, (row, column, tall, wide) in spans(grid).items():
        for y in range(row, row + tall if wide < width else row + 1):
            for x in range(column, column + wide if y < header and wide < width else column + 1):
                rows[y][x] = texts.get(cell, "")
    return rows


def _is_figure(text: str) -> bool:
    return any(character.isdigit() for character in text) and not any(character.isalpha() for character in text)


def _cell_text(glyphs: list[Glyph]) -> str:
    return join_all(" ".join(segment.text for segment in row) for row in rows_of(segments(glyphs)))


# --- all pages -------------------------------------------------------------------------------------------------------


def _recognise(pdf: pdfium.PdfDocument, pages: list[_Page], options: ReadOptions) -> list[str]:
    """Fills in the pages that are pictures, in place; gives the warnings about those that stay unread."""
    pictures = [page for page in pages if page.picture]
    if not pictures:
        return []
    if options.ocr and can_ocr():
        for page in pictures:
            advance(page.number, len(pages))
            page.main, page.others, page.height = _scanned(pdf, page.number)
        return []
    remedy = NEEDS_OCR if options.ocr else "text recognition is switched off"
    if not any(page.main for page in pages):
        raise DocumentError(f"its pages are images without text; to recognise them: {remedy}", kind="needs-ocr")
    return [f"{_numbers([page.number for page in pictures], 'an image', 'images')} and not read: {remedy}"]


def _scanned(pdf: pdfium.PdfDocument, number: int) -> tuple[list[Segment], list[list[Segment]], float]:
    page = pdf[number - 1]
    width, height = page.get_size()
    scale = min(_DPI / 72, (_MAX_PIXELS / max(width * height, 1.0)) ** 0.5)
    bitmap = page.render(scale=scale, rev_byteorder=True)
    picture = bitmap.to_pil().convert("RGB")
    page.close()
    return ocr(picture, scale), [], height


def _ordered(pages: list[_Page]) -> list[Page]:
    """The pages' items in reading order; of running heads and watermarks the first is kept, of page numbers none."""
    rows = [rows_of(page.main) for page in pages]
    heads = running_heads(rows, [page.height for page in pages])
    kept: set[str] = set()
    out: list[Page] = []
    for page, page_rows, running in zip(pages, rows, heads, strict=True):
        body = [segment for index, row in enumerate(page_rows) if index not in running for segment in row]
        first: list[Paragraph | Table] = []
        last: list[Paragraph | Table] = []
        for index in sorted(running):
            row = page_rows[index]
            text = "".join(segment.text for segment in row)
            if text not in kept and not is_page_number(row):
                kept.add(text)
                (first if row[0].top < page.height / 2 else last).extend(arrange(row))
        items = [*first, *arrange(body), *last]
        for group in page.others:
            items += (replace(item, size=0.0) for item in arrange(group) if isinstance(item, Paragraph))
        items += (Paragraph(words, 0, 0, 0, 0, size=0, bold=False) for words in page.askew if words not in kept)
        kept.update(page.askew)
        out.append(Page(page.number, items, scanned=page.picture))
    return out


def _outline(pdf: pdfium.PdfDocument) -> list[OutlineEntry]:
    entries = []
    for bookmark in pdf.get_toc(max_depth=6):
        target = bookmark.get_dest()
        index = target.get_index() if target else None
        title = bookmark.get_title()
        if title:
            entries.append(OutlineEntry(title, bookmark.level + 1, None if index is None else index + 1))
        if len(entries) >= 10_000:
            break
    return entries
