"""What a question asks for: the kind of thing that would fill its gap, and the things it pins down by number."""

from __future__ import annotations

import re

from kbqa.analyzer import fold

__all__ = ["gap_fillers", "identifiers", "share_held"]

_YEAR = r"(?:19|20)\d\d"
_SPOKEN = r"[二三四五六七八九十百千万亿两半][一二三四五六七八九十百千万亿零两半点]*|一[二三四五六七八九十百千万亿点]+"
_ONE_OF = r"一(?=[天年日周月元吨米倍成层岁级时分秒])"  # not 一些, 一定, 一系列
_MONTHS = r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
_TIME = re.compile(
    rf"(?:\d+|{_SPOKEN}|一)\s*(?:年|月|日|号|天|周|点|时|小时|分钟|秒|个月|个工作日|世纪)|周[一二三四五六日]|\b{_YEAR}\b"
    rf"|{_MONTHS}|\d+:\d\d|\d+ (?:years?|months?|weeks?|days?|hours?|minutes?|seconds?)\b"
)
# A number that is no date: 2017年 or "in May 2017" does not say how many.
_NUMBER = re.compile(
    rf"(?<![\d.])(?!{_YEAR}(?!\d|[.,]\d|[%万亿元吨]))\d[\d,.]*(?!\s*[年月日号]|\d)|(?:{_SPOKEN}|{_ONE_OF})(?![年月日号]|分之|一)|[百千]分之"
)

# What fills the gap of a question, by its question word: a pattern for the question, one for an answer.
_GAPS: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (
        re.compile(
            r"什么时候|何时|哪一?[年月天日]|几月|几号|日期|时间|多久|多长时间|几点|[几多][少]?[年天周]|几个月|\bwhen\b"
            r"|\b(?:what|which) (?:year|month|date|day|time)\b|\bhow long\b"
        ),
        _TIME,
    ),
    (
        re.compile(
            r"多少(?![年天周])|几[个次位家种名倍项条]|多[大高长远宽重快深]|比例|金额|价格|费用|占比|百分之几|[率量额]是"
            r"|\bhow (?:many|much|large|big|high|far)\b|\b(?:what|which) (?:percentage|amount|number|share|price)\b"
            r"|\bwhat (?:is|was|were|are) the (?:\w+ ){0,3}(?:value|amount|percentage|number|price|cost|revenue|profit"
            r"|flow|equity|assets|liabilities|ratio|rate)\b"
        ),
        _NUMBER,
    ),
    (re.compile(r"电话|热线|号码"), re.compile(r"\d[\d\-]{2,}")),
    (re.compile(r"地址|网址|邮箱|url"), re.compile(r"[\w.\-]+[@./:][\w.\-/]+|[路街号楼室]")),
    (re.compile(r"为什么|为何|原因|\bwhy\b"), re.compile(r"因为|由于|因此|所以|导致|原因|为了|because|due to")),
)

_IDENTIFIER = re.compile(
    r"[a-z]*\d+(?:\.\d+)?[a-z]*|第[一二三四五六七八九十百]+"
    r"|(?<![哪那这每同任某])[一二三四五六七八九十]+(?=季度|级|类|期|章|条|届|代|号)"  # 三类城市; not 哪一类
)


def gap_fillers(question: str) -> list[re.Pattern[str]]:
    """Patterns, for folded text, of what could answer `question`; none when its question word does not tell."""
    folded = fold(question)
    return [filler for asked, filler in _GAPS if asked.search(folded)]


def identifiers(question: str) -> set[str]:
    """Numbers, model names and ordinals, folded: a passage about another one of them does not answer."""
    return set(_IDENTIFIER.findall(fold(question)))


def share_held(pinned: set[str], text: str) -> float:
    """The share of the `identifiers` of a question that stand in `text`; 1 when it has none."""
    return len(pinned & identifiers(text)) / len(pinned) if pinned else 1.0
