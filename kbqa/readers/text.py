"""Plain text: the headings that Chinese documents number (第一章, 一、, 1.1), paragraphs, hard-wrapped lines."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby

from kbqa.readers.content import Content, ReadOptions, clean, heading_block, text_block
from kbqa.readers.encoding import decode
from kbqa.readers.grid import table_blocks
from kbqa.types import Block

__all__ = ["drop_bare_headings", "heading_level", "read_txt", "text_blocks"]

_TITLE = 1
_NUMBER = "[0-9０-９一二三四五六七八九十百零〇]+"
_HEADINGS = (  # pattern, level; the title of the document is level 1
    (re.compile(rf"第\s*{_NUMBER}\s*(?:编|篇|部分|卷)(?:[\s　:：].*|$)"), 2),
    (re.compile(rf"第\s*{_NUMBER}\s*章(?!.*[，,])"), 3),
    (re.compile(r"(?:Chapter|CHAPTER|Part|PART|Appendix|APPENDIX)\s+(?:\d+|[IVXLC]+|[A-Z])\b"), 3),
    (re.compile(r"(?:附件|附录|附表)\s*[0-9一二三四五六七八九十A-Z]*(?:[\s　:：.、].*|$)"), 3),
    (re.compile(r"(?:前言|引言|绪论|概述|摘要|目录|结语|结论|参考文献)$"), 3),
    (re.compile(rf"第\s*{_NUMBER}\s*节(?!.*[，,])"), 4),
    (re.compile(r"[一二三四五六七八九十]+[、．]\s*\S"), 5),
    (re.compile(r"[（(][一二三四五六七八九十]+[)）]\s*\S"), 6),
)
_DECIMAL = re.compile(r"\d{1,2}((?:\.\d{1,2}){1,4})\.?[\s　、]+(?=[^\d\s])(?!.*[，,])")
_MAX_HEADING = 40  # characters
_ENDS_SENTENCE = ("。", "；", ";", "，", ",", "！", "!", "？", "?", "…", ".", "、")
_INDENT = ("　", "    ", "\t")


def read_txt(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    title, blocks = text_blocks(text)
    return Content(title=title, blocks=tuple(blocks), warnings=warnings)


def text_blocks(text: str) -> tuple[str, list[Block]]:
    """The title, if the first line reads like one, and the blocks of a plain text."""
    paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", clean(text)) if paragraph.strip()]
    title = _title(paragraphs)
    blocks: list[Block] = []
    for index, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        if index == 0 and title:
            blocks.append(heading_block(title, _TITLE))
            lines = lines[1:]
        blocks += _paragraph(lines)
    return title, list(drop_bare_headings(blocks))


def heading_level(line: str) -> int:
    """The level of a line that numbers itself as a heading, 0 for any other."""
    line = line.strip()
    if not line or len(line) > _MAX_HEADING or line.endswith(_ENDS_SENTENCE):
        return 0
    if decimal := _DECIMAL.match(line):
        return 3 + decimal.group(1).count(".")
    return next((level for pattern, level in _HEADINGS if pattern.match(line)), 0)


def drop_bare_headings(blocks: Sequence[Block]) -> Iterator[Block]:
    """Headings with nothing below them become text: a table of contents, or a numbered list of short items."""
    bare: list[str] = []
    for at, block in enumerate(blocks):
        following = blocks[at + 1] if at + 1 < len(blocks) else None
        if block.kind == "heading" and (
            following is None or (following.kind == "heading" and following.level <= block.level)
        ):
            bare.append(block.text)
            continue
        if bare:
            yield text_block("\n".join(bare))
            bare = []
        yield block
    if bare:
        yield text_block("\n".join(bare))


def _title(paragraphs: Sequence[str]) -> str:
    """The first line, when it is short, is no sentence and something follows it."""
    if not paragraphs:
        return ""
    first, *rest = paragraphs[0].split("\n")
    first = first.strip()
    alone = bool(rest) or len(paragraphs) > 1
    named = re.search(r"[:：=|,，\t]|^[-*•●\d]", first) is None
    return first if alone and named and len(first) <= _MAX_HEADING and not first.endswith(_ENDS_SENTENCE) else ""


def _paragraph(lines: Sequence[str]) -> Iterator[Block]:
    """Headings, rows of columns set apart by tabs, and text between them."""
    for kind, run in groupby(lines, _line_kind):
        group = list(run)
        if kind < 0:
            yield from (heading_block(line, heading_level(line)) for line in group)
        elif kind and len(group) > 1:
            yield from table_blocks([line.split("\t") for line in group])
        else:
            yield text_block(_unwrapped(group))


def _line_kind(line: str) -> int:
    """-1 for a heading, the number of tabs for what may be a row of three columns or more, 0 for text."""
    tabs = line.strip().count("\t")
    if heading_level(line):
        return -1
    return tabs if tabs > 1 else 0


def _unwrapped(lines: Sequence[str]) -> str:
    """Lines cut at a fixed width are joined to paragraphs again; other line breaks stay.

    Cut lines are about equally long and do not end where a sentence ends.
    """
    widths = [_width(line) for line in lines[:-1]]
    longest = max(widths, default=0)
    if len(lines) < 3 or longest < 50 or sum(width > 0.8 * longest for width in widths) < 0.8 * len(widths):
        return "\n".join(lines)
    if sum(line.rstrip().endswith(_ENDS_SENTENCE) for line in lines[:-1]) > 0.5 * len(widths):
        return "\n".join(lines)
    joined = [lines[0]]
    for line, width in zip(lines[1:], widths, strict=True):
        if line.startswith(_INDENT) or width < 0.7 * longest:
            joined.append(line)
        else:
            latin = joined[-1][-1:].isascii() or line.lstrip()[:1].isascii()
            joined[-1] += (" " if latin else "") + line.lstrip()
    return "\n".join(joined)


def _width(line: str) -> int:
    """Columns on a screen: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)
