"""Where sentences begin and end, in Chinese and in Latin scripts, and where table rows do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kbqa.types import CELL_SEPARATOR

__all__ = ["header_of", "sentence_spans"]

# A sentence ends behind 。！？； and the quotes or brackets that close with it, behind ! and ? unless a Latin letter or
# digit follows at once, and behind . and ; where white space follows. "3.5", "192.168.88.1", "/a?id=3" hold together.
_END = re.compile(
    r"""(?:[!?]*[。！？；…][。！？；!?…]*|[!?]+(?![!?A-Za-z0-9_/=&%]))[”’」』）)\]"']*|[.;]["')\]”’]*(?=\s)"""
)
# What ends with a full stop and seldom ends a sentence, and initials. One that does (「... of Acme Inc.」) is taken for
# the end where a capital letter follows that begins a usual first word.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:(?:inc|ltd|co|corp|llc|plc|gmbh|mr|mrs|ms|dr|prof|st|no|nos|fig|figs|eq|sec|ch|vol|pp?|ed|eds|al"
    r"|vs|etc|approx|dept|est|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|e\.g|i\.e|cf|u\.s|u\.k|a\.m|p\.m)|[a-z])\.$",
    re.IGNORECASE,
)
_BEGINS = re.compile(
    r"\s+(?:(?:The|This|That|These|Those|It|Its|In|On|At|By|For|From|With|As|After|Before|During|He|She|They|We|Our|Their|"
    r"However|Moreover|Additionally|Furthermore|Also|Finally|First|Second|Lastly|Overall|When|While|If|Since|A|An)\b|\n)"
)


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The spans of the sentences of `text[start:end]` in order, without the white space around them.

    A line break ends a sentence; a table row is one, whatever its cells hold. Every character that is not white
    space lies in exactly one span.
    """
    end = len(text) if end is None else end
    spans = []
    for line_start, line_end in _lines(text, start, end):
        at = line_start
        if text.find(CELL_SEPARATOR, line_start, line_end) < 0:
            for match in _END.finditer(text, line_start, line_end):
                if not _abbreviates(text, at, match.end()):
                    spans.append((at, match.end()))
                    at = match.end()
        spans.append((at, line_end))
    return [span for span in (_stripped(text, *span) for span in spans) if span[0] < span[1]]


def header_of(text: str, start: int, preface: str = "") -> str:
    """The header of the table whose row begins at `start`; "" when no row does, or it is the header itself.

    A table is a run of lines with the same number of cells; `preface` is the header of one that begins above `text`.
    """
    cells = _line_at(text, start).count(CELL_SEPARATOR)
    if not cells:
        return ""
    top = start
    while top > 0 and _line_at(text, text.rfind("\n", 0, top - 1) + 1).count(CELL_SEPARATOR) == cells:
        top = text.rfind("\n", 0, top - 1) + 1
    if top == 0 and preface.count(CELL_SEPARATOR) >= cells:
        return preface
    return _line_at(text, top) if top < start else ""


def _abbreviates(text: str, start: int, end: int) -> bool:
    """Whether the full stop before `end` belongs to an abbreviation, and the sentence goes on."""
    if text[end - 1] != ".":
        return False
    return bool(_ABBREVIATION.search(text, max(start, end - 8), end)) and not _BEGINS.match(text, end)


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        yield start, stop
        start = stop + 1


def _line_at(text: str, start: int) -> str:
    stop = text.find("\n", start)
    return text[start : len(text) if stop < 0 else stop]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
