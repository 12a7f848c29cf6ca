"""Ranges of numbers in words (满5年不满15年, 50万元以上, 3-5台), and the numbers that a question is about."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kbqa.analyzer import fold
from kbqa.numberwords import value

__all__ = ["Asked", "Range", "asked_amounts", "each_range", "ranges"]

_NUMBER = r"(\d{1,9}(?:\.\d{1,3})?|[一二三四五六七八九十百千两][零一二三四五六七八九十百千两]{0,8})"
_UNIT = (
    r"((?:万|亿|千)?(?:个?月|个工作日|小时|公里|千米|公斤|千克|平方米|[年天日周岁元人名台套件个吨级次分])|%"
    r"|[万亿](?![^\W的以找由要需]))"  # 三十万 without a unit is money
)
_JOIN = r"\s*(?:-|—|~|至|到)+\s*"
_BOUND = re.compile(
    rf"(?P<before>不满|未满|不足|少于|低于|小于|不超过|不高于|不多于|满|超过|大于|高于|多于|不低于|不少于|达到|达|[<>≤≥])?"
    rf"\s*{_NUMBER}\s*{_UNIT}?(?P<behind>\s*\(?(?:不?含|及)?\)?(?:以上|以下|以内|及以上|及以下))?"
)
_SPAN = re.compile(rf"{_NUMBER}\s*{_UNIT}?{_JOIN}{_NUMBER}\s*{_UNIT}")
_UPPER = {"不满", "未满", "不足", "少于", "低于", "小于", "不超过", "不高于", "不多于", "<", "≤"}
_OPEN = {"超过", "大于", "高于", "多于", ">"}  # the number itself does not belong to them
_CLOSED = {"不超过", "不高于", "不多于", "≤"}  # it does
_SIZES = {"万": 10**4, "亿": 10**8, "千": 10**3}


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high` of one unit; `low_in`, `high_in`: whether these belong to it."""

    unit: str
    low: float = -math.inf
    high: float = math.inf
    low_in: bool = True
    high_in: bool = False

    def holds(self, number: float) -> bool:
        above = number > self.low or (self.low_in and number == self.low)
        below = number < self.high or (self.high_in and number == self.high)
        return above and below

    @property
    def tightness(self) -> tuple[float, float]:
        """Of ranges that hold a number, that with the greatest tells of it: 满10年 of 满1年 and 满10年."""
        return -(self.high - self.low), self.low if self.low > -math.inf else -self.high

    def and_(self, other: Range) -> Range:
        """What lies in both."""
        low, high = (self if self.low >= other.low else other), (self if self.high <= other.high else other)
        return Range(self.unit, low.low, high.high, low.low_in, high.high_in)


@dataclass(frozen=True, slots=True)
class Asked:
    """A number of a question: `text` is how it is written there, folded, `before` what stands before it."""

    number: float
    unit: str
    text: str
    before: str


def asked_amounts(question: str) -> list[Asked]:
    """The numbers with units in a question, 「满十五年的员工」: neither years nor ranges of its own (五台以上)."""
    folded = fold(question)
    if _SPAN.search(folded):
        return []
    found = []
    for match in _BOUND.finditer(folded):
        number, unit = _amount(match[2], match[3])
        ranged = match["behind"] or match["before"] in _UPPER | _OPEN
        dated = unit in ("月", "日") or (unit == "年" and number is not None and number >= 1000)
        if number is None or not unit or ranged or dated:
            continue
        text = match[0].removeprefix(match["before"] or "").strip()
        found.append(Asked(number, unit, text, folded[: match.start()].rstrip("满了有已")))
    return found


def ranges(text: str) -> dict[str, Range]:
    """The range of each unit that a cell tells: 「满5年不满15年」 is one of years."""
    found: dict[str, Range] = {}
    for it in each_range(text):
        found[it.unit] = found[it.unit].and_(it) if it.unit in found else it
    return found


def each_range(text: str) -> Iterator[Range]:
    """Those that a text tells, each by itself."""
    folded = fold(text)
    for match in _SPAN.finditer(folded):
        unit = match[2] or match[4]
        low, its = _amount(match[1], unit)
        high, _ = _amount(match[3], match[4])
        if low is not None and high is not None and low < high:
            yield Range(its, low, high, high_in=True)
    for match in _BOUND.finditer(_SPAN.sub(" ", folded)):
        number, unit = _amount(match[2], match[3])
        if number is None or not unit:
            continue
        before, behind = match["before"] or "", match["behind"] or ""
        if before in _UPPER or "以下" in behind or "以内" in behind:
            yield Range(unit, high=number, high_in=before in _CLOSED or "以内" in behind or "及" in behind)
        elif before or "以上" in behind:
            yield Range(unit, low=number, low_in=before not in _OPEN and "不含" not in behind)


def _amount(number: str, unit: str | None) -> tuple[float | None, str]:
    """In units without 万: (500000, 元) of 50万元 and of 50万."""
    unit = f"{unit}元" if unit in ("万", "亿") else unit or ""
    size = _SIZES.get(unit[:1], 1) if len(unit) > 1 and unit not in ("千米", "千克") else 1
    known: float | None = float(number) if number[0].isdigit() else value(number)
    return (None if known is None else known * size), unit[1:] if size > 1 else unit
