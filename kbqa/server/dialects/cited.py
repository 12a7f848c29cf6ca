"""An answer as one text, for clients that see nothing else: markers behind sentences, and what they stand for below.

工作满一年的员工每年享有10天年假。[1]

来源：
- [1] 员工手册.docx · 第3页 · 第三章 > 年假
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kbqa.fields import DOUBTED, without_markers
from kbqa.server.service import Part
from kbqa.types import Answer, Citation, Piece, Sentence

__all__ = ["Cited", "plain", "whole_text"]

SOURCES = "\n\n来源：\n- [1] "
_NO_INDEX = r"(?<![A-Za-z0-9_)\]】］])"  # rows[1] is none
_OWN_MARKS = re.compile(_NO_INDEX + r"(?:[ \t]*[\[【［]\d+[\]】］])+$")  # which a model puts behind its sentences
_OUR_MARKS = re.compile(r"\[\d+\]")


class Cited:
    """The text while the answer is written: what `add` returns joins to all of it.

    What looks like a marker in a document or in a model's words gets other brackets: [1] is always one of ours. Clients
    that show such text as Markdown load no pictures by it, and our markers lead nowhere: see `_tamed` and `_apart`.
    """

    def __init__(self, sources: bool = True) -> None:
        """`sources`: whether the list of them is part of the text."""
        self._sources = sources
        self._text = ""
        self._told = 0  # how much of it
        self._behind_mark = False  # whether the last that was told is one
        self._citations: dict[int, Citation] = {}

    @property
    def citations(self) -> list[Citation]:
        """Those that have been told, by their numbers."""
        return [self._citations[marker] for marker in sorted(self._citations)]

    def add(self, part: Part) -> str:
        """A sentence is told once it has been checked, what belongs to none with the next one."""
        match part:
            case Piece():
                self._text = self._text + part.text if self._text else part.text.lstrip()
                return ""
            case Sentence():
                start, end = part.span
                between, self._told = _tamed(self._text[self._told : start]), end
                self._citations |= {citation.marker: citation for citation in part.citations}
                return self._apart(between + _marked(part), bool(_marks(part)))
            case Answer():
                rest = self._apart(_tamed(part.text[self._told :]), False)
                return rest + (_sources(self.citations) if self._sources else "")

    def _apart(self, text: str, marked: bool) -> str:
        """`text` (a mark at its end or not), for behind what was told: `[1]` with `(http://...)` would be a link."""
        gap = " " if self._behind_mark and text.startswith(("(", "[")) else ""
        self._behind_mark = marked or (self._behind_mark and not text)
        return gap + text


def whole_text(answer: Answer, sources: bool = True) -> str:
    cited = Cited(sources)
    parts: tuple[Part, ...] = (Piece(answer.text), *answer.sentences, answer)
    return "".join(cited.add(part) for part in parts)


def _marked(sentence: Sentence) -> str:
    text = _tamed(_OWN_MARKS.sub("", sentence.text).rstrip())
    marks = _marks(sentence)
    if marks and text.startswith("|") and text.endswith("|"):  # a row of a table: behind it would be a further cell
        return f"{text[:-1].rstrip()} {marks} |"
    return text + (" " if marks and text.endswith("!") else "") + marks  # `![1]` is how a picture begins


def _marks(sentence: Sentence) -> str:
    return "".join(f"[{marker}]" for marker in sentence.markers) + DOUBTED.get(sentence.verdict, "")


def _tamed(text: str) -> str:
    """Text of a document or a model. A picture in it would be loaded from wherever its writer says; a link is not."""
    return without_markers(text).replace("![", "! [")


def _sources(citations: Sequence[Citation]) -> str:
    if not citations:
        return ""
    return SOURCES.removesuffix("- [1] ") + "\n".join(f"- {_source(citation)}" for citation in citations)


def _source(citation: Citation) -> str:
    page = f"第{citation.page}页" if citation.page is not None else ""
    where = " · ".join(filter(None, (_tamed(citation.source), page, _tamed(citation.heading))))
    return f"[{citation.marker}] {' '.join(where.split())}"


def plain(text: str) -> str:
    """An earlier answer without what was added to it here."""
    for mark in DOUBTED.values():
        text = text.replace(mark, "")
    said, found, _ = text.partition(SOURCES)
    return _OUR_MARKS.sub("", said) if found else text
