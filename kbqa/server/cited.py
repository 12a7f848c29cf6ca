"""An answer as one text, for clients that see nothing else: markers behind sentences, and what they stand for below.

工作满一年的员工每年享有10天年假。[1]

来源：
- [1] 员工手册.docx · 第3页 · 第三章 > 年假
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kbqa.fields import DOUBTED
from kbqa.server.service import Part
from kbqa.types import Answer, Citation, Piece, Sentence

__all__ = ["Cited", "plain", "whole_text"]

SOURCES = "\n\n来源：\n- [1] "
_NO_INDEX = r"(?<![A-Za-z0-9_)\]】］])"  # rows[1] is none
_OWN_MARKS = re.compile(_NO_INDEX + r"(?:[ \t]*[\[【［]\d+[\]】］])+$")  # which a model puts behind its sentences
_LIKE_OURS = re.compile(_NO_INDEX + r"(?:\[\d+\])+")
_OUR_MARKS = re.compile(r"\[\d+\]")
_WIDEN = str.maketrans("[]", "［］")


class Cited:
    """The text while the answer is written: what `add` returns joins to all of it.

    What looks like a marker in a document or in a model's words gets other brackets: [1] is always one of ours.
    """

    def __init__(self, sources: bool = True) -> None:
        """`sources`: whether the list of them is part of the text."""
        self._sources = sources
        self._text = ""
        self._told = 0  # how much of it
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
                between, self._told = _widened(self._text[self._told : start]), end
                self._citations |= {citation.marker: citation for citation in part.citations}
                return between + _marked(part)
            case Answer():
                return _widened(part.text[self._told :]) + (_sources(self.citations) if self._sources else "")


def whole_text(answer: Answer, sources: bool = True) -> str:
    cited = Cited(sources)
    parts: tuple[Part, ...] = (Piece(answer.text), *answer.sentences, answer)
    return "".join(cited.add(part) for part in parts)


def _marked(sentence: Sentence) -> str:
    text = _widened(_OWN_MARKS.sub("", sentence.text).rstrip())
    marks = "".join(f"[{marker}]" for marker in sentence.markers) + DOUBTED.get(sentence.verdict, "")
    if marks and text.startswith("|") and text.endswith("|"):  # a row of a table: behind it would be a further cell
        return f"{text[:-1].rstrip()} {marks} |"
    return text + marks


def _widened(text: str) -> str:
    return _LIKE_OURS.sub(lambda found: found[0].translate(_WIDEN), text)


def _sources(citations: Sequence[Citation]) -> str:
    if not citations:
        return ""
    return SOURCES.removesuffix("- [1] ") + "\n".join(f"- {_source(citation)}" for citation in citations)


def _source(citation: Citation) -> str:
    page = f"第{citation.page}页" if citation.page is not None else ""
    where = " · ".join(filter(None, (citation.source, page, citation.heading)))
    return f"[{citation.marker}] {' '.join(where.split())}"


def plain(text: str) -> str:
    """An earlier answer without what was added to it here."""
    for mark in DOUBTED.values():
        text = text.replace(mark, "")
    said, found, _ = text.partition(SOURCES)
    return _OUR_MARKS.sub("", said) if found else text
