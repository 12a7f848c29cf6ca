"""The text of an answer while it grows: which of its sentences are whole, and what does each claim?

A sentence ends where `sentences` says, but not at a semicolon: 「西南大区；9月：560.2」 is one. A line that begins with
| is a row of a Markdown table and is told with the names of its columns.
"""

from __future__ import annotations

import re

from kbqa.sentences import sentence_spans

__all__ = ["Reply"]

_GROWING = re.compile(r"[A-Za-z0-9]+$")  # a word that may go on
_MARKS = re.compile(r"[ \t]*(?:[\[【［]\d+[\]】］])+")  # [1][2] behind the full stop belongs to the sentence before it
_UNFINISHED_MARKS = re.compile(r"[ \t]*(?:[\[【［]\d*[\]】］]?)*")
_NUMBERED = re.compile(r"\(?\d{1,3}[.)]")
_RULE = re.compile(r"[|\s:\-]+")

Span = tuple[int, int]


class Reply:
    """`text` begins with what is no white space; spans are in it, and are never taken back."""

    def __init__(self) -> None:
        self.text = ""
        self._done = 0

    def add(self, piece: str) -> list[Span]:
        """The sentences that are whole now. One is, when something stands behind it: 「3.」 may become 「3.5」."""
        self.text = self.text + piece if self.text else piece.lstrip()
        return self._take(len(self.text) - len(match[0]) if (match := _GROWING.search(self.text)) else len(self.text))

    def end(self) -> list[Span]:
        """The sentences that are left, the last one whole or not."""
        return self._take(None)

    def _take(self, limit: int | None) -> list[Span]:
        taken = []
        while span := self._first(limit):
            self._done = span[1]
            taken.append(span)
        return taken

    def _first(self, limit: int | None) -> Span | None:
        """The next sentence; None when there is none, or it may not be whole in the text up to `limit`."""
        spans = sentence_spans(self.text, self._done, limit)
        if not spans:
            return None
        start, end = spans.pop(0)
        while spans and self._goes_on(start, end, spans[0][0]):
            end = spans.pop(0)[1]
        rest = self.text[end:limit]
        if limit is not None and not spans and "\n" not in rest:
            return None
        if marks := _MARKS.match(self.text, end):
            end = marks.end()
        if limit is not None and _UNFINISHED_MARKS.fullmatch(self.text, end, limit):
            return None
        return start, end

    def _goes_on(self, start: int, end: int, following: int) -> bool:
        """Behind a semicolon, the number of a list (「1. 年假」), and in a row, whatever its cells hold."""
        if "\n" in self.text[end:following]:
            return False
        return (
            self.text[end - 1] in "；;" or self.text[start] == "|" or bool(_NUMBERED.fullmatch(self.text, start, end))
        )

    def claim(self, span: Span) -> str:
        """What the sentence says, to be held against the passages; "" for the head or the rule of a table."""
        text = self.text[slice(*span)]
        if not text.startswith("|"):
            return text
        head = self._head(span[0])
        if not head or _RULE.fullmatch(text):
            return ""
        names, cells = _cells(head), _cells(text)
        if len(names) != len(cells) or len(cells) < 2:
            return ", ".join(cells)
        return ", ".join(
            f"{names[0]} {cells[0]} {name} {cell}" for name, cell in zip(names[1:], cells[1:], strict=True)
        )

    def _head(self, start: int) -> str:
        """The first row of the table in which a row begins at `start`; "" when it is the first itself."""
        rows = self.text[:start].split("\n")
        head = ""
        for row in reversed(rows[:-1]):
            if not row.startswith("|"):
                break
            head = row
        return head


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]
