"""EPUB books and RTF."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from kbqa.errors import DocumentError
from kbqa.readers.archive import open_container
from kbqa.readers.content import Content, ReadOptions, clean, heading_block, one_line
from kbqa.readers.encoding import decode
from kbqa.readers.grid import table_blocks
from kbqa.readers.html import html_content
from kbqa.readers.markup import Element, attribute, children, descendants, first, parse
from kbqa.readers.text import text_blocks
from kbqa.types import Block

__all__ = ["read_epub", "read_rtf"]


def read_epub(data: bytes, options: ReadOptions) -> Content:
    """The chapters in the order of the spine."""
    with open_container(data, options) as container:
        if "META-INF/encryption.xml" in container.namelist() and "META-INF/rights.xml" in container.namelist():
            raise DocumentError("is protected by DRM; get a copy without it", kind="encrypted")
        package = _package(container)
        root = _parse(container, package)
        title = next((one_line(element.text or "") for element in descendants(root, "title")), "")
        blocks: list[Block] = []
        for part in _spine(container, root, dirname(package)):
            blocks += _chapter(container.read(part))
    return Content(title=title, blocks=tuple(blocks))


def _parse(container: zipfile.ZipFile, part: str) -> Element:
    data = container.read(part)
    if b"<!ENTITY" in data:
        raise DocumentError(f"its part {part} declares XML entities; refused as an XML bomb", kind="bomb")
    return parse(data)


def _package(container: zipfile.ZipFile) -> str:
    members = container.namelist()
    if "META-INF/container.xml" in members:
        for element in descendants(_parse(container, "META-INF/container.xml"), "rootfile"):
            if (path := attribute(element, "full-path")) in members:
                return path or ""
    found = next((member for member in members if member.endswith(".opf")), None)
    if found is None:
        raise DocumentError("is damaged: the book's list of chapters (.opf) is missing", kind="corrupt")
    return found


def _spine(container: zipfile.ZipFile, root: Element, folder: str) -> Iterator[str]:
    members = set(container.namelist())
    manifest = {item.get("id"): item for item in children(first(root, "manifest"), "item")}
    for reference in children(first(root, "spine"), "itemref"):
        item = manifest.get(reference.get("idref"))
        if item is None or "nav" in (item.get("properties") or "").split():
            continue
        path = normpath(join(folder, unquote(item.get("href", "").partition("#")[0])))
        if path in members:
            yield path


def _chapter(data: bytes) -> list[Block]:
    """A chapter that names itself only in its <title> gets that as its heading."""
    title, blocks = html_content(decode(data)[0])
    if title and blocks and not any(block.kind == "heading" for block in blocks[:5]):
        said = one_line(blocks[0].text) == title
        blocks = [heading_block(title, 1), *blocks[said:]]
    return blocks


# --- RTF -------------------------------------------------------------------------------------------------------------

_CODE_PAGE = re.compile(rb"\\ansicpg(\d+)")
_ROW = "|"  # what striprtf puts after each cell


def read_rtf(data: bytes, options: ReadOptions) -> Content:
    from striprtf.striprtf import rtf_to_text

    text = rtf_to_text(data.decode("latin-1"), encoding=_code_page(data), errors="replace")  # type: ignore[no-untyped-call]
    warnings = (f"{text.count(chr(0xFFFD))} characters could not be decoded",) if "\ufffd" in text else ()
    blocks: list[Block] = []
    title = ""
    for is_table, lines in _runs(clean(text).split("\n")):
        if is_table:
            blocks += table_blocks([line.rstrip().removesuffix(_ROW).split(_ROW) for line in lines])
        else:
            found, more = text_blocks("\n".join(lines))
            title = title or (found if not blocks else "")
            blocks += more
    return Content(title=title, blocks=tuple(blocks), warnings=warnings)


def _code_page(data: bytes) -> str:
    found = _CODE_PAGE.search(data[:4096])
    number = int(found.group(1)) if found else 1252
    return {936: "gb18030", 950: "big5hkscs", 65001: "utf-8", 0: "cp1252"}.get(number, f"cp{number}")


def _runs(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Lines of tables and lines of text by turns."""
    run: list[str] = []
    was_table = False
    for line in lines:
        is_table = line.rstrip().endswith(_ROW) and line.count(_ROW) > 1
        if run and is_table != was_table:
            yield was_table, run
            run = []
        run.append(line)
        was_table = is_table
    if run:
        yield was_table, run
