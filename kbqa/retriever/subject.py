"""Documents that the question names: 「根据《差旅管理办法》……」, 「蓝天旅游有限公司2021年的营业收入」.

Most passages of a long document do not name its subject, so one about another company that says the same things in
other words often shares more words with the question. A title that stands in the question, whole, tells them apart,
unless it is a word that everybody uses: in a manual of TiDB, a page called "TiDB" is nothing special.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from kbqa.analyzer import fold
from kbqa.types import Chunk

__all__ = ["named", "stands_in", "titles_in", "whole"]

SHORTEST = 2  # characters of a title
LOOKED_AT = 20  # passages of other documents
RARITY = 3  # power: a title that half of them hold counts an eighth


def named(question: str, candidates: Iterable[Chunk]) -> dict[str, float]:
    """title -> how surely the question names the document of that title, in (0, 1]; titles not named are left out.

    `candidates` come best first. A title within a longer one that is named as well (员工手册 in 外包员工手册) is not.
    """
    chunks = list(candidates)
    found = titles_in(question, (chunk.title for chunk in chunks))
    longest = {
        title: folded
        for title, folded in found.items()
        if not any(folded != other and folded in other for other in found.values())
    }
    sure = {
        title: _rarity(folded, [chunk for chunk in chunks if chunk.title != title]) for title, folded in longest.items()
    }
    return {title: rarity for title, rarity in sure.items() if rarity}


def titles_in(question: str, titles: Iterable[str]) -> dict[str, str]:
    """Those that stand in the question, each with what it is folded."""
    question = fold(question)
    folded = {title: _folded(title) for title in dict.fromkeys(titles)}
    return {title: its for title, its in folded.items() if len(its) >= SHORTEST and stands_in(its, question)}


@lru_cache(maxsize=8192)
def _folded(title: str) -> str:
    return fold(title).strip()


def _rarity(title: str, others: Sequence[Chunk]) -> float:
    """1 when no passage of another document holds the title, 0 when all do."""
    looked_at = others[:LOOKED_AT]
    return (1 - sum(title in fold(chunk.text) for chunk in looked_at) / max(1, len(looked_at))) ** RARITY


def stands_in(name: str, text: str) -> bool:
    """Whether the text holds the whole name; both folded."""
    return name in text and whole(name).search(text) is not None


def whole(name: str) -> re.Pattern[str]:
    """Letters and digits must not go on beyond the name: "acme" does not stand in "acmeville", 5% not in 1.5%, 十天 not
    in 二十天."""
    return re.compile(f"{_before(name[0])}{re.escape(name)}{_behind(name[-1])}", re.ASCII)


_NUMERALS = "零〇一二三四五六七八九十百千万亿两"


def _before(first: str) -> str:
    if first in _NUMERALS:
        return f"(?<![{_NUMERALS}])"
    return rf"\b{'(?<![0-9][.,])' if first.isdigit() else ''}" if first.isascii() and first.isalnum() else ""


def _behind(last: str) -> str:
    return rf"\b{'(?![.,][0-9])' if last.isdigit() else ''}" if last.isascii() and last.isalnum() else ""
